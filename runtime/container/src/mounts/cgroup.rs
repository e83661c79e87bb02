//! The `cgroup` mount: what a container sees of the control groups.
//!
//! On a machine with v2 alone it is one mount; with v1 it is a tmpfs with a directory for each
//! hierarchy. With a cgroup namespace the hierarchies are mounted afresh and begin at the
//! container's cgroup; without one, v1 hierarchies are binds of the container's own directories.

use super::apply::{Context, NewFs, attach_below, c_text, prefixed};
use super::options::{Attributes, Options, Parameter};
use super::plan::Step;
use crate::cgroups::Hierarchy;
use crate::error::{Done, Trying};
use crate::path::c_path;
use crate::sys;
use crate::sys::mount::{self as mnt, MountAttr, attr};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

pub(super) fn mount(context: &Context<'_>, step: &Step, target: OwnedFd) -> Done<()> {
    match context.hierarchies {
        [only] if only.name.is_empty() => {
            let mounted = unified(context, step, only)?;
            decorate(step, mounted.as_fd(), step.options.attributes)?;
            mnt::attach(mounted.as_fd(), target.as_fd()).trying(|| step.words())
        }
        hierarchies => each(context, step, hierarchies, target),
    }
}

/// The v2 hierarchy: the whole of it where the container may, else its own cgroup.
fn unified(context: &Context<'_>, step: &Step, hierarchy: &Hierarchy) -> Done<OwnedFd> {
    let fresh =
        NewFs { fstype: "cgroup2", source: "cgroup", data: &[], options: &Options::default() };
    match fresh.make() {
        Ok(mounted) => Ok(mounted),
        Err(failure)
            if !context.cgroup_namespace && matches!(failure.errno, libc::EPERM | libc::EBUSY) =>
        {
            own(step, &hierarchy.source)
        }
        Err(failure) => Err(prefixed(step, failure)),
    }
}

/// A bind of the container's own cgroup.
fn own(step: &Step, source: &Path) -> Done<OwnedFd> {
    let path = c_path(source)?;
    mnt::clone_tree(sys::cwd(), &path, false)
        .trying(|| format!("{}: bind {source:?}", step.words()))
}

fn each(
    context: &Context<'_>,
    step: &Step,
    hierarchies: &[Hierarchy],
    target: OwnedFd,
) -> Done<()> {
    let data: Vec<Parameter> = vec![("mode".into(), Some("755".into()))];
    let tmpfs =
        NewFs { fstype: "tmpfs", source: "tmpfs", data: &data, options: &Options::default() };
    let top = tmpfs.make().map_err(|failure| prefixed(step, failure))?;
    mnt::attach(top.as_fd(), target.as_fd()).trying(|| step.words())?;
    for hierarchy in hierarchies {
        one(context, step, hierarchy, top.as_fd())?;
    }
    let mut attributes = step.options.attributes;
    attributes.set |= attr::NOSUID | attr::NODEV | attr::NOEXEC;
    decorate(step, top.as_fd(), attributes)
}

fn one(context: &Context<'_>, step: &Step, hierarchy: &Hierarchy, top: BorrowedFd<'_>) -> Done<()> {
    let name = c_text(&hierarchy.name)?;
    let what = || format!("{}: {}", step.words(), hierarchy.name);
    nix::sys::stat::mkdirat(top, name.as_c_str(), Mode::from_bits_truncate(0o755)).trying(what)?;
    let mounted = if context.cgroup_namespace {
        let data = parameters(&hierarchy.data);
        let fstype = if hierarchy.v2 { "cgroup2" } else { "cgroup" };
        let fresh = NewFs { fstype, source: "cgroup", data: &data, options: &Options::default() };
        fresh.make().map_err(|failure| prefixed(step, failure))?
    } else {
        own(step, &hierarchy.source)?
    };
    let mut attributes = step.options.attributes;
    attributes.set |= attr::NOSUID | attr::NODEV | attr::NOEXEC;
    decorate(step, mounted.as_fd(), attributes)?;
    attach_below(mounted.as_fd(), top, &name).trying(what)?;
    for link in &hierarchy.links {
        nix::unistd::symlinkat(hierarchy.name.as_str(), top, link.as_str()).trying(what)?;
    }
    Ok(())
}

fn decorate(step: &Step, mounted: BorrowedFd<'_>, attributes: Attributes) -> Done<()> {
    let tree = step.options.tree;
    let wanted = MountAttr {
        set: attributes.set | tree.set,
        clear: attributes.clear | tree.clear,
        ..MountAttr::default()
    };
    if wanted != MountAttr::default() {
        mnt::set_attributes(mounted, false, &wanted).trying(|| step.words())?;
    }
    for &(propagation, recursive) in &step.options.propagation {
        let wanted = MountAttr { propagation, ..MountAttr::default() };
        mnt::set_attributes(mounted, recursive, &wanted).trying(|| step.words())?;
    }
    Ok(())
}

/// `none,name=systemd` as parameters.
fn parameters(data: &str) -> Vec<Parameter> {
    data.split(',')
        .filter(|word| !word.is_empty())
        .map(|word| match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word.to_owned(), None),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_data_is_taken_apart() {
        assert_eq!(
            parameters("none,name=systemd"),
            [("none".to_owned(), None), ("name".to_owned(), Some("systemd".to_owned()))]
        );
        assert!(parameters("").is_empty());
    }
}
