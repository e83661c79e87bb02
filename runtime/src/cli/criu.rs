//! `checkpoint` and `restore`.

use super::args::{Error as UsageError, Parsed};
use super::{create, id};
use crate::Result;
use crate::lifecycle::{self, Context};
use container::criu::Options;
use std::path::PathBuf;

/// Where images are without `--image-path`, seen from the current directory.
const IMAGES: &str = "checkpoint";

/// `hull checkpoint`.
pub fn checkpoint(context: &Context, parsed: &Parsed) -> Result<i32> {
    lifecycle::reset_child_signal();
    lifecycle::checkpoint(context, &id(parsed)?, &options(parsed)?)?;
    Ok(0)
}

/// `hull restore`.
pub fn restore(context: &Context, parsed: &Parsed) -> Result<i32> {
    lifecycle::reset_child_signal();
    let detach = parsed.has("detach");
    if !detach && !parsed.has("no-subreaper") {
        lifecycle::set_subreaper()?;
    }
    let images = options(parsed)?;
    let how = create::options(parsed, detach, true)?;
    let mut live = lifecycle::restore(context, &id(parsed)?, &how, &images)?;
    if detach {
        live.detach();
        return Ok(0);
    }
    let console = live.take_console();
    live.wait(console, parsed.has("keep"))
}

/// What both are told; a flag that one of them does not have is never given to it.
fn options(parsed: &Parsed) -> Result<Options> {
    let path = |name: &str| parsed.value(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let absolute = |path: PathBuf| lifecycle::absolute(&path);
    let text = |name: &'static str| -> Result<Option<String>> {
        Ok(parsed.text(name)?.filter(|value| !value.is_empty()).map(str::to_owned))
    };
    let empty_ns = match text("empty-ns")?.as_deref() {
        None => 0,
        Some("network") => libc::CLONE_NEWNET as u32,
        Some(_) => return Err(wrong("empty-ns", parsed, "network is expected")),
    };
    let cgroups_mode =
        parsed.text("manage-cgroups-mode")?.unwrap_or_default().parse().map_err(|_| {
            wrong("manage-cgroups-mode", parsed, "soft, full, strict or ignore is expected")
        })?;
    let page_server = match text("page-server")? {
        None => None,
        Some(server) => {
            let parts = server.rsplit_once(':').and_then(|(address, port)| {
                let address = address.trim_start_matches('[').trim_end_matches(']');
                Some((address.to_owned(), port.parse().ok()?))
            });
            Some(parts.ok_or_else(|| wrong("page-server", parsed, "ADDRESS:PORT is expected"))?)
        }
    };
    Ok(Options {
        image_path: absolute(path("image-path").unwrap_or_else(|| PathBuf::from(IMAGES)))?,
        work_path: path("work-path").map(absolute).transpose()?,
        parent_path: path("parent-path"),
        leave_running: parsed.has("leave-running"),
        pre_dump: parsed.has("pre-dump"),
        tcp_established: parsed.has("tcp-established"),
        tcp_skip_in_flight: parsed.has("tcp-skip-in-flight"),
        ext_unix_sk: parsed.has("ext-unix-sk"),
        shell_job: parsed.has("shell-job"),
        file_locks: parsed.has("file-locks"),
        lazy_pages: parsed.has("lazy-pages"),
        auto_dedup: parsed.has("auto-dedup"),
        link_remap: parsed.has("link-remap"),
        status_fd: parsed.number("status-fd")?,
        lsm_profile: text("lsm-profile")?,
        lsm_mount_context: text("lsm-mount-context")?,
        empty_ns,
        cgroups_mode,
        page_server,
    })
}

fn wrong(flag: &'static str, parsed: &Parsed, expected: &'static str) -> crate::Error {
    let value = parsed.value(flag).unwrap_or_default().to_string_lossy().into_owned();
    UsageError::Value { flag, value, expected }.into()
}
