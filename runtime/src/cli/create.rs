//! `create` and `run`.

use super::args::Parsed;
use super::id;
use crate::Result;
use crate::lifecycle::{self, Context, CreateOptions};
use std::path::PathBuf;

pub(super) fn options(parsed: &Parsed, detach: bool, foreground: bool) -> Result<CreateOptions> {
    Ok(CreateOptions {
        bundle: parsed.value("bundle").map(PathBuf::from),
        console_socket: parsed.value("console-socket").map(PathBuf::from),
        pidfd_socket: parsed.value("pidfd-socket").map(PathBuf::from),
        pid_file: parsed.value("pid-file").map(PathBuf::from),
        detach,
        foreground,
        preserve_fds: parsed.number("preserve-fds")?.unwrap_or(0),
        no_pivot: parsed.has("no-pivot"),
        no_new_keyring: parsed.has("no-new-keyring"),
    })
}

/// `hull create`.
pub fn create(context: &Context, parsed: &Parsed) -> Result<i32> {
    lifecycle::reset_child_signal();
    let live = lifecycle::create(context, &id(parsed)?, &options(parsed, true, false)?)?;
    live.detach();
    Ok(0)
}

/// `hull run`.
pub fn run(context: &Context, parsed: &Parsed) -> Result<i32> {
    lifecycle::reset_child_signal();
    let detach = parsed.has("detach");
    if !detach && !parsed.has("no-subreaper") {
        lifecycle::set_subreaper()?;
    }
    let mut live = lifecycle::create(context, &id(parsed)?, &options(parsed, detach, true)?)?;
    let console = live.take_console();
    if let Some(console) = &console {
        // The program may look at the size before the relay could set it.
        crate::console::copy_size(console);
    }
    live.start()?;
    if detach {
        live.detach();
        return Ok(0);
    }
    live.wait(console, parsed.has("keep"))
}
