//! Dumping a container.

use super::rpc::{DUMP, Features, PRE_DUMP, PageServer, Request};
use super::swrk::{Setup, Swrk, failure, require};
use super::{DESCRIPTORS, Error, Options, config_file, directory, external};
use crate::Record;
use oci::spec::Spec;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Component, Path};

const LOG: &str = "dump.log";

/// What is dumped.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointRequest<'a> {
    /// The running container.
    pub record: &'a Record,
    /// Its `config.json`.
    pub config: &'a oci::Config,
    /// Absolute path of its bundle.
    pub bundle: &'a Path,
    /// How.
    pub options: &'a Options,
}

/// Dumps a container. Unless it is left running (or only pre-dumped) its processes are gone
/// afterwards; the caller deletes what is left.
pub fn checkpoint(request: &CheckpointRequest<'_>) -> Result<(), Error> {
    let CheckpointRequest { record, config, bundle, options } = request;
    let spec = &config.spec;
    if record.rootless {
        return Err(Error::Unsupported {
            what: "checkpoint".to_owned(),
            reason: "needs root".to_owned(),
        });
    }
    let images = directory(&options.image_path, true)?;
    let work = options.work_path.as_deref().map(|path| directory(path, true)).transpose()?;
    let rootfs = spec.root().as_ref().map(|root| bundle.join(root.path())).unwrap_or_default();
    let mut opts = super::rpc::Opts {
        images_dir_fd: images.as_raw_fd(),
        work_dir_fd: work.as_ref().map(AsRawFd::as_raw_fd),
        pid: Some(record.pid),
        root: Some(rootfs.to_string_lossy().into_owned()),
        leave_running: Some(options.leave_running),
        config_file: config_file(spec),
        external: external::dumped_namespaces(spec)?,
        freeze_cgroup: freezer(record),
        page_server: options.page_server.as_ref().map(|(address, port)| PageServer {
            address: Some(address.clone()),
            port: Some(i32::from(*port)),
        }),
        ..options.common(LOG)
    };
    if let Some(parent) = &options.parent_path {
        check_parent(&options.image_path, parent)?;
        opts.parent_img = Some(parent.to_string_lossy().into_owned());
        opts.track_mem = Some(true);
    }
    if options.pre_dump {
        require("--pre-dump", Features { mem_track: Some(true), lazy_pages: None })?;
        opts.track_mem = Some(true);
    }
    let mut status = None;
    if options.lazy_pages {
        require("--lazy-pages", Features { mem_track: None, lazy_pages: Some(true) })?;
        status = options.status_fd.map(status_pipe).transpose()?;
    }
    if !options.pre_dump {
        outside(request, spec, &rootfs, &mut opts)?;
        let streams = external::streams(record.pid)?;
        let path = options.image_path.join(DESCRIPTORS);
        let json = serde_json::to_vec(&streams)
            .map_err(|error| Error::io("describe the streams", error.into()))?;
        write_private(&path, &json)
            .map_err(|source| Error::io(format!("write {}", path.display()), source))?;
    }
    let mut swrk = Swrk::start(Setup::default())?;
    let kind = if options.pre_dump { PRE_DUMP } else { DUMP };
    let operation = if options.pre_dump { "pre-dump" } else { "dump" };
    let log = options.log_directory().join(LOG);
    let asked = Request { kind, opts: Some(opts), ..Request::default() };
    let answer = swrk
        .ask(operation, &asked, |notice, _| {
            if notice.script.as_deref() == Some("status-ready")
                && let Some(pipe) = status.take()
            {
                let _ = nix::unistd::write(&pipe, &[0]);
            }
            Ok(())
        })
        .map_err(|error| match error {
            Error::Failed { .. } => failure(operation, None, &log),
            other => other,
        })?;
    if !answer.success {
        return Err(failure(operation, Some(&answer), &log));
    }
    // After a pre-dump CRIU waits for the next one, and ends unhappily when none comes.
    let ended_well = swrk.finish(operation)?;
    if ended_well || options.pre_dump { Ok(()) } else { Err(failure(operation, None, &log)) }
}

/// Names the mounts that CRIU must not dump.
fn outside(
    request: &CheckpointRequest<'_>,
    spec: &Spec,
    rootfs: &Path,
    opts: &mut super::rpc::Opts,
) -> Result<(), Error> {
    let hierarchies = request.record.cgroup.mounts().map_err(|error| Error::Unsupported {
        what: "the container's cgroup".to_owned(),
        reason: error.to_string(),
    })?;
    let binds = external::binds(spec, request.bundle, &hierarchies);
    for bind in binds.into_iter().chain(external::devices(spec)) {
        let key = external::resolve(rootfs, &bind.inside);
        opts.ext_mnt.push(external::mount(&key, &key));
    }
    let masked = spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_ref());
    for path in masked.into_iter().flatten() {
        let inside = format!(
            "/proc/{}/root{}",
            request.record.pid,
            external::clean(Path::new(path)).display()
        );
        // A masked directory is a mount of the container's own; a masked file is the host's /dev/null.
        if std::fs::symlink_metadata(inside).is_ok_and(|kind| !kind.is_dir()) {
            opts.ext_mnt.push(external::mount(Path::new(path), Path::new("/dev/null")));
        }
    }
    Ok(())
}

/// CRIU stops the processes by the freezer where there is one.
fn freezer(record: &Record) -> Option<String> {
    let path = record.cgroup.paths.get("freezer").or_else(|| record.cgroup.paths.get(""))?;
    Some(path.to_string_lossy().into_owned())
}

fn check_parent(images: &Path, parent: &Path) -> Result<(), Error> {
    let bad = |reason: &str| {
        Err(Error::Unsupported {
            what: format!("--parent-path {}", parent.display()),
            reason: reason.to_owned(),
        })
    };
    if parent.components().any(|part| matches!(part, Component::RootDir)) {
        return bad("must be relative to the image directory");
    }
    if !images.join(parent).is_dir() {
        return bad("is not a directory seen from the image directory");
    }
    Ok(())
}

/// Takes over the descriptor that `--status-fd` names.
fn status_pipe(fd: i32) -> Result<OwnedFd, Error> {
    let bad = |reason: &str| Error::Unsupported {
        what: format!("--status-fd {fd}"),
        reason: reason.to_owned(),
    };
    // SAFETY: takes integers only.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if fd < 3 || flags < 0 {
        return Err(bad("is not open"));
    }
    if flags & libc::O_ACCMODE == libc::O_RDONLY {
        return Err(bad("is not writable"));
    }
    // SAFETY: open, as just seen, and handed to us by the caller of the command for this.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)?.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_image_is_relative_and_there() {
        let images = std::env::temp_dir().join(format!("hull-criu-parent-{}", std::process::id()));
        std::fs::create_dir_all(images.join("one")).unwrap();
        std::fs::create_dir_all(images.join("two")).unwrap();
        assert!(check_parent(&images.join("two"), Path::new("../one")).is_ok());
        assert!(check_parent(&images.join("two"), Path::new("../three")).is_err());
        assert!(check_parent(&images.join("two"), &images.join("one")).is_err());
        std::fs::remove_dir_all(images).unwrap();
    }

    #[test]
    fn a_status_descriptor_must_be_open_for_writing() {
        assert!(status_pipe(999_999).is_err());
        assert!(status_pipe(0).is_err());
        let read_only = std::fs::File::open("/dev/null").unwrap();
        assert!(status_pipe(read_only.as_raw_fd()).is_err());
    }
}
