//! `hull kernel`: install, list, show and remove, without the flags' parsing.

use std::io::Write;
use std::path::Path;

use super::Error;

/// What `hull kernel …` is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Prepare a kernel: a path, a version as in `/boot/vmlinuz-VERSION`, or
    /// the newest one in `/boot`.
    Install {
        /// A path or a version.
        source: Option<String>,
    },
    /// One line for each prepared kernel.
    List {
        /// As JSON instead of a table.
        json: bool,
    },
    /// All about one kernel, as JSON.
    Show {
        /// A version, or a digest or the beginning of one.
        name: String,
    },
    /// Forget one kernel.
    Remove {
        /// A version, or a digest or the beginning of one.
        name: String,
    },
}

/// Carries it out; `store` is usually [`super::STORE`].
pub fn run(_command: &Command, _store: &Path, _out: &mut dyn Write) -> Result<(), Error> {
    unimplemented!()
}
