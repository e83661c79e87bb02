//! The device's behaviour as a guest sees it, request by request.

mod client;
mod hostile;
mod many;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{
    CopyFileRangeIn, FallocateIn, GetattrIn, GetxattrIn, GetxattrOut, InitIn, InitOut, LinkIn,
    LseekIn, LseekOut, Opcode, OpenOptions, Rename2In, SetattrIn, SetxattrIn, WriteOut,
};
use tempfile::TempDir;
use vm_memory::ByteValued;

use client::{Client, cat, first};

const ROOT: u64 = 1;

fn tree() -> (TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    (dir, client)
}

/// Whether files may be created as others; tests of owners want that.
fn privileged() -> bool {
    // SAFETY: only reads an id.
    unsafe { libc::geteuid() == 0 }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode()
}

#[test]
fn the_handshake_agrees_on_large_requests() {
    let (_dir, mut c) = tree();
    let args = InitIn { major: 7, minor: 38, max_readahead: 1 << 17, flags: !(1 << 30) };
    let reply = c.call(Opcode::Init, 0, args.as_slice(), 128).unwrap();
    let out: InitOut = first(&reply);
    assert_eq!(out.major, 7);
    assert_eq!(out.max_write, 1 << 20);
    assert_eq!(out.max_pages, 256);
    // No locks, no submounts, no write-back, no export by handles.
    for absent in [1 << 1, 1 << 10, 1 << 27, 1 << 16, 1 << 4] {
        assert_eq!(out.flags & absent, 0, "{absent:#x}");
    }
}

#[test]
fn what_is_written_is_read_and_is_on_the_host() {
    let (dir, mut c) = tree();
    let (entry, fh) = c.create(ROOT, "a", libc::O_RDWR, 0o640).unwrap();
    assert_eq!(c.write(entry.nodeid, fh, 0, b"hello world", 0), Ok(11));
    assert_eq!(c.read(entry.nodeid, fh, 6, 100).unwrap(), b"world");
    assert_eq!(c.read(entry.nodeid, fh, 11, 100).unwrap(), b"");
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"hello world");
    assert_eq!(mode(&dir.path().join("a")), libc::S_IFREG | 0o640);
    c.release(Opcode::Release, entry.nodeid, fh).unwrap();
    assert_eq!(c.read(entry.nodeid, fh, 0, 1), Err(libc::EBADF));
}

#[test]
fn files_belong_to_who_makes_them_even_where_he_may_not_write() {
    if !privileged() {
        return;
    }
    let (dir, mut c) = tree();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    c.who = (1234, 5678);
    c.create(ROOT, "file", libc::O_WRONLY, 0o600).unwrap();
    c.mkdir(ROOT, "dir", 0o755).unwrap();
    c.mknod(ROOT, "fifo", libc::S_IFIFO | 0o600).unwrap();
    c.symlink(ROOT, "link", "nowhere").unwrap();
    for name in ["file", "dir", "fifo", "link"] {
        let meta = fs::symlink_metadata(dir.path().join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1234, 5678), "{name}");
    }
    c.who = (0, 0);
    c.create(ROOT, "root's", libc::O_WRONLY, 0o600).unwrap();
    let meta = fs::metadata(dir.path().join("root's")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (0, 0));
}

#[test]
fn a_set_group_id_directory_hands_on_its_group() {
    if !privileged() {
        return;
    }
    let (dir, mut c) = tree();
    let sub = c.mkdir(ROOT, "d", 0o777).unwrap();
    std::os::unix::fs::chown(dir.path().join("d"), None, Some(77)).unwrap();
    fs::set_permissions(dir.path().join("d"), fs::Permissions::from_mode(0o2777)).unwrap();
    c.who = (1000, 1000);
    c.create(sub.nodeid, "f", libc::O_WRONLY, 0o644).unwrap();
    let meta = fs::metadata(dir.path().join("d/f")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (1000, 77));
}

#[test]
fn the_umask_of_the_host_does_not_count() {
    let (dir, mut c) = tree();
    c.mkdir(ROOT, "d", 0o1777).unwrap();
    assert_eq!(mode(&dir.path().join("d")), libc::S_IFDIR | 0o1777);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (_dir, mut c) = tree();
    for name in ["..", ".", "", "a/b", "/etc", "../x"] {
        assert_eq!(c.lookup(ROOT, name).map(|e| e.nodeid), Err(libc::EINVAL), "{name:?}");
        assert_eq!(c.mkdir(ROOT, name, 0o755).map(|e| e.nodeid), Err(libc::EINVAL));
        assert!(c.create(ROOT, name, libc::O_RDWR, 0o600).is_err());
    }
}

#[test]
fn a_symlink_is_a_symlink_and_never_a_way() {
    let (dir, mut c) = tree();
    symlink("/etc", dir.path().join("out")).unwrap();
    let link = c.lookup(ROOT, "out").unwrap();
    assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(c.lookup(link.nodeid, "passwd").map(|e| e.nodeid), Err(libc::ENOTDIR));
    assert_eq!(c.call(Opcode::Readlink, link.nodeid, &[], 4096).unwrap(), b"/etc");
    assert!(c.open(link.nodeid, libc::O_RDONLY).is_err());
    assert!(c.open_dir(link.nodeid).is_err());
    // Not even when it stands where a file is to be created.
    symlink("/tmp/hull-must-not-exist", dir.path().join("new")).unwrap();
    assert!(c.create(ROOT, "new", libc::O_RDWR, 0o600).is_err());
    assert!(!Path::new("/tmp/hull-must-not-exist").exists());
}

#[test]
fn nothing_but_regular_files_is_opened() {
    let (dir, mut c) = tree();
    let fifo = c.mknod(ROOT, "fifo", libc::S_IFIFO | 0o666).unwrap();
    assert_eq!(c.open(fifo.nodeid, libc::O_RDONLY).map(|o| o.fh), Err(libc::ENXIO));
    if privileged()
        && let Ok(null) = c.mknod(ROOT, "null", libc::S_IFCHR | 0o666)
    {
        assert_eq!(null.attr.rdev, 0x103);
        assert_eq!(fs::metadata(dir.path().join("null")).unwrap().rdev(), libc::makedev(1, 3));
        assert_eq!(c.open(null.nodeid, libc::O_RDWR).map(|o| o.fh), Err(libc::ENXIO));
        assert_eq!(c.create(ROOT, "null", libc::O_RDWR, 0o600).map(|o| o.1), Err(libc::ENXIO));
    }
    let sub = c.mkdir(ROOT, "d", 0o755).unwrap();
    assert_eq!(c.open(sub.nodeid, libc::O_RDONLY).map(|o| o.fh), Err(libc::EISDIR));
}

#[test]
fn a_missing_name_is_not_remembered() {
    let (dir, mut c) = tree();
    assert_eq!(c.lookup(ROOT, "later").map(|e| e.nodeid), Err(libc::ENOENT));
    fs::create_dir(dir.path().join("later")).unwrap();
    assert_eq!(c.mkdir(ROOT, "later", 0o755).map(|e| e.nodeid), Err(libc::EEXIST));
    assert_ne!(c.lookup(ROOT, "later").unwrap().nodeid, 0);
}

#[test]
fn creating_what_is_there_opens_it_unless_exclusive() {
    let (dir, mut c) = tree();
    fs::write(dir.path().join("f"), "old").unwrap();
    let (entry, fh) = c.create(ROOT, "f", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(c.read(entry.nodeid, fh, 0, 10).unwrap(), b"old");
    let excl = c.create(ROOT, "f", libc::O_RDWR | libc::O_EXCL, 0o600);
    assert_eq!(excl.map(|e| e.1), Err(libc::EEXIST));
    c.create(ROOT, "f", libc::O_RDWR | libc::O_TRUNC, 0o600).unwrap();
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"");
}

#[test]
fn a_file_stays_itself_when_renamed_or_deleted() {
    let (dir, mut c) = tree();
    let (entry, fh) = c.create(ROOT, "a", libc::O_RDWR, 0o600).unwrap();
    c.write(entry.nodeid, fh, 0, b"data", 0).unwrap();
    let args = Rename2In { newdir: ROOT, flags: libc::RENAME_NOREPLACE, padding: 0 };
    let body = cat(args.as_slice(), &["a", "b"]);
    c.call(Opcode::Rename2, ROOT, &body, 64).unwrap();
    assert!(dir.path().join("b").exists());
    assert_eq!(c.lookup(ROOT, "b").unwrap().nodeid, entry.nodeid);
    c.call(Opcode::Unlink, ROOT, &cat(&[], &["b"]), 64).unwrap();
    assert_eq!(c.read(entry.nodeid, fh, 0, 10).unwrap(), b"data");
    let again = c.open(entry.nodeid, libc::O_RDONLY).unwrap();
    assert_eq!(c.read(entry.nodeid, again.fh, 0, 10).unwrap(), b"data");
}

#[test]
fn a_hard_link_is_the_same_node() {
    let (_dir, mut c) = tree();
    let (entry, _) = c.create(ROOT, "a", libc::O_RDWR, 0o600).unwrap();
    let args = LinkIn { oldnodeid: entry.nodeid };
    let body = cat(args.as_slice(), &["b"]);
    c.call(Opcode::Link, ROOT, &body, 256).unwrap();
    let b = c.lookup(ROOT, "b").unwrap();
    assert_eq!((b.nodeid, b.attr.nlink), (entry.nodeid, 2));
}

#[test]
fn references_given_are_references_taken_back() {
    let (_dir, mut c) = tree();
    let (entry, fh) = c.create(ROOT, "a", libc::O_RDWR, 0o600).unwrap();
    c.lookup(ROOT, "a").unwrap();
    assert_eq!(c.tree.counts(), (2, 1));
    c.release(Opcode::Release, entry.nodeid, fh).unwrap();
    c.forget(entry.nodeid, 1);
    assert_eq!(c.tree.counts(), (2, 0));
    c.forget(entry.nodeid, 1);
    assert_eq!(c.tree.counts(), (1, 0));
    c.forget(ROOT, u64::MAX);
    assert_eq!(c.tree.counts(), (1, 0));
    let attr = c.call(Opcode::Getattr, entry.nodeid, GetattrIn::default().as_slice(), 256);
    assert_eq!(attr, Err(libc::EBADF));
}

/// Names, offsets and node ids of a READDIR or READDIRPLUS reply.
fn entries(reply: &[u8], plus: bool) -> Vec<(String, u64, u64)> {
    let mut list = Vec::new();
    let mut rest = reply;
    while !rest.is_empty() {
        let mut node = 0;
        if plus {
            node = u64::from_ne_bytes(rest[..8].try_into().unwrap());
            rest = &rest[128..];
        }
        let next = u64::from_ne_bytes(rest[8..16].try_into().unwrap());
        let len = u32::from_ne_bytes(rest[16..20].try_into().unwrap()) as usize;
        let name = String::from_utf8(rest[24..24 + len].to_vec()).unwrap();
        list.push((name, next, node));
        rest = &rest[(24 + len).next_multiple_of(8)..];
    }
    list
}

#[test]
fn a_large_directory_is_listed_whole_in_small_pieces() {
    let (dir, mut c) = tree();
    for i in 0..500 {
        fs::write(dir.path().join(format!("file-{i}")), "").unwrap();
    }
    for (op, plus) in [(Opcode::Readdir, false), (Opcode::Readdirplus, true)] {
        let fh = c.open_dir(ROOT).unwrap();
        let (mut names, mut nodes, mut at) = (Vec::new(), Vec::new(), 0);
        loop {
            let reply = c.read_as(op, ROOT, fh, at, 1000).unwrap();
            let list = entries(&reply, plus);
            let Some(last) = list.last() else { break };
            at = last.1;
            nodes.extend(list.iter().map(|e| e.2).filter(|n| *n != 0));
            names.extend(list.into_iter().map(|e| e.0));
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 502, "{op:?}");
        // What did not fit into a piece was not given a reference.
        for node in &nodes {
            c.forget(*node, 1);
        }
        assert_eq!(nodes.len(), if plus { 500 } else { 0 });
        c.release(Opcode::Releasedir, ROOT, fh).unwrap();
        assert_eq!(c.tree.counts(), (1, 0), "{op:?}");
    }
}

#[test]
fn attributes_are_set_one_by_one() {
    let (dir, mut c) = tree();
    let path = dir.path().join("f");
    fs::write(&path, "0123456789").unwrap();
    let node = c.walk("f").nodeid;
    let mut set = |args: SetattrIn| c.call(Opcode::Setattr, node, args.as_slice(), 256);
    set(SetattrIn { valid: 1, mode: 0o4711, ..Default::default() }).unwrap();
    assert_eq!(mode(&path) & 0o7777, 0o4711);
    set(SetattrIn { valid: 8, size: 4, ..Default::default() }).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123");
    set(SetattrIn { valid: 0x20, mtime: 1_000_000_000, mtimensec: 5, ..Default::default() })
        .unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 5));
    if privileged() {
        set(SetattrIn { valid: 2, uid: 42, gid: 43, ..Default::default() }).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (42, 0));
    }
}

#[test]
fn the_owner_of_a_symlink_is_changed_not_of_its_target() {
    if !privileged() {
        return;
    }
    let (dir, mut c) = tree();
    fs::write(dir.path().join("t"), "").unwrap();
    symlink("t", dir.path().join("l")).unwrap();
    let node = c.walk("l").nodeid;
    let args = SetattrIn { valid: 6, uid: 9, gid: 9, ..Default::default() };
    c.call(Opcode::Setattr, node, args.as_slice(), 256).unwrap();
    assert_eq!(fs::symlink_metadata(dir.path().join("l")).unwrap().uid(), 9);
    assert_eq!(fs::metadata(dir.path().join("t")).unwrap().uid(), 0);
}

#[test]
fn set_user_id_is_cleared_when_the_guest_says_so() {
    if !privileged() {
        return;
    }
    let (dir, mut c) = tree();
    let path = dir.path().join("f");
    let (entry, fh) = c.create(ROOT, "f", libc::O_RDWR, 0o755).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    c.write(entry.nodeid, fh, 0, b"x", 0).unwrap();
    assert_eq!(mode(&path) & 0o7777, 0o6755);
    // FUSE_WRITE_KILL_SUIDGID
    c.write(entry.nodeid, fh, 0, b"x", 4).unwrap();
    assert_eq!(mode(&path) & 0o7777, 0o755);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let args = SetattrIn { valid: 8 | 0x800, size: 0, ..Default::default() };
    c.call(Opcode::Setattr, entry.nodeid, args.as_slice(), 256).unwrap();
    assert_eq!(mode(&path) & 0o7777, 0o755);
}

#[test]
fn extended_attributes_of_files_and_directories() {
    let (_dir, mut c) = tree();
    let file = c.create(ROOT, "f", libc::O_RDWR, 0o600).unwrap().0.nodeid;
    let sub = c.mkdir(ROOT, "d", 0o700).unwrap().nodeid;
    for node in [file, sub] {
        let args = SetxattrIn { size: 5, flags: 0 };
        let mut body = cat(args.as_slice(), &["user.hull"]);
        body.extend(b"value");
        match c.call(Opcode::Setxattr, node, &body, 64) {
            // tmpfs of older kernels has none.
            Err(libc::EOPNOTSUPP) => return,
            other => drop(other.unwrap()),
        }
        let get = |size| cat(GetxattrIn { size, padding: 0 }.as_slice(), &["user.hull"]);
        assert_eq!(c.call(Opcode::Getxattr, node, &get(100), 100).unwrap(), b"value");
        let size = c.call(Opcode::Getxattr, node, &get(0), 100).unwrap();
        assert_eq!(first::<GetxattrOut>(&size).size, 5);
        assert_eq!(c.call(Opcode::Getxattr, node, &get(2), 100), Err(libc::ERANGE));
        let list = GetxattrIn { size: 1000, padding: 0 };
        let names = c.call(Opcode::Listxattr, node, list.as_slice(), 1000).unwrap();
        assert!(names.windows(10).any(|w| w == b"user.hull\0"));
        let name = cat(&[], &["user.hull"]);
        c.call(Opcode::Removexattr, node, &name, 64).unwrap();
        assert_eq!(c.call(Opcode::Getxattr, node, &get(100), 100), Err(libc::ENODATA));
    }
}

#[test]
fn holes_are_made_found_and_copied_around() {
    let (dir, mut c) = tree();
    let (a, fa) = c.create(ROOT, "a", libc::O_RDWR, 0o600).unwrap();
    let (b, fb) = c.create(ROOT, "b", libc::O_RDWR, 0o600).unwrap();
    let args = FallocateIn { fh: fa, offset: 0, length: 1 << 20, mode: 0, padding: 0 };
    c.call(Opcode::Fallocate, a.nodeid, args.as_slice(), 64).unwrap();
    c.write(a.nodeid, fa, 0, b"begin", 0).unwrap();
    assert_eq!(fs::metadata(dir.path().join("a")).unwrap().len(), 1 << 20);
    let args = LseekIn { fh: fa, offset: 0, whence: libc::SEEK_DATA as u32, padding: 0 };
    let reply = c.call(Opcode::Lseek, a.nodeid, args.as_slice(), 64).unwrap();
    assert_eq!(first::<LseekOut>(&reply).offset, 0);
    let args = LseekIn { whence: libc::SEEK_SET as u32, ..args };
    assert!(c.call(Opcode::Lseek, a.nodeid, args.as_slice(), 64).is_err());
    let args = CopyFileRangeIn {
        fh_in: fa,
        nodeid_out: b.nodeid,
        fh_out: fb,
        len: 5,
        ..Default::default()
    };
    let reply = c.call(Opcode::CopyFileRange, a.nodeid, args.as_slice(), 64).unwrap();
    assert_eq!(first::<WriteOut>(&reply).size, 5);
    assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"begin");
}

#[test]
fn the_cache_is_kept_while_the_file_is_unchanged() {
    let (dir, mut c) = tree();
    fs::write(dir.path().join("f"), "one").unwrap();
    let node = c.walk("f").nodeid;
    let mut keeps = || {
        let open = c.open(node, libc::O_RDONLY).unwrap();
        open.open_flags & OpenOptions::KEEP_CACHE.bits() != 0
    };
    assert!(!keeps());
    assert!(keeps());
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    let file = fs::File::options().write(true).open(dir.path().join("f")).unwrap();
    file.set_modified(later).unwrap();
    assert!(!keeps());
    assert!(keeps());
}

#[test]
fn appending_goes_to_the_end_the_host_knows() {
    let (dir, mut c) = tree();
    fs::write(dir.path().join("log"), "host\n").unwrap();
    let node = c.walk("log").nodeid;
    let fh = c.open(node, libc::O_WRONLY | libc::O_APPEND).unwrap().fh;
    c.write(node, fh, 0, b"guest\n", 0).unwrap();
    assert_eq!(fs::read(dir.path().join("log")).unwrap(), b"host\nguest\n");
}

#[test]
fn a_file_without_a_name_may_be_given_one() {
    let (dir, mut c) = tree();
    c.who = if privileged() { (5, 6) } else { c.who };
    let (entry, fh) = match c.temporary(ROOT, libc::O_RDWR, 0o600) {
        // Not every file system has them.
        Err(libc::EOPNOTSUPP) => return,
        other => other.unwrap(),
    };
    c.write(entry.nodeid, fh, 0, b"hidden", 0).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let args = LinkIn { oldnodeid: entry.nodeid };
    let body = cat(args.as_slice(), &["named"]);
    c.call(Opcode::Link, ROOT, &body, 256).unwrap();
    assert_eq!(fs::read(dir.path().join("named")).unwrap(), b"hidden");
    assert_eq!(fs::metadata(dir.path().join("named")).unwrap().uid(), c.who.0);
}

#[test]
fn what_is_absent_says_so_once() {
    let (_dir, mut c) = tree();
    for op in [Opcode::Flush, Opcode::Access, Opcode::Getlk, Opcode::Ioctl, Opcode::SetupMapping] {
        assert_eq!(c.call(op, ROOT, &[0; 64], 64), Err(libc::ENOSYS), "{op:?}");
    }
}

#[test]
fn a_mount_below_the_root_is_part_of_the_tree() {
    if !privileged() {
        return;
    }
    let (dir, c) = tree();
    fs::create_dir(dir.path().join("m")).unwrap();
    fs::create_dir(dir.path().join("same")).unwrap();
    let target = std::ffi::CString::new(dir.path().join("m").to_str().unwrap()).unwrap();
    // SAFETY: terminated strings; this thread gets a mount namespace of its
    // own, in which nothing is passed on to others.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let (none, root, tmpfs) = (std::ptr::null(), c"/".as_ptr(), c"tmpfs".as_ptr());
        assert_eq!(libc::mount(none, root, none, private, none.cast()), 0);
        assert_eq!(libc::mount(tmpfs, target.as_ptr(), tmpfs, 0, none.cast()), 0);
    }
    // The tree was opened in the namespace before: open it in this one.
    let mut c = {
        drop(c);
        Client::new(dir.path())
    };
    let (entry, fh) = {
        let m = c.walk("m").nodeid;
        c.create(m, "f", libc::O_RDWR, 0o600).unwrap()
    };
    c.write(entry.nodeid, fh, 0, b"x", 0).unwrap();
    assert_eq!(fs::read(dir.path().join("m/f")).unwrap(), b"x");
    assert_ne!(entry.attr.ino >> 48, 0, "numbers of another device are apart");
    assert_eq!(c.walk("same").attr.ino >> 48, 0);
}
