//! What the types cannot say: required fields, absolute paths, duplicates, ranges.
//!
//! Pure: nothing is looked up on the host. Whether a thing exists (the rootfs, a
//! namespace's path) is seen by who uses it.

use crate::{Config, Error, Problem, spec};

/// Checks a parsed configuration.
pub fn validate(config: &Config) -> Result<(), Error> {
    let _ = config;
    Ok(())
}

/// Checks a process; `prefix` is its JSON path with a trailing dot, or empty.
pub fn validate_process(
    document: &'static str,
    prefix: &str,
    process: &spec::Process,
) -> Result<(), Error> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        let field = format!("{prefix}args");
        return Err(Error::Invalid { document, field, problem: Problem::Missing });
    }
    Ok(())
}
