//! Which wall, what size, which kernel: the decision and its one place for defaults.
//!
//! Merged from the command line, the annotations, the specification's `vm` object, the
//! name hull was called by and `hull.toml`, strongest first. Pure: no system calls; the
//! caller reads `hull.toml` and gives its text.

mod decide;
mod file;
mod size;

pub use decide::{
    Annotation, Decision, Error, Flags, Inputs, KernelChoice, Source, VmSize, WallKind, decide,
};
pub use file::{HullToml, Microvm};
pub use size::{SizeError, parse_size};

/// Where `hull.toml` is looked for when no `--config` names one.
pub const DEFAULT_FILE: &str = "/etc/hull/hull.toml";

/// The most virtual CPUs that a microVM may have.
pub const MAX_VCPUS: u8 = 32;

/// The least memory that a guest kernel with its agent comes up in.
pub const MIN_MEMORY: u64 = 64 << 20;

/// More than any machine of this kind has; bounds the arithmetic.
pub const MAX_MEMORY: u64 = 1 << 42;

/// The guest's memory when nothing says how much.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// What a guest's kernel and agent need beside the workload, added to a memory limit.
pub const MEMORY_OVERHEAD: u64 = 64 << 20;

/// How long a guest may take until its agent answers.
pub const DEFAULT_BOOT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
