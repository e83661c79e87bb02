//! More files than descriptors, and a guest that outlives its host process.

use std::fs;

use fuse_backend_rs::abi::fuse_abi::{AttrOut, GetattrIn, Opcode, Rename2In};
use vm_memory::ByteValued;

use super::client::{Client, cat, first};
use crate::devices::virtio::fs::inode::StateError;

const ROOT: u64 = 1;
/// Of which files get a quarter before some are closed.
const DESCRIPTORS: usize = 80;

/// 20 directories with 20 files each, all known to the guest; the node ids.
fn known(c: &mut Client) -> Vec<(u64, u64, String)> {
    let mut list = Vec::new();
    for d in 0..20 {
        let dir = c.lookup(ROOT, &format!("d{d}")).unwrap().nodeid;
        for f in 0..20 {
            let name = format!("f{f}");
            list.push((c.lookup(dir, &name).unwrap().nodeid, dir, name));
        }
    }
    list
}

fn tree() -> (tempfile::TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    for d in 0..20 {
        fs::create_dir(dir.path().join(format!("d{d}"))).unwrap();
        for f in 0..20 {
            let path = dir.path().join(format!("d{d}/f{f}"));
            fs::write(path, format!("{d}/{f}")).unwrap();
        }
    }
    let client = Client::with_descriptors(dir.path(), DESCRIPTORS);
    (dir, client)
}

fn size(c: &mut Client, node: u64) -> Result<u64, i32> {
    let reply = c.call(Opcode::Getattr, node, GetattrIn::default().as_slice(), 256)?;
    Ok(first::<AttrOut>(&reply).attr.size)
}

#[test]
fn a_guest_may_know_more_files_than_there_are_descriptors() {
    let (_dir, mut c) = tree();
    let list = known(&mut c);
    assert_eq!(c.tree.counts().0, 1 + 20 + 400);
    assert!(c.tree.descriptors() <= DESCRIPTORS / 2);
    for (i, (node, ..)) in list.iter().enumerate() {
        let (d, f) = (i / 20, i % 20);
        assert_eq!(size(&mut c, *node), Ok(format!("{d}/{f}").len() as u64));
        let fh = c.open(*node, libc::O_RDONLY).unwrap().fh;
        assert_eq!(c.read(*node, fh, 0, 10).unwrap(), format!("{d}/{f}").as_bytes());
        c.release(Opcode::Release, *node, fh).unwrap();
    }
    assert!(c.tree.descriptors() <= DESCRIPTORS / 2);
    // The same names are still the same nodes.
    let again = known(&mut c);
    assert_eq!(list, again);
    for (node, ..) in &list {
        c.forget(*node, 2);
    }
    for d in 0..20 {
        let dir = c.lookup(ROOT, &format!("d{d}")).unwrap().nodeid;
        c.forget(dir, 3);
    }
    assert_eq!((c.tree.counts().0, c.tree.descriptors()), (1, 1));
}

#[test]
fn what_the_guest_moves_or_removes_is_not_lost() {
    let (_dir, mut c) = tree();
    let list = known(&mut c);
    // The first ones have been closed since.
    for (node, dir, name) in list.iter().take(10) {
        c.call(Opcode::Unlink, *dir, &cat(&[], &[name]), 64).unwrap();
        assert!(size(&mut c, *node).is_ok(), "{name} after unlink");
    }
    for (i, (node, dir, name)) in list.iter().enumerate().skip(20).take(40) {
        let args = Rename2In { newdir: ROOT, flags: 0, padding: 0 };
        let body = cat(args.as_slice(), &[name, &format!("moved{i}")]);
        c.call(Opcode::Rename2, *dir, &body, 64).unwrap();
        assert!(size(&mut c, *node).is_ok(), "{name} after rename");
    }
    // A directory's files go with it, closed or not.
    let args = Rename2In { newdir: ROOT, flags: 0, padding: 0 };
    let body = cat(args.as_slice(), &["d9", "other"]);
    c.call(Opcode::Rename2, ROOT, &body, 64).unwrap();
    known_rest(&mut c);
    for (node, ..) in list.iter().skip(10) {
        assert!(size(&mut c, *node).is_ok(), "{node}");
    }
}

/// Uses other files until the first ones have been closed again.
fn known_rest(c: &mut Client) {
    for d in 10..20 {
        let dir = c.lookup(ROOT, &format!("d{d}")).unwrap().nodeid;
        for f in 0..20 {
            c.lookup(dir, &format!("f{f}")).unwrap();
        }
    }
}

#[test]
fn what_the_host_takes_away_is_stale_and_not_another_file() {
    let (dir, mut c) = tree();
    let list = known(&mut c);
    fs::remove_file(dir.path().join("d0/f0")).unwrap();
    fs::write(dir.path().join("d0/f0"), "another one").unwrap();
    assert_eq!(size(&mut c, list[0].0), Err(libc::ESTALE));
    let new = c.lookup(list[0].1, "f0").unwrap();
    assert_ne!(new.nodeid, list[0].0);
    assert_eq!(new.attr.size, 11);
}

#[test]
fn too_many_open_files_are_the_guests_own_trouble() {
    let (_dir, mut c) = tree();
    let list = known(&mut c);
    let mut refused = 0;
    for (node, ..) in &list {
        match c.open(*node, libc::O_RDONLY) {
            Ok(_) => {}
            Err(libc::ENFILE) => refused += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(list.len() - refused, DESCRIPTORS / 2);
}

#[test]
fn numbers_mean_the_same_files_after_a_restore() {
    let (dir, mut c) = tree();
    let list = known(&mut c);
    let (file, ..) = list[399];
    let fh = c.open(file, libc::O_RDWR).unwrap().fh;
    let dir_fh = c.open_dir(list[0].1).unwrap();
    let saved = c.tree.save().unwrap();
    let saved = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
    drop(c);
    let mut c = Client::with_descriptors(dir.path(), DESCRIPTORS);
    c.tree.restore(saved).unwrap();
    assert_eq!(c.tree.counts(), (421, 2));
    assert_eq!(c.write(file, fh, 0, b"new", 0), Ok(3));
    assert_eq!(fs::read(dir.path().join("d19/f19")).unwrap(), b"new19");
    assert!(!c.read_as(Opcode::Readdir, list[0].1, dir_fh, 0, 4096).unwrap().is_empty());
    for (node, ..) in &list {
        assert!(size(&mut c, *node).is_ok());
    }
    // Numbers that were given are not given again.
    let (new, ..) = c.create(ROOT, "new", libc::O_RDWR, 0o600).unwrap();
    assert!(list.iter().all(|(node, ..)| *node < new.nodeid));
}

#[test]
fn what_cannot_be_saved_or_restored_says_so() {
    let (dir, mut c) = tree();
    let list = known(&mut c);
    let saved = c.tree.save().unwrap();
    let fresh = || Client::with_descriptors(dir.path(), DESCRIPTORS);
    let json = serde_json::to_value(&saved).unwrap();
    for (pointer, value) in [
        ("/inodes/0/id", 1.into()),
        ("/inodes/3/id", json["inodes"][4]["id"].clone()),
        ("/inodes/0/refs", 0.into()),
        ("/inodes/0/parent", 9999.into()),
        ("/inodes/0/name", serde_json::json!([46, 46])),
        ("/inodes/0/name", serde_json::json!([97, 0])),
        ("/next_inode", 5.into()),
    ] {
        let mut json = json.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        let c = fresh();
        let result = c.tree.restore(serde_json::from_value(json).unwrap());
        assert_eq!(result, Err(StateError::Malformed), "{pointer}");
        assert_eq!(c.tree.counts(), (1, 0));
    }
    c.call(Opcode::Unlink, list[0].1, &cat(&[], &["f0"]), 64).unwrap();
    assert_eq!(c.tree.save(), Err(StateError::NoPlace));
    assert_eq!(fresh().tree.restore(saved.clone()), Err(StateError::Missing));
    fs::create_dir(dir.path().join("d0/f0")).unwrap();
    assert_eq!(fresh().tree.restore(saved), Err(StateError::Kind));
}
