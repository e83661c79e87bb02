//! A container on the kernel this runs on: namespaces, mounts, cgroups, seccomp, init, exec.

pub mod cgroups;
pub mod netdev;
pub mod rdt;
pub mod seccomp;
