//! Which namespaces are made, which are joined, and in how many steps.
//!
//! Mostly one `clone3` makes all. Three things need a process in between that makes the
//! container's process as its sibling: joining a pid namespace (only children are in it), joining
//! or making a user namespace when others are joined by path (the owner's privileges are needed
//! first), and time offsets (to be written before anything lives in the namespace). Sources:
//! namespaces(7), time_namespaces(7), clone(2).

use crate::error::{Done, Trying};
use crate::sys;
use crate::{Error, Result};
use oci::spec::{Linux, LinuxNamespaceType as Kind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// All kinds that there are.
pub(crate) const ALL: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWTIME;

/// A namespace to join.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) kind: Kind,
    path: PathBuf,
    fd: OwnedFd,
}

/// What is made and what is joined.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` of those made for the container.
    new: i32,
    joins: Vec<Join>,
    /// `/proc/self/timens_offsets`, line by line.
    time_offsets: Vec<String>,
}

fn flag(kind: Kind) -> i32 {
    kind as i32
}

impl Namespaces {
    /// Understands `linux.namespaces` and opens those given by path.
    pub(crate) fn plan(linux: Option<&Linux>) -> Result<Namespaces> {
        let mut plan = Namespaces::default();
        let Some(linux) = linux else { return Ok(plan) };
        let mut seen = 0;
        for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
            let kind = namespace.typ();
            let field = || format!("linux.namespaces[{index}]");
            if seen & flag(kind) != 0 {
                return Err(Error::value(field(), format!("duplicated {kind}")));
            }
            seen |= flag(kind);
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                None => plan.new |= flag(kind),
                Some(path) => plan.joins.push(open(kind, path, &field())?),
            }
        }
        plan.check_user(linux)?;
        plan.plan_time(linux)?;
        Ok(plan)
    }

    fn check_user(&self, linux: &Linux) -> Result<()> {
        let mapped = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let users = mapped(linux.uid_mappings());
        let groups = mapped(linux.gid_mappings());
        if self.makes(Kind::User) {
            if !users {
                return Err(Error::value("linux.uidMappings", "a new user namespace needs them"));
            }
            if !groups {
                return Err(Error::value("linux.gidMappings", "a new user namespace needs them"));
            }
        } else if (users || groups) && !self.joins(Kind::User) {
            return Err(Error::value(
                "linux.uidMappings",
                "given without a user namespace in linux.namespaces",
            ));
        }
        Ok(())
    }

    fn plan_time(&mut self, linux: &Linux) -> Result<()> {
        let offsets = linux.time_offsets().iter().flatten();
        for (clock, offset) in offsets {
            if !self.makes(Kind::Time) {
                return Err(Error::value(
                    "linux.timeOffsets",
                    "given without a new time namespace in linux.namespaces",
                ));
            }
            if !matches!(clock.as_str(), "monotonic" | "boottime") {
                return Err(Error::value(
                    "linux.timeOffsets",
                    format!("{clock:?} is neither \"monotonic\" nor \"boottime\""),
                ));
            }
            let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            self.time_offsets.push(format!("{clock} {secs} {nanos}\n"));
        }
        Ok(())
    }

    /// Whether a namespace of this kind is made.
    pub(crate) fn makes(&self, kind: Kind) -> bool {
        self.new & flag(kind) != 0
    }

    /// Whether one is joined by path.
    pub(crate) fn joins(&self, kind: Kind) -> bool {
        self.joins.iter().any(|join| join.kind == kind)
    }

    /// Whether the container does not share this kind with the caller.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.makes(kind) || self.joins(kind)
    }

    /// Whether a process in between is needed.
    pub(crate) fn in_two_steps(&self) -> bool {
        self.joins(Kind::User)
            || self.joins(Kind::Pid)
            || !self.time_offsets.is_empty()
            || (self.makes(Kind::User) && !self.joins.is_empty())
    }

    /// Whether the process in between makes the time namespace.
    pub(crate) fn needs_time_step(&self) -> bool {
        !self.time_offsets.is_empty()
    }

    /// What the clone of the container's process makes. The cgroup namespace comes later: it
    /// begins at the cgroup that the process is in when it is made.
    pub(crate) fn clone_flags(&self) -> u64 {
        let mut flags = self.new & !libc::CLONE_NEWCGROUP;
        if !self.time_offsets.is_empty() {
            // Made by the process in between.
            flags &= !libc::CLONE_NEWTIME;
        }
        flags as u32 as u64
    }

    /// In the process in between: joins what can be joined before the clone. What needs the
    /// privileges of the new user namespace is left for [`Namespaces::join`].
    pub(crate) fn join_before(&self) -> Done<Vec<Kind>> {
        let mut joined = Vec::new();
        // First as who we are; with a user namespace to join, the rest as its root.
        if let Some(user) = self.joins.iter().find(|join| join.kind == Kind::User) {
            for join in self.joins.iter().filter(|join| early(join.kind)) {
                if sys::setns(join.fd.as_fd(), flag(join.kind)).is_ok() {
                    joined.push(join.kind);
                }
            }
            enter(user)?;
            joined.push(Kind::User);
        }
        let must = !self.makes(Kind::User);
        for join in self.joins.iter().filter(|join| early(join.kind)) {
            if joined.contains(&join.kind) {
                continue;
            }
            match enter(join) {
                Ok(()) => joined.push(join.kind),
                Err(_) if !must && join.kind != Kind::Pid => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(joined)
    }

    /// In the process in between: makes the time namespace of its children and sets its clocks.
    pub(crate) fn make_time(&self) -> Done<()> {
        if self.time_offsets.is_empty() {
            return Ok(());
        }
        sys::unshare(libc::CLONE_NEWTIME).trying(|| "make a time namespace")?;
        let fd = sys::open(c"/proc/self/timens_offsets", libc::O_WRONLY, 0)
            .trying(|| "linux.timeOffsets: open /proc/self/timens_offsets")?;
        let text = self.time_offsets.concat();
        sys::write_once(fd.as_fd(), text.as_bytes()).trying(|| "linux.timeOffsets")
    }

    /// In the container's process: joins what is left. The mount namespace comes last, as paths
    /// mean something else then.
    pub(crate) fn join(&self, joined: &[Kind]) -> Done<()> {
        let left = |join: &&Join| !joined.contains(&join.kind) && join.kind != Kind::Cgroup;
        for join in self.joins.iter().filter(left).filter(|join| join.kind != Kind::Mount) {
            enter(join)?;
        }
        for join in self.joins.iter().filter(left).filter(|join| join.kind == Kind::Mount) {
            enter(join)?;
        }
        Ok(())
    }

    /// In the container's process, once it is in its cgroup.
    pub(crate) fn enter_cgroup(&self) -> Done<()> {
        if self.makes(Kind::Cgroup) {
            return sys::unshare(libc::CLONE_NEWCGROUP).trying(|| "make a cgroup namespace");
        }
        self.joins.iter().filter(|join| join.kind == Kind::Cgroup).try_for_each(enter)
    }
}

/// Kinds that are joined before the clone: all but those in which paths or cgroups change.
fn early(kind: Kind) -> bool {
    !matches!(kind, Kind::User | Kind::Mount | Kind::Cgroup)
}

fn enter(join: &Join) -> Done<()> {
    sys::setns(join.fd.as_fd(), flag(join.kind))
        .trying(|| format!("join the {} namespace {:?}", join.kind, join.path))
}

fn open(kind: Kind, path: &std::path::Path, field: &str) -> Result<Join> {
    let file = std::fs::File::open(path).map_err(|source| {
        Error::sys("open", format!("{} ({field}.path)", path.display()), source)
    })?;
    // SAFETY: NS_GET_NSTYPE takes no argument and returns the kind.
    let found = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), 0xb703) };
    if found != flag(kind) {
        return Err(Error::value(
            format!("{field}.path"),
            format!("{} is not a {kind} namespace", path.display()),
        ));
    }
    Ok(Join { kind, path: path.to_owned(), fd: file.into() })
}

/// Namespace kinds of a configuration as flags: what `exec` has to join.
pub(crate) fn own_flags(linux: Option<&Linux>) -> i32 {
    linux
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten()
        .fold(0, |flags, namespace| flags | flag(namespace.typ()))
        & ALL
}

/// Whether a process and this one are in the same namespace of a kind; `None` if that cannot be told.
pub(crate) fn is_shared(pid: i32, kind: &str) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;
    let of = |path: String| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    Some(of(format!("/proc/{pid}/ns/{kind}"))? == of(format!("/proc/self/ns/{kind}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Namespaces> {
        let linux: Linux = serde_json::from_str(json).unwrap();
        Namespaces::plan(Some(&linux))
    }

    #[test]
    fn new_namespaces_need_one_step() {
        let plan = plan(r#"{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"cgroup"}]}"#);
        let plan = plan.unwrap();
        assert!(!plan.in_two_steps());
        assert_eq!(plan.clone_flags(), (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64);
    }

    #[test]
    fn a_joined_pid_namespace_needs_two() {
        let plan = plan(r#"{"namespaces":[{"type":"pid","path":"/proc/self/ns/pid"}]}"#).unwrap();
        assert!(plan.in_two_steps() && plan.joins(Kind::Pid) && !plan.makes(Kind::Pid));
    }

    #[test]
    fn a_path_must_lead_to_the_kind() {
        let error = plan(r#"{"namespaces":[{"type":"uts","path":"/proc/self/ns/pid"}]}"#);
        assert!(error.unwrap_err().to_string().contains("is not a"));
    }

    #[test]
    fn offsets_need_a_new_time_namespace() {
        let offsets = r#""timeOffsets":{"monotonic":{"secs":7,"nanosecs":3}}"#;
        assert!(plan(&format!("{{{offsets}}}")).is_err());
        let plan = plan(&format!(r#"{{"namespaces":[{{"type":"time"}}],{offsets}}}"#)).unwrap();
        assert_eq!(plan.time_offsets, ["monotonic 7 3\n"]);
        assert!(plan.in_two_steps());
        assert_eq!(plan.clone_flags(), 0);
    }

    #[test]
    fn a_user_namespace_needs_mappings() {
        assert!(plan(r#"{"namespaces":[{"type":"user"}]}"#).is_err());
    }
}
