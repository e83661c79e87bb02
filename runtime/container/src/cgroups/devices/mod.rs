//! `linux.resources.devices`: which device nodes may be made, read and written.
//!
//! Source: "Allowed Device list" of the runtime specification; defaults are runc's.

pub(super) mod attach;
pub(super) mod bpf;
pub(super) mod rules;
