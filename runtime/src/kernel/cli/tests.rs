//! The store as its user sees it. Real kernels are used where a directory of
//! unpacked packages is named by `HULL_TEST_KERNEL_TREES`.

use std::fs;
use std::io::Write;

use super::*;

/// A tree like a package's, with a bzImage that holds a tiny ELF file.
fn host() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let boot = dir.path().join("boot");
    fs::create_dir(&boot).unwrap();
    let mut elf = vec![0; 4096];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[16] = 2;
    elf[18] = 62;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&elf).unwrap();
    let packed = packed.finish().unwrap();
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    image[0x300..0x30a].copy_from_slice(b"6.1-test x");
    image[0x24c..0x250].copy_from_slice(&(packed.len() as u32).to_le_bytes());
    image.extend(packed);
    fs::write(boot.join("vmlinuz-6.1-test"), image).unwrap();
    dir
}

fn run(host: &Path, command: Command) -> Result<String, Error> {
    let mut out = Vec::new();
    run_in(&command, &host.join("store"), &host.join("boot"), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn install(host: &Path, source: &Path) -> Result<String, Error> {
    let source = Some(source.to_str().unwrap().to_owned());
    run(host, Command::Install { source })
}

#[test]
fn a_kernel_is_prepared_listed_shown_and_removed() {
    let dir = host();
    let host = dir.path();
    assert_eq!(run(host, Command::List { json: true }).unwrap(), "[]\n");
    let vmlinuz = host.join("boot/vmlinuz-6.1-test");
    let said = install(host, &vmlinuz).unwrap();
    assert!(said.starts_with("6.1-test ("), "{said}");
    let list = run(host, Command::List { json: false }).unwrap();
    assert!(list.contains("vmlinuz-6.1-test"), "{list}");
    let name = || "6.1-test".to_owned();
    let shown = run(host, Command::Show { name: name() }).unwrap();
    assert!(shown.contains("\"intact\": true"), "{shown}");
    run(host, Command::Remove { name: name() }).unwrap();
    let again = run(host, Command::Remove { name: name() });
    assert!(matches!(again, Err(Error::NotPrepared { .. })));
    let left: Vec<_> = fs::read_dir(host.join("store/by-file")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_damaged_file_of_the_store_is_made_anew() {
    let dir = host();
    let host = dir.path();
    let vmlinuz = host.join("boot/vmlinuz-6.1-test");
    install(host, &vmlinuz).unwrap();
    let store = Store::at(&host.join("store"));
    let entry = store.find("6.1-test").unwrap();
    let vmlinux = store.file(&entry, "vmlinux");
    fs::write(&vmlinux, "damaged").unwrap();
    install(host, &vmlinuz).unwrap();
    assert_eq!(fs::metadata(&vmlinux).unwrap().len(), 4096);
    // Truncated, missing, or without its record: likewise.
    fs::remove_file(&vmlinux).unwrap();
    install(host, &vmlinuz).unwrap();
    assert_eq!(fs::metadata(&vmlinux).unwrap().len(), 4096);
    fs::write(store.file(&entry, "kernel.json"), "{").unwrap();
    install(host, &vmlinuz).unwrap();
    assert!(store.find("6.1-test").is_ok());
}

#[test]
fn the_same_kernel_elsewhere_is_not_prepared_twice() {
    let dir = host();
    let host = dir.path();
    let vmlinuz = host.join("boot/vmlinuz-6.1-test");
    fs::copy(&vmlinuz, host.join("boot/copy")).unwrap();
    let store = Store::at(&host.join("store"));
    let mut times = 0;
    for name in ["vmlinuz-6.1-test", "copy", "vmlinuz-6.1-test"] {
        let path = host.join("boot").join(name);
        store.prepared(&path, false, &mut |_| times += 1).unwrap();
    }
    assert_eq!(times, 1);
}

#[test]
fn several_at_once_prepare_once() {
    let dir = host();
    let vmlinuz = dir.path().join("boot/vmlinuz-6.1-test");
    let times = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = Store::at(&dir.path().join("store"));
                let mut notice = |_: &str| {
                    times.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                };
                assert!(store.prepared(&vmlinuz, false, &mut notice).unwrap().is_some());
            });
        }
    });
    assert_eq!(times.into_inner(), 1);
}

#[test]
fn what_is_no_kernel_is_named_with_the_reason() {
    let dir = host();
    let host = dir.path();
    for (name, content, reason) in [
        ("text", &b"#!/bin/sh\n"[..], "neither a vmlinux"),
        ("empty", b"", "neither a vmlinux"),
        ("elf", b"\x7fELF\x01\x01", "not a 64-bit x86"),
    ] {
        let path = host.join(name);
        fs::write(&path, content).unwrap();
        let error = install(host, &path).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(reason), "{error}");
    }
    let error = install(host, &host.join("missing")).unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("No such file"), "{error}");
    let error = install(host, &host.join("boot")).unwrap_err().to_string();
    assert!(error.contains("neither a vmlinux"), "{error}");
    // A kernel of /boot without its modules would boot to nothing.
    let error = run(host, Command::Install { source: None }).unwrap_err().to_string();
    assert!(error.contains("6.1-test") && error.contains("modules"), "{error}");
    // Nothing of it all was left in the store.
    assert_eq!(run(host, Command::List { json: true }).unwrap(), "[]\n");
}

#[test]
fn kernels_of_distributions_are_prepared_with_their_modules() {
    let Some(trees) = std::env::var_os("HULL_TEST_KERNEL_TREES") else {
        return;
    };
    let store = tempfile::tempdir().unwrap();
    for tree in fs::read_dir(trees).unwrap() {
        let boot = tree.unwrap().path().join("boot");
        let Ok(vmlinuz) = host::newest(&boot) else { continue };
        let start = std::time::Instant::now();
        let store = Store::at(store.path());
        let entry = store.prepared(&vmlinuz, true, &mut |_| {}).unwrap().unwrap();
        eprintln!("{}: {:?} in {:?}", entry.release, entry.module_names, start.elapsed());
        assert!(vmlinuz.to_str().unwrap().ends_with(&entry.release));
        assert!(store.content_intact(&entry));
        assert!(entry.module_names.iter().any(|n| n == "virtio_mmio"));
    }
}
