//! A guest in miniature: FUSE requests laid into guest memory as descriptor
//! chains, served, and their replies read back.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, EntryOut, InHeader, MkdirIn, MknodIn, Opcode, OpenIn, OpenOut, OutHeader, ReadIn,
    ReleaseIn, WriteIn, WriteOut,
};
use fuse_backend_rs::api::server::Server;
use virtio_queue::{Queue, QueueT};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::super::request;
use super::super::tree::Tree;

const SIZE: u16 = 16;
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const INPUT: u64 = 0x10_0000;
const OUTPUT: u64 = 0x40_0000;
/// Guest memory of the tests.
pub const MEMORY: u64 = 8 << 20;

/// One descriptor: address, length, flags, next.
pub type Desc = (u64, u32, u16, u16);

pub struct Client {
    pub mem: GuestMemoryMmap,
    pub tree: Arc<Tree>,
    server: Server<Arc<Tree>>,
    queue: Queue,
    avail: u16,
    unique: u64,
    /// Who asks.
    pub who: (u32, u32),
}

impl Client {
    /// Serves `root`; readies this thread.
    pub fn new(root: &Path) -> Client {
        Client::with_descriptors(root, 10_000)
    }

    /// The same with a limit of descriptors.
    pub fn with_descriptors(root: &Path, descriptors: usize) -> Client {
        let root: OwnedFd = std::fs::File::open(root).unwrap().into();
        let tree = Arc::new(Tree::new(root, descriptors).unwrap());
        tree.prepare_thread().unwrap();
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_size(SIZE);
        queue.set_desc_table_address(Some(DESC as u32), None);
        queue.set_avail_ring_address(Some(AVAIL as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_ready(true);
        Client {
            mem,
            server: Server::new(tree.clone()),
            tree,
            queue,
            avail: 0,
            unique: 0,
            who: (0, 0),
        }
    }

    /// Serves one chain that starts at the first of these descriptors.
    pub fn chain(&mut self, descs: &[Desc]) -> u32 {
        for (i, (addr, len, flags, next)) in descs.iter().enumerate() {
            let at = GuestAddress(DESC + 16 * i as u64);
            self.mem.write_obj(*addr, at).unwrap();
            let at = GuestAddress(at.0 + 8);
            self.mem.write_obj(*len, at).unwrap();
            self.mem.write_obj(*flags, GuestAddress(at.0 + 4)).unwrap();
            self.mem.write_obj(*next, GuestAddress(at.0 + 6)).unwrap();
        }
        let slot = GuestAddress(AVAIL + 4 + 2 * u64::from(self.avail % SIZE));
        self.mem.write_obj(0u16, slot).unwrap();
        self.avail = self.avail.wrapping_add(1);
        self.mem.write_obj(self.avail, GuestAddress(AVAIL + 2)).unwrap();
        let chain = self.queue.pop_descriptor_chain(&self.mem).unwrap();
        request::serve(&self.server, &self.tree, &self.mem, chain)
    }

    /// Asks, and gives the reply's body or error number.
    pub fn call(&mut self, op: Opcode, node: u64, body: &[u8], room: u32) -> Result<Vec<u8>, i32> {
        self.call_number(op as u32, node, body, room)
    }

    fn call_number(&mut self, op: u32, node: u64, body: &[u8], room: u32) -> Result<Vec<u8>, i32> {
        self.unique += 1;
        let header = InHeader {
            len: (size_of::<InHeader>() + body.len()) as u32,
            opcode: op,
            unique: self.unique,
            nodeid: node,
            uid: self.who.0,
            gid: self.who.1,
            ..Default::default()
        };
        self.mem.write_obj(header, GuestAddress(INPUT)).unwrap();
        let after = INPUT + size_of::<InHeader>() as u64;
        self.mem.write_slice(body, GuestAddress(after)).unwrap();
        let zero = [0u8; 16];
        self.mem.write_slice(&zero, GuestAddress(OUTPUT)).unwrap();
        let written = self.chain(&[(INPUT, header.len, 1, 1), (OUTPUT, 16 + room, 2, 0)]);
        let out: OutHeader = self.mem.read_obj(GuestAddress(OUTPUT)).unwrap();
        assert_eq!(out.unique, self.unique, "{op:?}");
        assert_eq!(out.len, written, "{op:?}");
        if out.error != 0 {
            return Err(-out.error);
        }
        let mut reply = vec![0; written as usize - 16];
        let at = GuestAddress(OUTPUT + 16);
        self.mem.read_slice(&mut reply, at).unwrap();
        Ok(reply)
    }

    fn entry(&mut self, op: Opcode, node: u64, body: &[u8]) -> Result<EntryOut, i32> {
        self.call(op, node, body, 256).map(|r| first(&r))
    }

    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<EntryOut, i32> {
        self.entry(Opcode::Lookup, parent, &cat(&[], &[name]))
    }

    /// Looks up a path's components one by one from the root.
    pub fn walk(&mut self, path: &str) -> EntryOut {
        let mut at = EntryOut { nodeid: 1, ..Default::default() };
        for name in path.split('/') {
            at = self.lookup(at.nodeid, name).unwrap();
            assert_ne!(at.nodeid, 0, "{path}: {name}");
        }
        at
    }

    pub fn create(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Result<(EntryOut, u64), i32> {
        let args =
            CreateIn { flags: flags as u32, mode: libc::S_IFREG | mode, ..Default::default() };
        let body = cat(args.as_slice(), &[name]);
        let reply = self.call(Opcode::Create, parent, &body, 512)?;
        let open: OpenOut = first(&reply[size_of::<EntryOut>()..]);
        Ok((first(&reply), open.fh))
    }

    /// FUSE_TMPFILE, which the crate's list does not have.
    pub fn temporary(
        &mut self,
        parent: u64,
        flags: i32,
        mode: u32,
    ) -> Result<(EntryOut, u64), i32> {
        let args = CreateIn { flags: flags as u32, mode, ..Default::default() };
        let reply = self.call_number(51, parent, &cat(args.as_slice(), &["/"]), 512)?;
        let open: OpenOut = first(&reply[size_of::<EntryOut>()..]);
        Ok((first(&reply), open.fh))
    }

    pub fn mkdir(&mut self, parent: u64, name: &str, mode: u32) -> Result<EntryOut, i32> {
        let args = MkdirIn { mode, umask: 0 };
        self.entry(Opcode::Mkdir, parent, &cat(args.as_slice(), &[name]))
    }

    pub fn mknod(&mut self, parent: u64, name: &str, mode: u32) -> Result<EntryOut, i32> {
        let args = MknodIn { mode, rdev: 0x103, ..Default::default() };
        self.entry(Opcode::Mknod, parent, &cat(args.as_slice(), &[name]))
    }

    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<EntryOut, i32> {
        self.entry(Opcode::Symlink, parent, &cat(&[], &[name, target]))
    }

    pub fn open(&mut self, node: u64, flags: i32) -> Result<OpenOut, i32> {
        let args = OpenIn { flags: flags as u32, fuse_flags: 0 };
        let reply = self.call(Opcode::Open, node, args.as_slice(), 64)?;
        Ok(first(&reply))
    }

    pub fn open_dir(&mut self, node: u64) -> Result<u64, i32> {
        let args = OpenIn { flags: 0, fuse_flags: 0 };
        let reply = self.call(Opcode::Opendir, node, args.as_slice(), 64)?;
        Ok(first::<OpenOut>(&reply).fh)
    }

    pub fn release(&mut self, op: Opcode, node: u64, fh: u64) -> Result<(), i32> {
        let args = ReleaseIn { fh, ..Default::default() };
        self.call(op, node, args.as_slice(), 64).map(drop)
    }

    pub fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        self.read_as(Opcode::Read, node, fh, offset, size)
    }

    pub fn read_as(
        &mut self,
        op: Opcode,
        node: u64,
        fh: u64,
        offset: u64,
        size: u32,
    ) -> Result<Vec<u8>, i32> {
        let args = ReadIn { fh, offset, size, ..Default::default() };
        self.call(op, node, args.as_slice(), size)
    }

    pub fn write(
        &mut self,
        node: u64,
        fh: u64,
        offset: u64,
        data: &[u8],
        fuse_flags: u32,
    ) -> Result<u32, i32> {
        let args =
            WriteIn { fh, offset, size: data.len() as u32, fuse_flags, ..Default::default() };
        let body = [args.as_slice(), data].concat();
        let reply = self.call(Opcode::Write, node, &body, 64)?;
        Ok(first::<WriteOut>(&reply).size)
    }

    pub fn forget(&mut self, node: u64, count: u64) {
        let header =
            InHeader { len: 48, opcode: Opcode::Forget as u32, nodeid: node, ..Default::default() };
        self.mem.write_obj(header, GuestAddress(INPUT)).unwrap();
        self.mem.write_obj(count, GuestAddress(INPUT + 40)).unwrap();
        assert_eq!(self.chain(&[(INPUT, 48, 0, 0)]), 0);
    }
}

/// The structure at the beginning of a reply.
pub fn first<T: ByteValued + Default>(reply: &[u8]) -> T {
    let mut value = T::default();
    value.as_mut_slice().copy_from_slice(&reply[..size_of::<T>()]);
    value
}

/// A structure and terminated strings after it.
pub fn cat(head: &[u8], strings: &[&str]) -> Vec<u8> {
    let mut body = head.to_vec();
    for s in strings {
        body.extend(s.as_bytes());
        body.push(0);
    }
    body
}
