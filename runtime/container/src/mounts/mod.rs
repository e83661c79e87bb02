//! The container's mounts: planned as data, carried out by descriptor.
//!
//! `plan` turns `config.json`'s `mounts` into steps without looking at the machine; `apply`
//! carries the steps out below the container's root. Follows "Mounts" of the runtime
//! specification (config.md, config-linux.md).

pub(crate) mod apply;
mod cgroup;
mod copy_up;
pub(crate) mod idmap;
pub(crate) mod options;
pub(crate) mod plan;

pub use options::KNOWN as OPTIONS;
