//! Notices of out-of-memory kills.
//!
//! Sources: the kernel's `admin-guide/cgroup-v1/memory.rst` ("OOM Control": an eventfd registered in
//! `cgroup.event_control`) and `cgroup-v2.rst` (`memory.events`, watched by inotify).

use super::error::{Error, Result};
use super::fs;
use super::record::Record;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

#[derive(Debug)]
enum Source {
    /// The kernel writes to the eventfd at each OOM, and once when the cgroup is removed.
    V1 { event: EventFd, directory: PathBuf, _control: OwnedFd },
    /// `memory.events` says how many processes were killed so far.
    V2 {
        watch: Inotify,
        file: PathBuf,
        seen: u64,
        /// A process was in it: from then on, none left means the end.
        lived: bool,
    },
}

/// Notices of out-of-memory kills, to be polled.
#[derive(Debug)]
pub struct OomEvents(Source);

impl Record {
    /// Watches for out-of-memory kills.
    pub fn oom_events(&self) -> Result<OomEvents> {
        if let Some(directory) = self.paths.get("memory") {
            let failed = |operation: &'static str, path: &Path| {
                let path = path.to_path_buf();
                move |source: std::io::Error| Error::io(operation, path, source)
            };
            let file = directory.join("memory.oom_control");
            let control = fs::open(&file, libc::O_RDONLY).map_err(failed("open", &file))?;
            let event =
                EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                    .map_err(|errno| failed("eventfd for", &file)(errno.into()))?;
            let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            fs::write(&directory.join("cgroup.event_control"), &line)?;
            return Ok(OomEvents(Source::V1 {
                event,
                directory: directory.clone(),
                _control: control,
            }));
        }
        let file = self.paths.get("").map(|directory| directory.join("memory.events"));
        let Some(file) = file.filter(|file| file.exists()) else {
            return Err(Error::Missing {
                field: "(oom events)".to_owned(),
                controller: "memory".to_owned(),
            });
        };
        let failed = |errno: nix::Error| Error::io("watch", &file, errno.into());
        let watch =
            Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
        watch.add_watch(&file, AddWatchFlags::IN_MODIFY).map_err(failed)?;
        if let Some(directory) = file.parent() {
            // Tells when the cgroup goes: kernfs gives no event on the file itself then. A v2 file
            // also changes when the last process leaves, which is when anyone asks.
            let _ = watch.add_watch(&directory.join("cgroup.events"), AddWatchFlags::IN_MODIFY);
        }
        let seen = kills(&file)?;
        Ok(OomEvents(Source::V2 { watch, file, seen, lived: false }))
    }
}

fn kills(file: &Path) -> Result<u64> {
    let text = fs::read(file)?;
    Ok(fs::pairs(&text).find(|(key, _)| *key == "oom_kill").map_or(0, |(_, count)| count))
}

impl OomEvents {
    /// Becomes readable when something happened.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Source::V1 { event, .. } => event.as_fd(),
            Source::V2 { watch, .. } => watch.as_fd(),
        }
    }

    /// Consumes what happened: how many kills since the last call. `None`: the cgroup is gone, or no
    /// process is left in it.
    pub fn take(&mut self) -> Result<Option<u64>> {
        match &mut self.0 {
            Source::V1 { event, directory, .. } => match event.read() {
                Err(nix::Error::EAGAIN) => Ok(Some(0)),
                Err(errno) => Err(Error::io("read events of", directory.clone(), errno.into())),
                // Removal of the cgroup signals the eventfd too.
                Ok(_) if !directory.exists() => Ok(None),
                Ok(count) => Ok(Some(count)),
            },
            Source::V2 { watch, file, seen, lived } => {
                while watch.read_events().is_ok_and(|events| !events.is_empty()) {}
                let populated = match fs::read_raw(&file.with_file_name("cgroup.events")) {
                    Ok(text) => fs::pairs(&text).any(|pair| pair == ("populated", 1)),
                    Err(_) => return Ok(None),
                };
                *lived |= populated;
                let now = kills(file)?;
                let new = now.saturating_sub(*seen);
                *seen = now;
                Ok(if *lived && !populated && new == 0 { None } else { Some(new) })
            }
        }
    }
}
