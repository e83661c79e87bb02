//! A container on the kernel this runs on: namespaces, mounts, cgroups, seccomp, init, exec.
