//! `hull check`: what this host has, and what is lost without it.

use std::io::{self, Write};

/// How the report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Text,
    /// One JSON object.
    Json,
}

/// Looks at the host and prints the report.
pub fn run(_format: Format, _out: &mut dyn Write) -> io::Result<()> {
    unimplemented!()
}
