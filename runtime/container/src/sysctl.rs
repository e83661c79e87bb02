//! `linux.sysctl`: kernel parameters of the container's namespaces.
//!
//! Only those that belong to a namespace which the container does not share with its caller: the
//! others would change the whole machine. Written by way of a procfs that nothing is mounted over.

use crate::error::{Done, Trying};
use crate::namespaces::Namespaces;
use crate::sys::{self, mount as mnt, resolve};
use crate::{Error, Result};
use oci::spec::{Linux, LinuxNamespaceType as Kind};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

/// Parameters of the IPC namespace below `kernel.`.
const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msg_next_id",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
];

/// File below `/proc` and value, in a fixed order.
pub(crate) type Plan = BTreeMap<String, String>;

/// Understands `linux.sysctl`.
pub(crate) fn plan(linux: Option<&Linux>, namespaces: &Namespaces) -> Result<Plan> {
    let given = linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten();
    let mut plan = Plan::new();
    for (name, value) in given {
        let dotted = dotted(name);
        let field = || format!("linux.sysctl {name:?}");
        let kind = owner(&dotted)
            .ok_or_else(|| Error::value(field(), "is not in a separate kernel namespace"))?;
        if !namespaces.has(kind) {
            return Err(Error::value(
                field(),
                format!("not allowed without a {kind} namespace in linux.namespaces"),
            ));
        }
        if dotted == "kernel.hostname" {
            return Err(Error::value(field(), "conflicts with hostname: set that instead"));
        }
        let path = path(name);
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::value(field(), "is no parameter"));
        }
        plan.insert(path, value.clone());
    }
    Ok(plan)
}

/// The name with dots between its parts, whichever of dot and slash came first in it.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name.as_bytes()[first] == b'/' => swap(name),
        _ => name.to_owned(),
    }
}

fn path(name: &str) -> String {
    format!("sys/{}", swap(&dotted(name)))
}

/// Exchanges dots and slashes: `net/ipv4/conf/eth0.1` is `net.ipv4.conf.eth0/1`.
fn swap(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect()
}

fn owner(dotted: &str) -> Option<Kind> {
    match dotted {
        name if IPC.contains(&name) || name.starts_with("fs.mqueue.") => Some(Kind::Ipc),
        name if name.starts_with("net.") => Some(Kind::Network),
        "kernel.domainname" | "kernel.hostname" => Some(Kind::Uts),
        name if name.starts_with("user.") => Some(Kind::User),
        _ => None,
    }
}

/// A procfs of the caller's pid namespace, mounted nowhere.
fn private_proc() -> sys::Result<OwnedFd> {
    let fs = mnt::fsopen(c"proc")?;
    mnt::fs_create(fs.as_fd())?;
    mnt::fsmount(fs.as_fd(), 0)
}

/// Sets the parameters, in the namespaces of the caller.
pub(crate) fn apply(plan: &Plan) -> Done<()> {
    if plan.is_empty() {
        return Ok(());
    }
    let proc = private_proc()
        .or_else(|_| sys::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY, 0))
        .trying(|| "linux.sysctl: mount proc")?;
    for (path, value) in plan {
        let what = || format!("linux.sysctl {path:?} = {value:?}");
        let Ok(name) = CString::new(path.as_str()) else { continue };
        let confined = resolve::BENEATH | resolve::NO_SYMLINKS | resolve::NO_XDEV;
        let fd = sys::openat2(proc.as_fd(), &name, libc::O_WRONLY, 0, confined).trying(what)?;
        sys::write_once(fd.as_fd(), value.as_bytes()).trying(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(json: &str) -> Result<Plan> {
        let linux: Linux = serde_json::from_str(json).unwrap();
        let namespaces = Namespaces::plan(Some(&linux)).unwrap();
        plan(Some(&linux), &namespaces)
    }

    #[test]
    fn only_what_belongs_to_a_namespace_is_set() {
        let net = r#"{"namespaces":[{"type":"network"}],"sysctl":{"net.ipv4.ip_forward":"1"}}"#;
        assert_eq!(plan_of(net).unwrap().keys().next().unwrap(), "sys/net/ipv4/ip_forward");
        for wrong in ["vm.swappiness", "kernel.core_pattern", "kernel.msgmax", "net/../kernel/x"] {
            let json =
                format!(r#"{{"namespaces":[{{"type":"network"}}],"sysctl":{{"{wrong}":"1"}}}}"#);
            assert!(plan_of(&json).is_err(), "{wrong}");
        }
    }

    #[test]
    fn slashes_and_dots_may_change_places() {
        assert_eq!(path("net/ipv4/conf/eth0.1/x"), "sys/net/ipv4/conf/eth0.1/x");
        assert_eq!(path("net.ipv4.conf.eth0/1.x"), "sys/net/ipv4/conf/eth0.1/x");
    }
}
