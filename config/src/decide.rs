//! The merge itself.

use crate::HullToml;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

/// The two walls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WallKind {
    /// Namespaces and cgroups on the host's kernel.
    Container,
    /// A kernel of its own on KVM.
    Microvm,
}

/// What the command line said.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--isolation`.
    pub isolation: Option<WallKind>,
}

/// All that the decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The command line.
    pub flags: &'a Flags,
    /// The name hull was called by.
    pub argv0: Option<&'a OsStr>,
    /// The bundle's configuration.
    pub config: &'a oci::Config,
    /// `hull.toml`, where there is one.
    pub file: Option<&'a HullToml>,
}

/// What chose a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--isolation`.
    Flag,
    /// An annotation.
    Annotation,
    /// The `vm` object of `config.json`.
    Vm,
    /// The name hull was called by.
    Argv0,
    /// `hull.toml`.
    File,
    /// Nothing did.
    Default,
}

/// The annotations that hull reads.
pub struct Annotation;

impl Annotation {
    /// `container` or `microvm`.
    pub const ISOLATION: &'static str = "run.hull.isolation";
    /// Number of virtual CPUs.
    pub const VCPUS: &'static str = "run.hull.vcpus";
    /// Guest memory, as in `512M`.
    pub const MEMORY: &'static str = "run.hull.memory";
    /// Path of a guest kernel.
    pub const KERNEL: &'static str = "run.hull.kernel";
    /// More of the kernel's command line, separated by white space.
    pub const KERNEL_PARAMETERS: &'static str = "run.hull.kernel_parameters";
    /// Path of an initial RAM disk.
    pub const INITRD: &'static str = "run.hull.initrd";
}

/// The size of a microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmSize {
    /// Virtual CPUs, 1 to [`crate::MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in bytes, a multiple of 2 MiB.
    pub memory: u64,
}

/// Which kernel a microVM boots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelChoice {
    /// A kernel of the user's own; otherwise the host's newest.
    pub path: Option<PathBuf>,
    /// More of its command line.
    pub parameters: Vec<String>,
    /// An initial RAM disk of the user's own; only with `path`.
    pub initrd: Option<PathBuf>,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which wall.
    pub wall: WallKind,
    /// What chose the wall.
    pub source: Source,
    /// The size, should it be a microVM.
    pub vm: VmSize,
    /// The kernel, should it be a microVM.
    pub kernel: KernelChoice,
    /// The root image of the `vm` object.
    pub image: Option<oci::Image>,
    /// How long the guest may take until its agent answers.
    pub boot_timeout: Duration,
}

/// Why no decision could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `hull.toml` is not what it should be.
    #[error("hull.toml: {message}")]
    File {
        /// What the parser says, with line and column.
        message: String,
    },
}

/// Makes the decision.
pub fn decide(inputs: &Inputs<'_>) -> Result<Decision, Error> {
    let _ = inputs;
    unimplemented!()
}
