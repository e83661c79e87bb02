//! A guest that means harm: chains and messages that are no requests.

use fuse_backend_rs::abi::fuse_abi::{InHeader, Opcode, WriteIn};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::client::{Client, MEMORY, cat};

fn tree() -> (tempfile::TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "content").unwrap();
    std::fs::create_dir(dir.path().join("dir")).unwrap();
    let client = Client::new(dir.path());
    (dir, client)
}

/// xorshift64: the same sequence at every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[test]
fn a_chain_that_is_no_request_is_given_back_empty() {
    let (_dir, mut c) = tree();
    // Nothing to read; a header cut short; memory that is not there; a chain
    // in a circle; more than any request may hold.
    assert_eq!(c.chain(&[(0x10_0000, 64, 2, 0)]), 0);
    assert_eq!(c.chain(&[(0x10_0000, 39, 0, 0)]), 0);
    assert_eq!(c.chain(&[(MEMORY, 64, 0, 0)]), 0);
    assert_eq!(c.chain(&[(MEMORY - 8, 64, 0, 0)]), 0);
    assert_eq!(c.chain(&[(u64::MAX - 8, 64, 0, 0)]), 0);
    assert_eq!(c.chain(&[(0x10_0000, 8, 1, 0)]), 0);
    assert_eq!(c.chain(&[(0, 4 << 20, 1, 1), (0, 4 << 20, 2, 0)]), 0);
    assert_eq!(c.chain(&[(0, u32::MAX, 1, 1), (0, u32::MAX, 2, 0)]), 0);
}

#[test]
fn a_reply_without_room_is_no_reply() {
    let (_dir, mut c) = tree();
    let header =
        InHeader { len: 45, opcode: Opcode::Lookup as u32, nodeid: 1, ..Default::default() };
    let at = GuestAddress(0x10_0000);
    c.mem.write_obj(header, at).unwrap();
    c.mem.write_slice(b"file\0", GuestAddress(at.0 + 40)).unwrap();
    for room in [0, 1, 15, 16, 17, 100] {
        let n = c.chain(&[(at.0, 45, 1, 1), (0x40_0000, room, 2, 0)]);
        assert!(n <= room, "{n} bytes into {room}");
    }
}

#[test]
fn a_length_that_lies_is_an_error() {
    let (_dir, mut c) = tree();
    let args = WriteIn { fh: 1, size: u32::MAX, ..Default::default() };
    assert!(c.call(Opcode::Write, 1, args.as_slice(), 64).is_err());
    let at = GuestAddress(0x10_0000);
    for len in [0, 1, 39, 40, 41, 1 << 19, 1 << 20, u32::MAX] {
        let header =
            InHeader { len, opcode: Opcode::Mkdir as u32, nodeid: 1, ..Default::default() };
        c.mem.write_obj(header, at).unwrap();
        let n = c.chain(&[(at.0, 50, 1, 1), (0x40_0000, 256, 2, 0)]);
        assert!(n == 0 || n == 16, "{len}: {n}");
    }
}

#[test]
fn every_operation_survives_every_body() {
    let (dir, mut c) = tree();
    c.lookup(1, "file").unwrap();
    c.lookup(1, "dir").unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..20_000u64 {
        let op = random.below(56) as u32;
        let mut body: Vec<u8> = (0..random.below(120))
            .map(|_| match random.below(4) {
                0 => 0,
                1 => random.below(4) as u8,
                2 => b'a' + random.below(3) as u8,
                _ => random.next() as u8,
            })
            .collect();
        if round % 3 == 0 {
            body.extend(cat(&[], &["file", "dir"]));
        }
        let header = InHeader {
            len: match random.below(8) {
                0 => random.next() as u32,
                _ => 40 + body.len() as u32,
            },
            opcode: op,
            unique: round,
            nodeid: random.below(6),
            ..Default::default()
        };
        let at = 0x10_0000;
        c.mem.write_obj(header, GuestAddress(at)).unwrap();
        c.mem.write_slice(&body, GuestAddress(at + 40)).unwrap();
        let cut = random.below(41 + body.len() as u64) as u32;
        let room = [0, 16, 64, 4096][random.below(4) as usize];
        c.chain(&[
            (at, cut, 1, 1),
            (at + u64::from(cut), 40 + body.len() as u32 - cut, 1, 2),
            (0x40_0000, room, 2, 0),
        ]);
    }
    // Still there, and nothing beside it was touched.
    assert!(dir.path().exists());
    c.tree.forget_all();
    assert_eq!(c.lookup(1, "nothing").map(|e| e.nodeid), Err(libc::ENOENT));
}
