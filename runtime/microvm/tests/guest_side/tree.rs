//! The guest's half of a shared tree: the file system as programs use it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{reset, say};

fn mount_tree() {
    fs::create_dir("/mnt").unwrap();
    // SAFETY: NUL-terminated strings and no data.
    let done = unsafe {
        libc::mount(c"hull".as_ptr(), c"/mnt".as_ptr(), c"virtiofs".as_ptr(), 0, std::ptr::null())
    };
    assert_eq!(done, 0, "mount: {}", std::io::Error::last_os_error());
    std::env::set_current_dir("/mnt").unwrap();
}

/// What goes wrong is said in the log, which the host shows.
fn or_say(f: fn()) {
    std::panic::set_hook(Box::new(|info| say(&format!("{info}"))));
    if std::panic::catch_unwind(f).is_err() {
        reset();
    }
}

pub fn use_tree() {
    or_say(|| {
        mount_tree();
        files();
        names();
        owners();
        mapped();
        programs();
        directories();
        locks();
        random_content();
        changes();
        say("all of the tree is right");
    });
}

fn files() {
    assert_eq!(fs::read_to_string("from-host").unwrap(), "host's words");
    let mut file = File::create("from-guest").unwrap();
    file.write_all(b"begin, ").unwrap();
    file.write_all(b"middle").unwrap();
    drop(file);
    let mut file = OpenOptions::new().append(true).open("from-guest").unwrap();
    file.write_all(b", end").unwrap();
    assert_eq!(fs::read("from-guest").unwrap(), b"begin, middle, end");

    let file =
        File::options().read(true).write(true).create(true).truncate(true).open("big").unwrap();
    let block: Vec<u8> =
        (0..3 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    file.write_all_at(&block, 12_345).unwrap();
    let mut back = vec![0; block.len()];
    file.read_exact_at(&mut back, 12_345).unwrap();
    assert!(back == block);
    file.set_len(20_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 20_000);
    // SAFETY: numbers only.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, 1 << 20) };
    assert_eq!((done, file.metadata().unwrap().len()), (0, 1 << 20));
    file.sync_all().unwrap();
    let mut file = file;
    assert_eq!(file.seek(SeekFrom::End(-1)).unwrap(), (1 << 20) - 1);
    assert_eq!(std::io::copy(&mut File::open("from-host").unwrap(), &mut file).unwrap(), 12);

    let deleted =
        File::options().read(true).write(true).create(true).truncate(true).open("gone").unwrap();
    fs::remove_file("gone").unwrap();
    deleted.write_all_at(b"still here", 0).unwrap();
    let mut text = [0; 10];
    deleted.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"still here");
}

fn names() {
    symlink("from-guest", "link").unwrap();
    assert_eq!(fs::read("link").unwrap(), b"begin, middle, end");
    // The guest's own /etc/passwd, which it has none of.
    assert!(fs::read("outside").is_err());
    fs::write("a", "a").unwrap();
    fs::hard_link("a", "hard").unwrap();
    fs::rename("a", "b").unwrap();
    assert!(File::open("a").is_err());
    assert_eq!(fs::metadata("hard").unwrap().ino(), fs::metadata("b").unwrap().ino());
    fs::create_dir_all("d/e/f").unwrap();
    assert!(fs::remove_dir("d").is_err());
    fs::remove_dir_all("d").unwrap();
    assert!(fs::metadata("d").is_err());
    // SAFETY: NUL-terminated strings and buffers with their lengths.
    unsafe {
        let (path, name, mut value) = (c"b".as_ptr(), c"user.hull".as_ptr(), [0u8; 8]);
        assert_eq!(libc::setxattr(path, name, c"value".as_ptr().cast(), 5, 0), 0);
        assert_eq!(libc::getxattr(path, name, value.as_mut_ptr().cast(), 8), 5);
        assert_eq!(&value[..5], b"value");
        let mut stat: libc::statvfs = std::mem::zeroed();
        assert_eq!(libc::statvfs(path, &mut stat), 0);
        assert!(stat.f_blocks > 0);
        let fifo = c"fifo".as_ptr();
        assert_eq!(libc::mkfifo(fifo, 0o600), 0);
    }
    let temporary =
        File::options().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(".").map(drop);
    say(&format!("a file without a name: {temporary:?}"));
}

fn owners() {
    fs::write("changed", "").unwrap();
    chown("changed", Some(7), Some(8)).unwrap();
    fs::set_permissions("changed", fs::Permissions::from_mode(0o4755)).unwrap();
    // SAFETY: numbers only; this thread becomes somebody else and back.
    unsafe {
        fs::set_permissions(".", fs::Permissions::from_mode(0o777)).unwrap();
        libc::setfsgid(1001);
        libc::setfsuid(1000);
        OpenOptions::new().write(true).create_new(true).mode(0o640).open("users").unwrap();
        fs::create_dir("users-own").unwrap();
        assert!(File::open("private").is_err());
        libc::setfsuid(0);
        libc::setfsgid(0);
    }
    assert_eq!(fs::metadata("users-own").unwrap().uid(), 1000);
    // Somebody else's writing takes the set-user-id bit away.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o666).open("suid").unwrap();
    fs::set_permissions("suid", fs::Permissions::from_mode(0o4777)).unwrap();
    file.write_all_at(b"root may", 0).unwrap();
    assert_eq!(fs::metadata("suid").unwrap().mode() & 0o7777, 0o4777);
    std::thread::spawn(move || {
        // SAFETY: numbers only; the raw call is for this thread alone.
        unsafe { libc::syscall(libc::SYS_setresuid, 1000, 1000, 1000) };
        file.write_all_at(b"others", 0).unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(fs::metadata("suid").unwrap().mode() & 0o7777, 0o777);
}

fn mapped() {
    let file =
        File::options().read(true).write(true).create(true).truncate(true).open("mapped").unwrap();
    file.set_len(8192).unwrap();
    // SAFETY: a shared mapping of the file's own length, written within it
    // and unmapped once.
    unsafe {
        let flags = libc::PROT_READ | libc::PROT_WRITE;
        let map =
            libc::mmap(std::ptr::null_mut(), 8192, flags, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(b"mapped".as_ptr(), map.cast(), 6);
        assert_eq!(libc::msync(map, 8192, libc::MS_SYNC), 0);
        libc::munmap(map, 8192);
    }
    let mut text = [0; 6];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"mapped");
}

fn programs() {
    let status = Command::new("/mnt/exit-42").status().unwrap();
    assert_eq!(status.code(), Some(42));
}

fn directories() {
    let names: std::collections::HashSet<_> =
        fs::read_dir("many").unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1500);
    for entry in fs::read_dir("many").unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fs::remove_dir("many").unwrap();
}

/// Many random changes of one file, and of the same bytes in memory.
fn random_content() {
    const MAX: u64 = 300_000;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    let open =
        || File::options().read(true).write(true).create(true).truncate(false).open("random");
    let mut file = open().unwrap();
    let mut model: Vec<u8> = Vec::new();
    for round in 0..500 {
        let (at, len) = (below(MAX), below(40_000) as usize);
        let within = |model: &[u8]| {
            let end = (at as usize + len).min(model.len());
            (at as usize).min(end)..end
        };
        let range = within(&model);
        match below(8) {
            0..=2 => {
                let data: Vec<u8> = (0..len).map(|i| (i as u8) ^ (round as u8)).collect();
                file.write_all_at(&data, at).unwrap();
                model.resize(model.len().max(at as usize + len), 0);
                model[at as usize..at as usize + len].copy_from_slice(&data);
            }
            3 => {
                file.set_len(at).unwrap();
                model.resize(at as usize, 0);
            }
            4 if len > 0 => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                // SAFETY: numbers only.
                let done =
                    unsafe { libc::fallocate(file.as_raw_fd(), mode, at as i64, len as i64) };
                assert_eq!(done, 0, "round {round}");
                model[range.clone()].fill(0);
            }
            5 => file = open().unwrap(),
            6 if !range.is_empty() => {
                let mut copy = File::create("copy").unwrap();
                file.seek(SeekFrom::Start(range.start as u64)).unwrap();
                let mut part = (&file).take(range.len() as u64);
                std::io::copy(&mut part, &mut copy).unwrap();
                assert!(fs::read("copy").unwrap() == model[range.clone()], "round {round}");
            }
            _ => {}
        }
        let range = within(&model);
        let mut back = vec![0; range.len()];
        file.read_exact_at(&mut back, range.start as u64).unwrap();
        assert!(back == model[range], "round {round}");
        assert_eq!(file.metadata().unwrap().len(), model.len() as u64, "round {round}");
    }
    drop_caches();
    assert!(fs::read("random").unwrap() == model);
}

fn locks() {
    let (a, b) = (File::open("b").unwrap(), File::open("b").unwrap());
    // SAFETY: numbers only.
    unsafe {
        assert_eq!(libc::flock(a.as_raw_fd(), libc::LOCK_EX), 0);
        assert_eq!(libc::flock(b.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB), -1);
    }
}

fn changes() {
    assert!(fs::metadata("new-from-host").is_err());
    fs::write("change-please", "").unwrap();
    let start = Instant::now();
    let seen = || {
        fs::metadata("new-from-host").is_ok()
            && fs::read_to_string("from-host").unwrap() == "host's other words"
    };
    while !seen() {
        assert!(start.elapsed() < Duration::from_secs(10), "the host's change is not seen");
        std::thread::sleep(Duration::from_millis(20));
    }
    say(&format!("the host's change took {:?} to be seen", start.elapsed()));
}

/// How much the kernel reads at a time of a file that is read in order.
fn read_ahead(kib: u32) {
    let minor = fs::metadata(".").unwrap().dev() & 0xff;
    fs::write(format!("/sys/class/bdi/0:{minor}/read_ahead_kb"), kib.to_string()).unwrap();
}

fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

fn timed(what: &str, f: impl FnOnce()) {
    let start = Instant::now();
    f();
    say(&format!("{what} took {:.1} ms", start.elapsed().as_secs_f64() * 1e3));
}

pub fn measure_tree() {
    or_say(|| {
        mount_tree();
        let mut block = vec![1u8; 1 << 20];
        timed("100 MiB written", || {
            let mut file = File::create("written").unwrap();
            (0..100).for_each(|_| file.write_all(&block).unwrap());
        });
        timed("4 MiB written, 4 KiB at a time", || {
            let mut file = File::create("pieces").unwrap();
            (0..1024).for_each(|_| file.write_all(&block[..4096]).unwrap());
        });
        drop_caches();
        timed("100 MiB read", || {
            let mut file = File::open("large").unwrap();
            while file.read(&mut block).unwrap() > 0 {}
        });
        for kib in [512, 1024, 128] {
            read_ahead(kib);
            drop_caches();
            timed(&format!("100 MiB read, {kib} KiB ahead,"), || {
                let mut file = File::open("large").unwrap();
                while file.read(&mut block).unwrap() > 0 {}
            });
        }
        timed("100 MiB read again", || {
            let mut file = File::open("large").unwrap();
            while file.read(&mut block).unwrap() > 0 {}
        });
        timed("1000 names listed and stat'ed", || {
            for entry in fs::read_dir("small").unwrap() {
                entry.unwrap().metadata().unwrap();
            }
        });
        drop_caches();
        timed("1000 names stat'ed one by one", || {
            (0..1000)
                .for_each(|i| assert!(fs::metadata(format!("small/file-{i}")).unwrap().is_file()));
        });
        drop_caches();
        let read_all = || {
            (0..1000).for_each(|i| drop(fs::read(format!("small/file-{i}")).unwrap()));
        };
        timed("1000 small files read", read_all);
        timed("1000 small files read again", read_all);
        timed("1000 small files made", || {
            fs::create_dir("made").unwrap();
            (0..1000).for_each(|i| fs::write(format!("made/file-{i}"), &block[..4000]).unwrap());
        });
        timed("1000 small files removed", || fs::remove_dir_all("made").unwrap());
        timed("1000 names not found", || {
            (0..1000).for_each(|i| drop(fs::metadata(format!("small/none-{i}")).unwrap_err()));
        });
        say("all is measured");
    });
}
