//! Carrying out a list of writes on the directories of a cgroup.

use super::error::{Error, Result};
use super::fs;
use super::limits::{Mode, Write};
use std::io;
use std::path::{Path, PathBuf};

/// Writes `list`, each value into the directory that `find` gives for its controller.
///
/// With `lenient` (rootless), a missing controller and a refused permission are said, not failed.
pub(super) fn carry_out(
    list: &[Write],
    find: &dyn Fn(&str) -> Option<PathBuf>,
    lenient: bool,
) -> Result<()> {
    let mut late = Vec::new();
    for write in list {
        let Some(directory) = find(&write.controller) else {
            if write.mode == Mode::Obsolete {
                say_obsolete(write);
            } else if lenient {
                say_unavailable(write, "its controller is not delegated to this user");
            } else {
                return Err(Error::Missing {
                    field: write.field.to_string(),
                    controller: write.controller.to_string(),
                });
            }
            continue;
        };
        match one(&directory, write) {
            Ok(()) => {}
            Err(error)
                if error.raw_os_error() == Some(libc::EINVAL) && write.mode == Mode::Reorder =>
            {
                late.push((write, directory));
            }
            Err(error)
                if lenient
                    && matches!(
                        error.raw_os_error(),
                        Some(libc::EACCES | libc::EPERM | libc::EROFS)
                    ) =>
            {
                say_unavailable(write, "not permitted to this user");
            }
            Err(error) => return Err(refused(&directory, write, error)),
        }
    }
    for (write, directory) in late {
        one(&directory, write).map_err(|error| refused(&directory, write, error))?;
    }
    Ok(())
}

fn one(directory: &Path, write: &Write) -> io::Result<()> {
    let error = match fs::put(&directory.join(&*write.file), &write.value) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let absent = error.raw_os_error() == Some(libc::ENOENT);
    match &write.mode {
        Mode::Or(file, value) if absent => fs::put(&directory.join(file), value),
        Mode::IfPresent if absent => Ok(()),
        // Where there is no swap at all (a small guest kernel), every limit of it is kept.
        _ if absent && is_swap(&write.file) && !Path::new("/proc/swaps").exists() => Ok(()),
        Mode::Obsolete
            if absent || matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
        {
            say_obsolete(write);
            Ok(())
        }
        _ => Err(error),
    }
}

fn is_swap(file: &str) -> bool {
    matches!(file, "memory.swap.max" | "memory.memsw.limit_in_bytes")
}

fn say_obsolete(write: &Write) {
    tracing::warn!(
        "linux.resources.{}: this kernel no longer has such a limit; not set",
        write.field
    );
}

fn say_unavailable(write: &Write, why: &str) {
    tracing::warn!("linux.resources.{}: not set: {why}", write.field);
}

fn refused(directory: &Path, write: &Write, source: io::Error) -> Error {
    let usage =
        |file: &str| fs::read_raw(&directory.join(file)).ok().map(|text| text.trim().to_owned());
    let busy = source.raw_os_error() == Some(libc::EBUSY) && write.file == "memory.limit_in_bytes";
    let hint = match (busy, source.raw_os_error()) {
        (true, _) => format!(
            " (current usage: {}, peak usage: {})",
            usage("memory.usage_in_bytes").unwrap_or_default(),
            usage("memory.max_usage_in_bytes").unwrap_or_default()
        ),
        (false, Some(libc::ENOENT)) => " (this kernel or controller has no such limit)".to_owned(),
        _ => String::new(),
    };
    Error::Limit {
        field: write.field.to_string(),
        value: write.value.clone(),
        path: directory.join(&*write.file),
        source,
        hint,
    }
}
