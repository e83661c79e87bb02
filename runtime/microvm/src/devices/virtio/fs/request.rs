//! One FUSE request: a descriptor chain from the guest, answered.
//!
//! Whatever the chain holds, the work it causes is bounded: by the size of
//! what may be read from it and written to it, and by the list of operations.

use std::io::{self, Write};
use std::ops::Deref;
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::{
    CopyFileRangeIn, CreateIn, EntryOut, InHeader, Opcode, OpenOut, OutHeader, WriteOut,
};
use fuse_backend_rs::api::server::{MAX_BUFFER_SIZE, Server};
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use virtio_queue::DescriptorChain;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ByteValued, GuestMemory};

use super::tree::Tree;

/// The most that one side of a chain may hold: the largest message, with
/// room for headers and names.
const CHAIN_MAX: u64 = MAX_BUFFER_SIZE as u64 + (64 << 10);

/// Newer than the server's protocol.
const SYNCFS: u32 = 50;
const TMPFILE: u32 = 51;

/// What to do with an operation.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Kind {
    /// The server knows it.
    Served,
    /// Likewise, and there is no reply.
    Silent,
    /// Copying between files, done here.
    CopyFileRange,
    /// Writing back a file system, done here.
    SyncFs,
    /// A file without a name, done here.
    TmpFile,
    /// Not there; the guest asks once and remembers.
    Absent,
}

/// Sorts the operations. The server must not be shown numbers it has no name
/// for, so this is a list of what is allowed.
fn kind(opcode: u32) -> Kind {
    const FORGET: u32 = Opcode::Forget as u32;
    const BATCH_FORGET: u32 = Opcode::BatchForget as u32;
    const INTERRUPT: u32 = Opcode::Interrupt as u32;
    const COPY: u32 = Opcode::CopyFileRange as u32;
    // Locks, ioctl, poll, bmap, access and DAX mappings stay in the guest.
    // FLUSH at every close would tell us nothing we need.
    match opcode {
        FORGET | BATCH_FORGET | INTERRUPT => Kind::Silent,
        COPY => Kind::CopyFileRange,
        SYNCFS => Kind::SyncFs,
        TMPFILE => Kind::TmpFile,
        // LOOKUP..LINK without the holes at 7; OPEN..STATFS, RELEASE.
        1 | 3..=6 | 8..=18 => Kind::Served,
        // FSYNC, the four xattr operations, INIT, directories.
        20..=24 | 26..=30 => Kind::Served,
        // CREATE, DESTROY, FALLOCATE, READDIRPLUS, RENAME2, LSEEK.
        35 | 38 | 43..=46 => Kind::Served,
        _ => Kind::Absent,
    }
}

/// Serves one chain; how many bytes of it were written. A chain that is no
/// request is given back empty.
pub fn serve<M>(
    server: &Server<Arc<Tree>>,
    tree: &Tree,
    mem: &M::Target,
    chain: DescriptorChain<M>,
) -> u32
where
    M: Deref + Clone,
    M::Target: GuestMemory + Sized,
{
    let (mut readable, mut writable) = (0u64, 0u64);
    for desc in chain.clone() {
        let sum = if desc.is_write_only() { &mut writable } else { &mut readable };
        *sum += u64::from(desc.len());
        if *sum > CHAIN_MAX {
            return 0;
        }
    }
    let Ok(mut reader) = Reader::from_descriptor_chain(mem, chain.clone()) else {
        return 0;
    };
    let Ok(writer) = VirtioFsWriter::new(mem, chain.clone()) else {
        return 0;
    };
    let Ok(header) = reader.clone().read_obj::<InHeader>() else {
        return 0;
    };
    let done = match kind(header.opcode) {
        Kind::Silent => {
            // A malformed one has nobody to be told.
            let _ = server.handle_message(reader, writer.into(), None, None);
            Ok(0)
        }
        Kind::Served => match server.handle_message(reader, Writer::from(writer), None, None) {
            Ok(n) => Ok(n),
            Err(_) => match VirtioFsWriter::new(mem, chain) {
                Ok(writer) => reply(writer, &header, Err(errno(libc::EIO)), &[]),
                Err(_) => Ok(0),
            },
        },
        Kind::CopyFileRange => {
            let copied = copy(tree, &header, &mut reader);
            let out = WriteOut { size: *copied.as_ref().unwrap_or(&0) as u32, padding: 0 };
            reply(writer, &header, copied.map(drop), out.as_slice())
        }
        Kind::SyncFs => reply(writer, &header, tree.sync_fs(header.nodeid), &[]),
        Kind::TmpFile => {
            let made = temporary(tree, &header, &mut reader);
            let (result, body) = match made {
                Ok(body) => (Ok(()), body),
                Err(e) => (Err(e), Vec::new()),
            };
            reply(writer, &header, result, &body)
        }
        Kind::Absent => reply(writer, &header, Err(errno(libc::ENOSYS)), &[]),
    };
    done.unwrap_or(0) as u32
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn copy<S: BitmapSlice>(
    tree: &Tree,
    header: &InHeader,
    reader: &mut Reader<'_, S>,
) -> io::Result<usize> {
    reader.read_obj::<InHeader>()?;
    let args: CopyFileRangeIn = reader.read_obj()?;
    if args.flags != 0 {
        return Err(errno(libc::EINVAL));
    }
    tree.copy_range(
        (args.fh_in, header.nodeid, args.offset_in),
        (args.fh_out, args.nodeid_out, args.offset_out),
        args.len,
    )
}

fn temporary<S: BitmapSlice>(
    tree: &Tree,
    header: &InHeader,
    reader: &mut Reader<'_, S>,
) -> io::Result<Vec<u8>> {
    reader.read_obj::<InHeader>()?;
    let args: CreateIn = reader.read_obj()?;
    let (entry, fh, options) = tree.temporary((header.uid, header.gid), header.nodeid, &args)?;
    let open = OpenOut { fh, open_flags: options.bits(), passthrough: 0 };
    Ok([EntryOut::from(entry).as_slice(), open.as_slice()].concat())
}

fn reply<S: BitmapSlice>(
    mut writer: VirtioFsWriter<'_, S>,
    header: &InHeader,
    result: io::Result<()>,
    body: &[u8],
) -> io::Result<usize> {
    let (error, body) = match result {
        Ok(()) => (0, body),
        Err(e) => (-e.raw_os_error().unwrap_or(libc::EIO), &[][..]),
    };
    let out = OutHeader {
        len: (size_of::<OutHeader>() + body.len()) as u32,
        error,
        unique: header.unique,
    };
    writer.write_all(out.as_slice())?;
    writer.write_all(body)?;
    Ok(writer.bytes_written())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_operations_with_a_name_reach_the_server() {
        for hole in [0, 7, 19, 47, 50, 51, 52, 53, u32::MAX] {
            assert_ne!(kind(hole), Kind::Served, "{hole}");
        }
        for served in [
            Opcode::Lookup,
            Opcode::Link,
            Opcode::Open,
            Opcode::Release,
            Opcode::Fsync,
            Opcode::Removexattr,
            Opcode::Init,
            Opcode::Fsyncdir,
            Opcode::Create,
            Opcode::Destroy,
            Opcode::Fallocate,
            Opcode::Lseek,
        ] {
            assert_eq!(kind(served as u32), Kind::Served, "{served:?}");
        }
    }
}
