//! The user namespace that an idmapped mount takes its mapping from (mount_setattr(2)).
//!
//! A mapping exists only as a user namespace's, and a user namespace only with a process in it:
//! one is made that does nothing, its namespace is opened, and it is ended.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use oci::spec::LinuxIdMapping;

/// A user namespace with these mappings, as a descriptor.
pub fn namespace(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> io::Result<OwnedFd> {
    let idle = Idle::new()?;
    let proc = format!("/proc/{}", idle.pid);
    std::fs::write(format!("{proc}/uid_map"), lines(uids))?;
    std::fs::write(format!("{proc}/gid_map"), lines(gids))?;
    File::open(format!("{proc}/ns/user")).map(OwnedFd::from)
}

fn lines(mappings: &[LinuxIdMapping]) -> String {
    let mut text = String::new();
    for map in mappings {
        let _ = writeln!(text, "{} {} {}", map.container_id(), map.host_id(), map.size());
    }
    text
}

/// A process in a user namespace of its own that waits to be ended.
struct Idle {
    pid: libc::pid_t,
}

impl Idle {
    fn new() -> io::Result<Self> {
        // No exit signal: nobody is to take it for a child of theirs.
        let flags = libc::CLONE_NEWUSER as libc::c_ulong;
        // SAFETY: without CLONE_VM and with a null stack this is fork(2); the child, which may be
        // a copy of one thread of many, makes only system calls.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => loop {
                // SAFETY: a system call without arguments.
                unsafe { libc::pause() };
            },
            pid => Ok(Self { pid: pid as libc::pid_t }),
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // SAFETY: the pid is that of our own child, which nobody else waits for.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::spec::LinuxIdMappingBuilder;

    #[test]
    fn a_mapping_is_written_as_uid_map_takes_it() {
        let map = LinuxIdMappingBuilder::default()
            .container_id(0u32)
            .host_id(1000u32)
            .size(10u32)
            .build()
            .unwrap();
        assert_eq!(lines(&[map, map]), "0 1000 10\n0 1000 10\n");
    }
}
