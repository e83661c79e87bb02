//! One list of behaviours, run on every wall the place has.
//!
//! ```text
//! cargo test -p tests --test behaviours -- [FILTER…] [--exact] [--skip X] [--list] [--test-threads N] [--attempts N]
//! ```
//! `HULL_BIN` names the runtime (default: built by the workspace),
//! `HULL_TEST_KERNEL` a guest kernel for the microVM wall,
//! `HULL_TEST_PLACE=lab` lets that wall use the host's own kernel,
//! `HULL_TEST_DEBIAN` names the root file system of a Debian with systemd.

#![allow(missing_docs)] // A behaviour's name is its documentation.

mod bad_input;
mod cgroups;
mod checkpoint;
mod command_line;
mod engines;
mod exec;
mod hooks;
mod hostile;
mod kernels;
mod killed_create;
mod lifecycle;
mod mounts;
mod namespaces;
mod notify;
mod process;
mod rootless;
mod seccomp;
mod streams;
mod system;
mod systemd;
mod tty;
mod user;

fn main() -> std::process::ExitCode {
    tests::driver::main(&[
        process::LIST,
        streams::LIST,
        tty::LIST,
        lifecycle::LIST,
        notify::LIST,
        exec::LIST,
        mounts::LIST,
        namespaces::LIST,
        user::LIST,
        cgroups::LIST,
        systemd::LIST,
        system::LIST,
        seccomp::LIST,
        hooks::LIST,
        hostile::LIST,
        bad_input::LIST,
        killed_create::LIST,
        rootless::LIST,
        checkpoint::LIST,
        command_line::LIST,
        kernels::LIST,
        engines::LIST,
    ])
}
