//! A container on the kernel this runs on: namespaces, mounts, cgroups, seccomp, init, exec.
//!
//! One `clone3` makes the container's first process; the child sets itself up from plans that the
//! parent computed (plain data) and reports over a socket. Nothing here knows the
//! command line, the state file's place or a hypervisor; the same code runs on a host and in a
//! guest. Follows the runtime specification 1.3 and, where it is silent, runc's behaviour.
//!
//! The caller of [`create`] and [`exec`] must have a single thread: the child goes on running Rust
//! code after the clone.

pub mod cgroups;
mod create;
pub mod criu;
mod devices;
mod error;
mod exec;
mod guard;
pub mod hooks;
mod init;
mod lifecycle;
pub mod mounts;
mod namespaces;
pub mod netdev;
mod path;
pub mod pidfd;
mod plan;
pub mod process;
pub mod pty;
pub mod rdt;
mod record;
mod rootfs;
pub mod seccomp;
mod sync;
mod sys;
mod sysctl;
mod talk;
mod userns;

pub use create::{CreateRequest, Created, create};
pub use error::{Error, Result};
pub use exec::{Exec, ExecRequest, exec};
pub use guard::{Guard, UNDOING};
pub use lifecycle::{
    delete, discard, pause, processes, resume, signal, start, stats, status, update,
};
pub use plan::Plan;
pub use record::{Record, Rootless};
pub use rootfs::SharedRoot;
