//! A directory tree shared with the guest: what each side sees of the other.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use microvm::devices::virtio::fs as share;

use super::{Bench, expect_reset, jail, log};

pub const TAG: &str = "hull";

/// x86-64: exit(42).
const EXIT_42: [u8; 12] = [0xb8, 0x3c, 0, 0, 0, 0xbf, 42, 0, 0, 0, 0x0f, 0x05];

/// The smallest static program.
fn program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let mut elf = Vec::new();
    elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for field in [BASE + 0x78, 0x40, 0] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let size = 0x78 + EXIT_42.len() as u64;
    for field in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(EXIT_42);
    elf
}

pub fn shared_tree(bench: &Bench) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at("from-host"), "host's words").unwrap();
    fs::write(at("exit-42"), program()).unwrap();
    fs::set_permissions(at("exit-42"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/etc/passwd", at("outside")).unwrap();
    fs::create_dir(at("many")).unwrap();
    for i in 0..1500 {
        fs::write(at("many").join(format!("file-{i}")), "").unwrap();
    }

    let handle = bench.start_with(
        |_| {},
        vec![share::Config { tag: TAG.into(), root: File::open(dir.path()).unwrap().into() }],
        &jail(),
    );
    // The guest asks for a change and waits until it sees it.
    let start = Instant::now();
    while !at("change-please").exists() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "no word from the guest:\n{}",
            log(&handle)
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::write(at("from-host"), "host's other words").unwrap();
    fs::write(at("new-from-host"), "").unwrap();
    expect_reset(&handle, "all of the tree is right");

    assert_eq!(fs::read(at("from-guest")).unwrap(), b"begin, middle, end");
    let meta = fs::metadata(at("users")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 1001, 0o640));
    let meta = fs::metadata(at("changed")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (7, 8, 0o4755));
    assert_eq!(fs::read_link(at("link")).unwrap().to_str(), Some("from-guest"));
    assert_eq!(fs::metadata(at("hard")).unwrap().nlink(), 2);
    assert_eq!(fs::read(at("mapped")).unwrap()[..6], *b"mapped");
    assert!(!at("gone").exists());
}

/// Prints how long things take; asserts nothing about it.
pub fn tree_speed(bench: &Bench) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("small")).unwrap();
    for i in 0..1000 {
        fs::write(dir.path().join("small").join(format!("file-{i}")), [b'x'; 4000]).unwrap();
    }
    fs::write(dir.path().join("large"), vec![7; 100 << 20]).unwrap();
    let root = File::open(dir.path()).unwrap().into();
    let handle = bench.start_with(
        |config| config.memory = 512 << 20,
        vec![share::Config { tag: TAG.into(), root }],
        &jail(),
    );
    expect_reset(&handle, "all is measured");
    for line in log(&handle).lines().filter(|line| line.contains("took")) {
        println!("    {line}");
    }
}
