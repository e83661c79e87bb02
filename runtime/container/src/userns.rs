//! User namespaces: the identities that files and capabilities are checked against.
//!
//! Sources: user_namespaces(7), newuidmap(1).

use crate::sys::{self, CloneOptions, Cloned};
use crate::{Error, Result};
use nix::errno::Errno;
use oci::spec::LinuxIdMapping;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

/// Whether this process is in the machine's first user namespace: all ids map to themselves.
pub(crate) fn is_initial() -> bool {
    match std::fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => map.split_ascii_whitespace().eq(["0", "0", "4294967295"]),
        Err(_) => true,
    }
}

/// What the ids inside a user namespace are outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mappings {
    pub(crate) users: Vec<LinuxIdMapping>,
    pub(crate) groups: Vec<LinuxIdMapping>,
}

/// How mappings get written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By this process, which has the capabilities.
    Directly,
    /// By this process, for its own id only; `setgroups` is given up.
    OwnId,
    /// By `newuidmap` and `newgidmap`.
    Helpers,
}

impl Mappings {
    /// The id that `inside` is outside; `None` if it is not mapped.
    pub(crate) fn outside(list: &[LinuxIdMapping], inside: u32) -> Option<u32> {
        list.iter().find_map(|mapping| {
            let offset = inside.checked_sub(mapping.container_id())?;
            (offset < mapping.size()).then(|| mapping.host_id().checked_add(offset)).flatten()
        })
    }

    /// Whether user 0 exists inside.
    pub(crate) fn has_root(&self) -> bool {
        Mappings::outside(&self.users, 0).is_some() && Mappings::outside(&self.groups, 0).is_some()
    }

    fn way(&self, privileged: bool, uid: u32, gid: u32) -> Way {
        let own = |list: &[LinuxIdMapping], id| matches!(list, [only] if only.size() == 1 && only.host_id() == id);
        if privileged {
            Way::Directly
        } else if own(&self.users, uid) && own(&self.groups, gid) {
            Way::OwnId
        } else {
            Way::Helpers
        }
    }

    /// Gives the user namespace of the child `pid` its ids. Returns whether the child may call
    /// `setgroups`.
    pub(crate) fn write(&self, pid: i32) -> Result<bool> {
        let uid = nix::unistd::geteuid().as_raw();
        let gid = nix::unistd::getegid().as_raw();
        let way = self.way(may_map(), uid, gid);
        match way {
            Way::Directly | Way::OwnId => {
                if way == Way::OwnId {
                    write_file(pid, "setgroups", "deny")?;
                }
                write_file(pid, "gid_map", &text(&self.groups))?;
                write_file(pid, "uid_map", &text(&self.users))?;
            }
            Way::Helpers => {
                helper("newgidmap", pid, &self.groups)?;
                helper("newuidmap", pid, &self.users)?;
            }
        }
        Ok(way != Way::OwnId)
    }
}

/// Whether this process may map any ids: CAP_SETUID and CAP_SETGID are in effect.
fn may_map() -> bool {
    caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SETUID).unwrap_or(false)
        && caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SETGID)
            .unwrap_or(false)
}

fn text(list: &[LinuxIdMapping]) -> String {
    list.iter().map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size())).collect()
}

fn write_file(pid: i32, name: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{name}");
    std::fs::write(&path, text).map_err(|source| {
        let field = if name == "gid_map" { "linux.gidMappings" } else { "linux.uidMappings" };
        Error::sys("write", format!("{path} ({field})"), source)
    })
}

fn helper(program: &'static str, pid: i32, list: &[LinuxIdMapping]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for mapping in list {
        command.arg(mapping.container_id().to_string());
        command.arg(mapping.host_id().to_string());
        command.arg(mapping.size().to_string());
    }
    let output = command.output().map_err(|source| {
        Error::sys(
            "run",
            format!("{program} (needed for mappings of more than the own id)"),
            source,
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::value(
        if program == "newgidmap" { "linux.gidMappings" } else { "linux.uidMappings" },
        format!("{program} refused ({}): {words}", output.status),
    ))
}

/// A user namespace with mappings that no process is in.
pub(crate) fn holder(mappings: &Mappings) -> Result<OwnedFd> {
    let (here, there) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|error| Error::sys("make", "a pipe", error))?;
    let options =
        CloneOptions { namespaces: libc::CLONE_NEWUSER as u64, ..CloneOptions::default() };
    // SAFETY: the crate's callers have a single thread; the child only reads and ends.
    let cloned = unsafe { sys::clone3(&options) }
        .map_err(|error| Error::sys("make", "a user namespace for an id-mapped mount", error))?;
    let pid = match cloned {
        Cloned::Child => {
            drop(there);
            // Ends when the parent, or its death, closes the other end.
            let _ = nix::unistd::read(here.as_fd(), &mut [0u8; 1]);
            sys::exit(0);
        }
        Cloned::Parent { pid, .. } => pid,
    };
    let made = mappings.write(pid).and_then(|_| {
        let path = format!("/proc/{pid}/ns/user");
        std::fs::File::open(&path).map_err(|source| Error::sys("open", path, source))
    });
    drop(there);
    let _ = sys::wait(pid);
    made.map(OwnedFd::from)
}

/// Becomes root inside a user namespace that was just mapped.
pub(crate) fn become_root(setgroups: bool) -> std::result::Result<(), Errno> {
    use nix::unistd::{Gid, Uid, setgroups as set, setresgid, setresuid};
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    if setgroups {
        match set(&[]) {
            // Denied by who made the namespace: then there is nothing to drop either.
            Err(Errno::EPERM) => {}
            result => result?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(inside: u32, outside: u32, size: u32) -> LinuxIdMapping {
        oci::spec::LinuxIdMappingBuilder::default()
            .container_id(inside)
            .host_id(outside)
            .size(size)
            .build()
            .unwrap()
    }

    #[test]
    fn ids_are_found_by_range() {
        let list = [mapping(0, 100_000, 1000), mapping(5000, 7, 1)];
        assert_eq!(Mappings::outside(&list, 999), Some(100_999));
        assert_eq!(Mappings::outside(&list, 1000), None);
        assert_eq!(Mappings::outside(&list, 5000), Some(7));
    }

    #[test]
    fn an_ordinary_user_maps_itself_without_help() {
        let own = Mappings { users: vec![mapping(0, 1000, 1)], groups: vec![mapping(0, 100, 1)] };
        assert_eq!(own.way(false, 1000, 100), Way::OwnId);
        assert_eq!(own.way(false, 1001, 100), Way::Helpers);
        assert_eq!(own.way(true, 0, 0), Way::Directly);
    }

    #[test]
    fn ranges_at_the_end_do_not_overflow() {
        assert_eq!(Mappings::outside(&[mapping(0, u32::MAX, 2)], 1), None);
    }
}
