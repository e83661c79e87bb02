//! Loading the device program and attaching it to a v2 cgroup.
//!
//! Source: `bpf(2)` and the kernel's `uapi/linux/bpf.h` (`union bpf_attr`).

use super::bpf::Insn;
use crate::cgroups::error::{Error, Result};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 2;
const F_REPLACE: u32 = 4;

/// As many programs as the kernel attaches to one cgroup (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a `#[repr(C)]` prefix of `union bpf_attr` for `command`, its size is passed
    // along, and what its pointers point to is alive and as long as its counts say (see the callers).
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn load(program: &[Insn]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut name = [0u8; 16];
    name[..12].copy_from_slice(b"hull_devices");
    let mut attr = LoadAttr {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        prog_name: name,
        ..LoadAttr::default()
    };
    let fd = bpf(PROG_LOAD, &mut attr)?;
    // SAFETY: the call succeeded, so this is a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn attached(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    Ok(ids[..(attr.prog_cnt as usize).min(MAX_PROGRAMS)].to_vec())
}

fn by_id(id: u32) -> io::Result<OwnedFd> {
    let fd = bpf(PROG_GET_FD_BY_ID, &mut IdAttr { id, ..IdAttr::default() })?;
    // SAFETY: the call succeeded, so this is a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches `program` to the cgroup at `path`. With `replace`, programs attached to that very cgroup
/// before go; at no moment is there none.
pub(crate) fn attach(
    path: &Path,
    cgroup: BorrowedFd<'_>,
    program: &[Insn],
    replace: bool,
) -> Result<()> {
    let failed =
        |operation| move |source| Error::Bpf { operation, path: path.to_path_buf(), source };
    let new = load(program).map_err(failed("load"))?;
    let old = if replace {
        let ids = attached(cgroup).map_err(failed("query"))?;
        ids.into_iter()
            .map(by_id)
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed("open attached program"))?
    } else {
        Vec::new()
    };
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: new.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI,
        ..AttachAttr::default()
    };
    if let [only] = old.as_slice() {
        let mut exchange = AttachAttr {
            attach_flags: F_ALLOW_MULTI | F_REPLACE,
            replace_bpf_fd: only.as_raw_fd() as u32,
            ..AttachAttr {
                target_fd: attr.target_fd,
                attach_bpf_fd: attr.attach_bpf_fd,
                ..AttachAttr::default()
            }
        };
        exchange.attach_type = ATTACH_CGROUP_DEVICE;
        // Kernels before 5.6 cannot exchange.
        if bpf(PROG_ATTACH, &mut exchange).is_ok() {
            return Ok(());
        }
    }
    bpf(PROG_ATTACH, &mut attr).map_err(failed("attach"))?;
    for program in old {
        let mut attr = AttachAttr {
            target_fd: cgroup.as_raw_fd() as u32,
            attach_bpf_fd: program.as_raw_fd() as u32,
            attach_type: ATTACH_CGROUP_DEVICE,
            ..AttachAttr::default()
        };
        bpf(PROG_DETACH, &mut attr).map_err(failed("detach"))?;
    }
    Ok(())
}
