//! Restoring a container from its images.

use super::rpc::{CgroupRoot, InheritFd, Notice, RESTORE, Request};
use super::swrk::{Setup, Swrk, failure, require};
use super::{DESCRIPTORS, Error, Options, config_file, directory, external};
use crate::cgroups::{self, Cgroup};
use crate::path::{Make, Root};
use crate::{Record, Rootless, hooks, lifecycle, namespaces, pty, rdt, sys};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use oci::spec::{LinuxNamespaceType as Kind, Spec};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const LOG: &str = "restore.log";
/// Longest `descriptors.json` believed: three names.
const MAX_DESCRIPTORS: u64 = 64 << 10;
/// Descriptors that CRIU inherits start behind the standard streams and its socket.
const FIRST_INHERITED: i32 = 4;

/// What is restored.
#[derive(Clone, Copy, Debug)]
pub struct RestoreRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its `config.json`.
    pub config: &'a oci::Config,
    /// Absolute path of its bundle.
    pub bundle: &'a Path,
    /// Its state directory: exists.
    pub state_dir: &'a Path,
    /// How.
    pub options: &'a Options,
    /// Unix socket to which the terminal's master is sent.
    pub console_socket: Option<&'a Path>,
    /// The container's stdin, stdout and stderr; `None`: the caller's.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Make the cgroup through systemd.
    pub systemd_cgroup: bool,
    /// Whether privileges are missing.
    pub rootless: Rootless,
}

/// A restored, running container, whose first process is a child of the caller. Dropped without
/// [`Restored::keep`], it is killed, and its cgroup and its resctrl group are removed.
#[derive(Debug)]
pub struct Restored {
    record: Record,
    cgroup: Option<Cgroup>,
    rdt: Option<rdt::Group>,
    console: Option<OwnedFd>,
}

impl Restored {
    /// The container's first process.
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// What the state file will remember.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The terminal's master, where no console socket took it.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Keeps the container beyond this value's life.
    pub fn keep(mut self) -> Record {
        if let Some(cgroup) = self.cgroup.take() {
            self.record.cgroup = cgroup.keep();
        }
        if let Some(rdt) = self.rdt.take() {
            self.record.rdt = Some(rdt.keep());
        }
        self.record.clone()
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.take() {
            let _ = cgroup.record().kill_all();
            if self.record.pid > 0 {
                let _ = sys::wait(self.record.pid);
            }
        }
    }
}

/// Restores a container; it runs on from where it was dumped. Hooks run: prestart, createRuntime.
pub fn restore(request: &RestoreRequest<'_>) -> Result<Restored, Error> {
    let RestoreRequest { config, options, .. } = request;
    let spec = &config.spec;
    let rootless = request.rootless.decide();
    if rootless {
        return Err(Error::Unsupported {
            what: "restore".to_owned(),
            reason: "needs root".to_owned(),
        });
    }
    if options.lazy_pages {
        require("--lazy-pages", super::rpc::Features { mem_track: None, lazy_pages: Some(true) })?;
    }
    let images = directory(&options.image_path, false)?;
    let work = options.work_path.as_deref().map(|path| directory(path, true)).transpose()?;
    let streams = descriptors(&options.image_path)?;
    let rootfs =
        spec.root().as_ref().map(|root| request.bundle.join(root.path())).unwrap_or_default();
    let (inherited_namespaces, join_ns) = external::restored_namespaces(spec)?;
    let rdt = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.intel_rdt().as_ref())
        .map(|rdt| rdt::Group::create(rdt, request.id))
        .transpose()?;
    let cgroup = make_cgroup(request, spec)?;
    prepare(spec, request.bundle, &rootfs)?;
    let root = RootMount::make(&rootfs, request.state_dir)?;

    let mut opts = super::rpc::Opts {
        images_dir_fd: images.as_raw_fd(),
        work_dir_fd: work.as_ref().map(AsRawFd::as_raw_fd),
        root: Some(root.path.to_string_lossy().into_owned()),
        evasive_devices: Some(true),
        // The restored process becomes our child rather than CRIU's.
        rst_sibling: Some(true),
        config_file: config_file(spec),
        lsm_profile: options.lsm_profile.clone(),
        lsm_mount_context: options.lsm_mount_context.clone(),
        join_ns,
        inherit_fd: external::inherited_streams(&streams),
        ..options.common(LOG)
    };
    let mut inherited = Vec::new();
    for (fd, (key, namespace)) in (FIRST_INHERITED..).zip(inherited_namespaces) {
        opts.inherit_fd.push(InheritFd { key, fd });
        inherited.push(namespace);
    }
    for bind in external::binds(spec, request.bundle, &cgroup.mounts())
        .into_iter()
        .chain(external::devices(spec))
    {
        opts.ext_mnt
            .push(external::mount(&external::resolve(&rootfs, &bind.inside), &bind.outside));
    }
    let masks = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.masked_paths().as_ref())
        .is_some_and(|list| !list.is_empty());
    if masks {
        opts.ext_mnt.push(external::mount(Path::new("/dev/null"), Path::new("/dev/null")));
    }
    let entry = cgroup.entry().map_err(of_cgroup)?;
    let mut swrk = Swrk::start(Setup { stdio: request.stdio, inherited, entry: Some(entry) })?;
    opts.cg_root = cgroup_roots(swrk.pid())?;
    let log = options.log_directory().join(LOG);
    let asked = Request { kind: RESTORE, opts: Some(opts), ..Request::default() };
    let mut progress = Progress { request, spec, rdt: rdt.as_ref(), pid: None, console: None };
    let answer = swrk.ask("restore", &asked, |notice, fd| progress.notice(notice, fd));
    let Progress { pid, console, .. } = progress;
    // From here on the cgroup's guard alone would leave processes behind.
    let mut restored = Restored { record: Record::default(), cgroup: Some(cgroup), rdt, console };
    restored.record.pid = pid.unwrap_or_default();
    let answer = answer.map_err(|error| match error {
        Error::Failed { .. } => failure("restore", None, &log),
        other => other,
    })?;
    if !answer.success {
        return Err(failure("restore", Some(&answer), &log));
    }
    if !swrk.finish("restore")? {
        return Err(failure("restore", None, &log));
    }
    let pid = answer.restore.map(|answer| answer.pid).or(pid).ok_or(Error::Garbled("restore"))?;
    let start_time = lifecycle::start_time(pid).map_err(|error| Error::Unsupported {
        what: "the restored process".to_owned(),
        reason: error.to_string(),
    })?;
    if let Some(cgroup) = &mut restored.cgroup {
        cgroup.joined().map_err(of_cgroup)?;
        restored.record = Record {
            id: request.id.to_owned(),
            pid,
            start_time,
            cgroup: cgroup.record(),
            rdt: restored.rdt.as_ref().map(rdt::Group::record),
            rootless,
            shared_pid: !external::has(spec, Kind::Pid),
            restored_time: namespaces::is_shared(pid, "time") == Some(false),
            ..Record::default()
        };
    }
    Ok(restored)
}

fn of_cgroup(error: cgroups::Error) -> Error {
    Error::Unsupported { what: "the container's cgroup".to_owned(), reason: error.to_string() }
}

fn make_cgroup(request: &RestoreRequest<'_>, spec: &Spec) -> Result<Cgroup, Error> {
    let linux = spec.linux().as_ref();
    let wanted = cgroups::Request {
        path: linux.and_then(|linux| linux.cgroups_path().as_deref()),
        id: request.id,
        systemd: request.systemd_cgroup,
        rootless: false,
        resources: linux.and_then(|linux| linux.resources().as_ref()),
        annotations: spec.annotations().as_ref(),
        owner: None,
    };
    cgroups::plan(&wanted).and_then(cgroups::Plan::create).map_err(of_cgroup)
}

/// What CRIU asked back so far.
struct Progress<'a> {
    request: &'a RestoreRequest<'a>,
    spec: &'a Spec,
    rdt: Option<&'a rdt::Group>,
    pid: Option<i32>,
    console: Option<OwnedFd>,
}

impl Progress<'_> {
    fn notice(&mut self, notice: &Notice, fd: Option<OwnedFd>) -> Result<(), Error> {
        match notice.script.as_deref() {
            Some("setup-namespaces") => {
                let pid = notice.pid.unwrap_or_default();
                // All others and all threads are its descendants, and begin where it is.
                if let Some(group) = self.rdt {
                    group.join(pid)?;
                }
                self.run_hooks(pid)
            }
            Some("post-restore") => {
                self.pid = notice.pid;
                Ok(())
            }
            Some("orphan-pts-master") => {
                let master = fd.ok_or(Error::Garbled("restore"))?;
                match self.request.console_socket {
                    Some(path) => pty::send(path, master).map_err(|error| Error::Unsupported {
                        what: format!("--console-socket {}", path.display()),
                        reason: error.to_string(),
                    }),
                    None => {
                        // What was saved may have had a console socket. No reason to fail.
                        let _ = pty::plain_newlines(&master);
                        self.console = Some(master);
                        Ok(())
                    }
                }
            }
            _ => Ok(()),
        }
    }

    fn run_hooks(&self, pid: i32) -> Result<(), Error> {
        let Some(all) = self.spec.hooks() else { return Ok(()) };
        let state = oci::State {
            oci_version: self.spec.version().clone(),
            id: self.request.id.to_owned(),
            status: oci::Status::Creating,
            pid: Some(pid),
            bundle: self.request.bundle.to_owned(),
            annotations: self.spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        };
        #[allow(deprecated)] // Still a field of the specification.
        let prestart = all.prestart();
        for (list, kind) in
            [(prestart, hooks::Kind::Prestart), (all.create_runtime(), hooks::Kind::CreateRuntime)]
        {
            hooks::run(list.as_deref().unwrap_or_default(), kind, &state).map_err(|error| {
                Error::Unsupported { what: "hooks".to_owned(), reason: error.to_string() }
            })?;
        }
        Ok(())
    }
}

/// The names of the streams that the image was made with.
fn descriptors(images: &Path) -> Result<Vec<String>, Error> {
    let path = images.join(DESCRIPTORS);
    let failed = |source| Error::io(format!("read {}", path.display()), source);
    let mut text = String::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_DESCRIPTORS).read_to_string(&mut text))
        .map_err(failed)?;
    let names: Vec<String> = serde_json::from_str(&text).map_err(|error| failed(error.into()))?;
    if names.len() > 3 {
        return Err(failed(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    Ok(names)
}

/// Where CRIU's own process is: the roots of the restored cgroups.
fn cgroup_roots(pid: i32) -> Result<Vec<CgroupRoot>, Error> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| Error::io(format!("read {path}"), source))?;
    Ok(roots_of(&text))
}

fn roots_of(text: &str) -> Vec<CgroupRoot> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else { continue };
        for name in names.split(',') {
            out.push(CgroupRoot { controller: Some(name.to_owned()), path: path.to_owned() });
        }
    }
    out
}

/// The rootfs bound to a place of its own: CRIU wants a mount point whose parent is not mounted over.
struct RootMount {
    path: PathBuf,
    mounted: bool,
}

impl RootMount {
    fn make(rootfs: &Path, state_dir: &Path) -> Result<RootMount, Error> {
        let state_dir = state_dir
            .canonicalize()
            .map_err(|source| Error::io(format!("look at {}", state_dir.display()), source))?;
        let path = state_dir.join("criu-root");
        std::fs::create_dir(&path)
            .map_err(|source| Error::io(format!("make {}", path.display()), source))?;
        let mut root = RootMount { path, mounted: false };
        mount(
            Some(rootfs),
            &root.path,
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )
        .map_err(|errno| {
            Error::io(format!("bind {} to {}", rootfs.display(), root.path.display()), errno.into())
        })?;
        root.mounted = true;
        Ok(root)
    }
}

impl Drop for RootMount {
    fn drop(&mut self) {
        if self.mounted {
            let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Makes the mount points that are missing in the rootfs and in what is bound there, as creating the
/// container would have. What lies in another mount is CRIU's to bring back.
fn prepare(spec: &Spec, bundle: &Path, rootfs: &Path) -> Result<(), Error> {
    let open = |path: &Path| {
        let c_path = crate::path::c_path(path).map_err(|failure| unprepared(path, failure))?;
        sys::open(&c_path, libc::O_PATH | libc::O_DIRECTORY, 0)
            .map(Root::new)
            .map_err(|errno| Error::io(format!("open {}", path.display()), errno.into()))
    };
    let root = open(rootfs)?;
    // Where something is mounted, and the directory that is bound there.
    let mut over: Vec<(PathBuf, Option<PathBuf>)> = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let destination = external::clean(mount.destination());
        let source = bundle.join(mount.source().clone().unwrap_or_default());
        let is_bind = external::is_bind(mount);
        let file = is_bind && source.is_file();
        let make = if file { Make::File } else { Make::Directory };
        let cgroup = matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"));
        let above = over
            .iter()
            .rev()
            .find(|(above, _)| destination.starts_with(above) && destination != *above);
        let place = match above {
            None => Some((&root, destination.clone())),
            Some((_, None)) => None,
            Some((above, Some(bound))) => {
                let inside = destination.strip_prefix(above).unwrap_or(&destination);
                make_point(&open(bound)?, &Path::new("/").join(inside), make)?;
                None
            }
        };
        if let Some((root, inside)) = place
            && !cgroup
            && destination != Path::new("/")
        {
            make_point(root, &inside, make)?;
        }
        over.push((destination, (is_bind && !file).then_some(source)));
    }
    Ok(())
}

fn make_point(root: &Root, path: &Path, make: Make) -> Result<(), Error> {
    root.open_or_make(path, make).map(drop).map_err(|failure| unprepared(path, failure))
}

fn unprepared(path: &Path, failure: crate::error::Failure) -> Error {
    Error::Unsupported {
        what: format!("mount point {}", path.display()),
        reason: failure.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_controller_has_a_root() {
        let got = roots_of("3:cpu,cpuacct:/a:b\n1:name=systemd:/c\n0::/d\n");
        let pairs: Vec<_> = got
            .iter()
            .map(|root| (root.controller.as_deref().unwrap(), root.path.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [("cpu", "/a:b"), ("cpuacct", "/a:b"), ("name=systemd", "/c"), ("", "/d")]
        );
    }

    #[test]
    fn missing_mount_points_are_made_in_the_rootfs_and_in_binds_only() {
        let bundle = std::env::temp_dir().join(format!("hull-criu-prepare-{}", std::process::id()));
        let rootfs = bundle.join("rootfs");
        std::fs::create_dir_all(&rootfs).unwrap();
        std::fs::write(bundle.join("file"), "").unwrap();
        std::fs::create_dir(bundle.join("data")).unwrap();
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "mounts": [
                {"destination": "/proc", "type": "proc"},
                {"destination": "/dev", "type": "tmpfs"},
                {"destination": "/dev/shm", "type": "tmpfs"},
                {"destination": "/etc/name", "type": "bind", "source": "file"},
                {"destination": "/data", "type": "bind", "source": "data"},
                {"destination": "/data/for/nested", "type": "bind", "source": "file"},
            ],
        }))
        .unwrap();
        prepare(&spec, &bundle, &rootfs).unwrap();
        assert!(rootfs.join("proc").is_dir() && rootfs.join("dev").is_dir());
        assert!(rootfs.join("etc/name").is_file());
        assert!(!rootfs.join("dev/shm").exists());
        assert!(rootfs.join("data").is_dir() && !rootfs.join("data/for").exists());
        assert!(bundle.join("data/for/nested").is_file());
        std::fs::remove_dir_all(bundle).unwrap();
    }
}
