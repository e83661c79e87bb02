//! Where each mount of a bundle is carried out when a guest kernel is in between.
//!
//! A mount whose content lies on the host (the root, binds, overlays) is made there, in the
//! monitor's own mount namespace, inside one *prepared tree* that virtio-fs shows to the
//! guest; a mount that is a view of a kernel (proc, sysfs, tmpfs, devpts, mqueue, cgroup, ...)
//! is made in the guest by the `container` crate. What the host has prepared the guest binds
//! to its destination, in the order of config.json, so that a tmpfs on `/run` and a bind below
//! it come out as on the host, and missing mount points are made by the same code.
//!
//! ```text
//! prepared tree          the guest sees it at /hull
//! ├── rootfs             root.path
//! └── binds
//!     ├── 3              source of mounts[3]: a directory or a file
//!     └── 7
//! ```
//!
//! [`plan()`] is pure; [`prepare`] carries the host's part out. Follows "Mounts" of the
//! runtime specification (config.md). Must not know KVM, nor how the guest is reached.

mod idmap;
mod plan;
mod prepare;

pub use plan::{Error as PlanError, HostStep, IdMap, Plan, ReadOnly, What, plan};
pub use prepare::{Error, Tree, prepare};
