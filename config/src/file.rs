//! `hull.toml`: the defaults of one machine.

use crate::{Error, WallKind};
use serde::Deserialize;
use std::path::PathBuf;

/// The whole file. Unknown keys are errors: a misspelt limit must not pass for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HullToml {
    /// The wall when nothing stronger names one.
    pub isolation: Option<WallKind>,
    /// Defaults of the microVM wall.
    #[serde(default)]
    pub microvm: Microvm,
}

/// `[microvm]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Microvm {
    /// Virtual CPUs.
    pub vcpus: Option<u32>,
    /// Guest memory, as in `"512M"`.
    pub memory: Option<String>,
    /// Path of a guest kernel.
    pub kernel: Option<PathBuf>,
    /// More of the kernel's command line.
    pub kernel_parameters: Option<Vec<String>>,
    /// Path of an initial RAM disk; needs `kernel`.
    pub initrd: Option<PathBuf>,
    /// Seconds until the agent has to have answered.
    pub boot_timeout: Option<u64>,
}

impl HullToml {
    /// Parses the text of a `hull.toml`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| Error::File { message: error.to_string() })
    }
}
