//! What a machine is made of, as its maker says it. Plain data.

use std::fs::File;
use std::path::PathBuf;

use crate::devices::virtio::fs;

/// The most vCPUs one machine may have.
pub const MAX_VCPUS: u8 = 32;

/// How the kernel learns where the virtio devices are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Announce {
    /// By what the kernel image says it can read.
    #[default]
    Auto,
    /// `virtio_mmio.device=` on the command line and an MP table; ACPI is off.
    CommandLine,
    /// ACPI tables (DSDT with LNRO0005), for kernels with a modular virtio_mmio.
    Acpi,
}

/// The size of a machine and its kernel's command line.
#[derive(Debug, Clone)]
pub struct Config {
    /// Virtual processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in bytes.
    pub memory: u64,
    /// Added after the command line the machine itself needs.
    pub cmdline: String,
    /// How devices are announced.
    pub announce: Announce,
    /// The kernel logs everything to the console, and phases are kept.
    pub debug: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            vcpus: 1,
            memory: 512 << 20,
            cmdline: String::new(),
            announce: Announce::Auto,
            debug: false,
        }
    }
}

/// One part of the initramfs; the parts are laid one after the other.
#[derive(Debug)]
pub enum InitrdPart {
    /// A whole file; the path is for error messages only.
    File(File, PathBuf),
    /// Bytes made by the caller.
    Bytes(Vec<u8>),
}

/// The devices a machine has beside its console.
#[derive(Debug, Default)]
pub struct Devices {
    /// Shared directory trees.
    pub fs: Vec<fs::Config>,
    /// The guest's socket to its host, with CID 3.
    pub vsock: bool,
    /// A source of entropy.
    pub rng: bool,
}
