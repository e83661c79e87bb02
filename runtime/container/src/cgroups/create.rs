//! Making a cgroup: directories, limits, and undoing both.

use super::apply::carry_out;
use super::devices::{attach, bpf, rules::State};
use super::entry::{Entry, Remover};
use super::error::{Error, Result};
use super::fs;
use super::layout::Layout;
use super::plan::Plan;
use super::record::{self, Hierarchy, Record};
use super::systemd;
use oci::spec::{LinuxPids, LinuxResources};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a directory is made again when a parent vanishes meanwhile (another container's end).
const ATTEMPTS: u32 = 16;

/// A created cgroup. Dropped without [`Cgroup::keep`], it is removed.
#[derive(Debug)]
pub struct Cgroup {
    layout: Layout,
    record: Record,
    /// Directories that did not exist before, in the order they were made.
    made: Vec<PathBuf>,
    /// Holds a systemd scope open until the container's first process is in it.
    holder: Option<systemd::Holder>,
    /// A limit of one process, put off: beside the holder there would be no place for it.
    single: Option<LinuxPids>,
    kept: bool,
}

impl Plan {
    /// Removes the directories of a container whose `create` was killed, as far as they are empty:
    /// whoever is in there is not that container's, whose process has ended by itself.
    pub fn discard(&self) {
        for directory in self.paths.values() {
            if let Err(error) = fs::rmdir(directory) {
                tracing::debug!("{error}");
            }
        }
    }

    /// Makes the directories and writes the limits.
    pub fn create(self) -> Result<Cgroup> {
        self.create_noting(&|_, _| ())
    }

    /// The same, telling beforehand of each directory that is about to be made (`true`), and after
    /// if it was there already (`false`).
    pub fn create_noting(mut self, note: &dyn Fn(&Path, bool)) -> Result<Cgroup> {
        let mut cgroup = Cgroup {
            record: Record {
                paths: self.paths.clone(),
                rootless: self.rootless,
                ..Record::default()
            },
            layout: self.layout.clone(),
            made: Vec::new(),
            holder: None,
            single: None,
            kept: false,
        };
        if self.unit.is_some() {
            self.refuse_unit(&cgroup)?;
            cgroup.single = self.put_off_single();
        }
        if let Some(unit) = &self.unit {
            let holder = systemd::start(
                unit,
                &self.resources,
                &self.limits,
                &self.annotations,
                &self.layout,
                self.rootless,
            )?;
            cgroup.record.unit = Some(unit.name.clone());
            cgroup.record.user_unit = self.rootless;
            if let Some(directory) = holder.directory(&self.layout) {
                cgroup.record.paths.insert(String::new(), directory);
            }
            cgroup.holder = Some(holder);
        }
        self.make_v1(&mut cgroup, note)?;
        let available = self.make_v2(&mut cgroup, note)?;
        // Whoever enters a frozen cgroup, or one below, is stopped before it can say anything.
        if cgroup.record.frozen()? {
            let path = cgroup.record.main().cloned().unwrap_or_default();
            return Err(Error::Frozen { path });
        }
        if self.layout.v2.is_some() && !self.limits.v2.is_empty() {
            let directory = cgroup.record.paths.get("").cloned();
            let find = |controller: &str| {
                let there =
                    available.iter().any(|known| known == controller) || is_core(controller);
                directory.clone().filter(|_| there)
            };
            carry_out(&self.limits.v2, &find, self.rootless)?;
        }
        self.allow_devices(&cgroup)?;
        Ok(cgroup)
    }

    /// Refuses a unit that is another's, before systemd is asked for it and may remove it.
    fn refuse_unit(&self, cgroup: &Cgroup) -> Result<()> {
        if cgroup.record.frozen()? {
            let path = cgroup.record.main().cloned().unwrap_or_default();
            return Err(Error::Frozen { path });
        }
        let slice = self.unit.as_ref().is_some_and(|unit| unit.name.ends_with(".slice"));
        match cgroup.record.main().filter(|path| !slice && path.is_dir()) {
            Some(directory) => refuse_processes(directory),
            None => Ok(()),
        }
    }

    /// Allows one process more where only one is allowed; gives the limit to be set later.
    fn put_off_single(&mut self) -> Option<LinuxPids> {
        let single = self.resources.pids().filter(|pids| pids.limit() == 1)?;
        let mut two = single;
        two.set_limit(2);
        self.resources.set_pids(Some(two));
        for write in self.limits.v1.iter_mut().chain(&mut self.limits.v2) {
            if write.field == "pids.limit" {
                write.value = "2".to_owned();
            }
        }
        Some(single)
    }

    fn make_v1(&self, cgroup: &mut Cgroup, note: &dyn Fn(&Path, bool)) -> Result<()> {
        for v1 in &self.layout.v1 {
            let Some(directory) = v1.controllers.first().and_then(|name| self.paths.get(name))
            else {
                continue;
            };
            let made = make(directory, &v1.mountpoint, &mut cgroup.made, note);
            match made.and_then(|()| self.may_enter(cgroup, directory)) {
                Ok(()) => {}
                Err(source) if self.rootless && not_ours(&source) => {
                    for controller in &v1.controllers {
                        cgroup.record.paths.remove(controller);
                    }
                    continue;
                }
                Err(source) => return Err(Error::io("make", directory, source)),
            }
            if v1.controllers.iter().any(|name| name == "cpuset") {
                let planned = |file: &str| self.limits.v1.iter().any(|write| write.file == file);
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    inherit(directory, &v1.mountpoint, file, planned(file))?;
                }
            }
        }
        if self.layout.v1.is_empty() {
            return Ok(());
        }
        let paths = &cgroup.record.paths;
        // Before its limits are touched: it may be another container's.
        let one = paths.get("devices").or_else(|| {
            paths.iter().find(|(name, _)| !name.is_empty()).map(|(_, directory)| directory)
        });
        if let Some(directory) = one {
            self.refuse_used(cgroup, directory)?;
        }
        carry_out(&self.limits.v1, &|controller| paths.get(controller).cloned(), self.rootless)
    }

    /// Makes the v2 cgroup; gives the controllers it has.
    fn make_v2(&self, cgroup: &mut Cgroup, note: &dyn Fn(&Path, bool)) -> Result<Vec<String>> {
        let (Some(v2), Some(directory)) = (&self.layout.v2, cgroup.record.paths.get("").cloned())
        else {
            return Ok(Vec::new());
        };
        let made = make(&directory, &v2.mountpoint, &mut cgroup.made, note);
        match made.and_then(|()| self.may_enter(cgroup, &directory)) {
            Ok(()) => {}
            // Beside v1 hierarchies, and for a user, the container does without.
            Err(source) if not_ours(&source) && (self.rootless || !self.layout.v1.is_empty()) => {
                cgroup.record.paths.remove("");
                return Ok(Vec::new());
            }
            Err(source) => return Err(Error::io("make", &directory, source)),
        }
        self.refuse_used(cgroup, &directory)?;
        let hybrid = !self.layout.v1.is_empty();
        let available = if hybrid && self.limits.v2.is_empty() {
            Vec::new()
        } else {
            // systemd enables what it manages; beside v1 hierarchies only what is used is taken.
            let sparing = hybrid || self.unit.is_some();
            enable(&directory, &v2.mountpoint, sparing.then_some(&self.limits.v2))?
        };
        if let Some((uid, gid)) = self.owner {
            delegate(&directory, uid, gid)?;
        }
        Ok(available)
    }

    /// Whether an ordinary user may put processes into a cgroup that was there: it may be another
    /// user's container of the same name.
    fn may_enter(&self, cgroup: &Cgroup, directory: &Path) -> io::Result<()> {
        if !self.rootless || cgroup.made.iter().any(|made| made == directory) {
            return Ok(());
        }
        fs::open(&directory.join("cgroup.procs"), libc::O_WRONLY).map(drop)
    }

    /// Refuses a cgroup that was there and has processes.
    fn refuse_used(&self, cgroup: &Cgroup, directory: &Path) -> Result<()> {
        // A scope that systemd made is held open by a process of ours.
        if self.unit.is_some() || cgroup.made.iter().any(|made| made == directory) {
            return Ok(());
        }
        refuse_processes(directory)
    }

    fn allow_devices(&self, cgroup: &Cgroup) -> Result<()> {
        if let Some(directory) = cgroup.record.paths.get("devices") {
            return match write_devices(directory, &State::of(&self.limits.devices)?.lines()) {
                // The kernel leaves device rules to real root.
                Err(Error::Io { .. } | Error::Limit { .. }) if self.rootless => Ok(()),
                other => other,
            };
        }
        let Some(directory) = cgroup.record.paths.get("") else { return Ok(()) };
        if bpf::allows_everything(&self.limits.devices) || self.layout.v1_of("devices").is_some() {
            return Ok(());
        }
        let fd = fs::open(directory, libc::O_RDONLY | libc::O_DIRECTORY)
            .map_err(|source| Error::io("open", directory, source))?;
        match attach::attach(directory, fd.as_fd(), &bpf::program(&self.limits.devices), false) {
            // A user can neither make device nodes nor load such programs.
            Err(Error::Bpf { source, .. }) if self.rootless && not_ours(&source) => {
                tracing::debug!(
                    "linux.resources.devices: not set: BPF is not permitted to this user"
                );
                Ok(())
            }
            other => other,
        }
    }
}

fn refuse_processes(directory: &Path) -> Result<()> {
    match record::count(directory)? {
        0 => Ok(()),
        count => Err(Error::NotEmpty { path: directory.to_path_buf(), count }),
    }
}

/// Files that every v2 cgroup has, without a controller.
fn is_core(controller: &str) -> bool {
    controller == "cgroup"
}

/// A refusal that means the hierarchy is not ours to change.
pub(super) fn not_ours(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

/// Makes `path` and what is missing above it.
fn make(
    path: &Path,
    top: &Path,
    made: &mut Vec<PathBuf>,
    note: &dyn Fn(&Path, bool),
) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        note(path, true);
        let outcome = fs::mkdir(path);
        if !matches!(outcome, Ok(true)) {
            note(path, false);
        }
        match outcome {
            Ok(new) => {
                if new {
                    made.push(path.to_path_buf());
                }
                return Ok(());
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let Some(parent) = path.parent().filter(|parent| parent.starts_with(top) && *parent != top)
        else {
            break;
        };
        make(parent, top, made, note)?;
    }
    Err(io::Error::from_raw_os_error(libc::ENOENT))
}

/// Gives a v1 cpuset its parent's `file`: one without CPUs or nodes takes no process. `planned`: the
/// cgroup's own value is written later, only its parents must have one.
fn inherit(path: &Path, top: &Path, file: &str, planned: bool) -> Result<()> {
    let Some(parent) = path.parent().filter(|parent| parent.starts_with(top)) else {
        return Ok(());
    };
    let target = parent.join(file);
    let mut value = fs::line(&target)?;
    if value.is_empty() {
        inherit(parent, top, file, false)?;
        value = fs::line(&target)?;
    }
    if planned || value.is_empty() {
        return Ok(());
    }
    fs::write(&path.join(file), &value)
}

/// Enables controllers for `path` in every cgroup above it; gives those it has in the end.
///
/// `wanted`: only those that these writes need (beside v1 hierarchies); otherwise all.
fn enable(
    path: &Path,
    top: &Path,
    wanted: Option<&Vec<super::limits::Write>>,
) -> Result<Vec<String>> {
    let list = |path: &Path, file: &str| -> Result<Vec<String>> {
        Ok(fs::line(&path.join(file))?.split_whitespace().map(str::to_owned).collect())
    };
    let needed = |name: &String| {
        wanted.is_none_or(|writes| writes.iter().any(|write| write.controller == *name))
    };
    let have = list(path, "cgroup.controllers")?;
    let all: Vec<String> = list(top, "cgroup.controllers")?.into_iter().filter(needed).collect();
    if all.iter().all(|name| have.contains(name)) {
        return Ok(have);
    }
    let mut above: Vec<&Path> =
        path.ancestors().skip(1).take_while(|above| above.starts_with(top)).collect();
    above.reverse();
    let mut threaded = false;
    for directory in above {
        let enabled = list(directory, "cgroup.subtree_control")?;
        let here = list(directory, "cgroup.controllers")?;
        let missing: Vec<String> = here
            .into_iter()
            .filter(needed)
            .filter(|name| !enabled.contains(name))
            .map(|name| format!("+{name}"))
            .collect();
        if missing.is_empty() {
            continue;
        }
        let file = directory.join("cgroup.subtree_control");
        if fs::put(&file, &missing.join(" ")).is_ok() {
            continue;
        }
        // One that cannot be had must not keep the others away. What stays missing is reported
        // where a limit needs it.
        for name in missing {
            if let Err(error) = fs::put(&file, &name) {
                threaded |= error.raw_os_error() == Some(libc::EOPNOTSUPP);
            }
        }
    }
    if threaded
        && fs::read_raw(&path.join("cgroup.type")).is_ok_and(|kind| kind.trim() == "domain invalid")
    {
        // Below a threaded cgroup no other kind takes processes.
        fs::write(&path.join("cgroup.type"), "threaded")?;
    }
    list(path, "cgroup.controllers")
}

/// Gives the cgroup and the files a delegatee may write to a container's own root user.
fn delegate(path: &Path, uid: u32, gid: u32) -> Result<()> {
    let list = fs::read_raw(Path::new("/sys/kernel/cgroup/delegate")).unwrap_or_else(|_| {
        // Kernels before 4.15 do not say.
        "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n".to_owned()
    });
    let chown = |path: &Path| std::os::unix::fs::chown(path, Some(uid), Some(gid));
    chown(path).map_err(|source| Error::io("change owner of", path, source))?;
    for file in list.lines().filter(|file| !file.is_empty() && !file.contains('/')) {
        let file = path.join(file);
        match chown(&file) {
            Err(source) if source.raw_os_error() != Some(libc::ENOENT) => {
                return Err(Error::io("change owner of", file, source));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes lines to `devices.deny` (`true`) and `devices.allow`, each opened once.
pub(super) fn write_devices(directory: &Path, lines: &[(bool, String)]) -> Result<()> {
    let mut files = [None, None];
    for (deny, line) in lines {
        let path = directory.join(if *deny { "devices.deny" } else { "devices.allow" });
        let slot = &mut files[usize::from(*deny)];
        let fd = match slot {
            Some(fd) => fd,
            None => slot.insert(
                fs::open(&path, libc::O_WRONLY)
                    .map_err(|source| Error::io("open", path.clone(), source))?,
            ),
        };
        fs::write_fd(fd, line).map_err(|source| Error::Limit {
            field: "devices".to_owned(),
            value: line.clone(),
            path,
            source,
            hint: String::new(),
        })?;
    }
    Ok(())
}

impl Cgroup {
    /// The descriptors by which a child joins.
    pub fn entry(&self) -> Result<Entry> {
        Entry::open(&self.record.paths)
    }

    /// To be called once the container's first process is inside: lets go of what held a systemd
    /// scope open, and sets what had to wait for that.
    pub fn joined(&mut self) -> Result<()> {
        self.holder = None;
        let Some(single) = self.single.take() else { return Ok(()) };
        let mut resources = LinuxResources::default();
        resources.set_pids(Some(single));
        self.record.apply(&resources)
    }

    /// What the state file will remember.
    pub fn record(&self) -> Record {
        let leaves: BTreeSet<&PathBuf> = self.record.paths.values().collect();
        let parents = self.made.iter().filter(|path| !leaves.contains(path)).cloned().collect();
        Record { parents, ..self.record.clone() }
    }

    /// Keeps the cgroup beyond this value's life.
    pub fn keep(mut self) -> Record {
        self.kept = true;
        self.holder = None;
        self.record()
    }

    /// What a `cgroup` mount shows.
    pub fn mounts(&self) -> Vec<Hierarchy> {
        record::hierarchies(&self.layout, &self.record)
    }

    /// With this a child that outlives its creator can remove the cgroup.
    pub fn remover(&self) -> Result<Remover> {
        Remover::new(&self.layout, &self.record.paths, &self.made)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.holder = None;
        if let Some(unit) = &self.record.unit {
            let _ = systemd::stop(unit, self.record.user_unit);
        }
        for path in self.made.iter().rev() {
            // Parents may have become another container's meanwhile: they are only tried.
            let leaf = self.record.paths.values().any(|leaf| leaf == path);
            let patience = if leaf { Duration::from_secs(2) } else { Duration::ZERO };
            if let Err(error) = fs::remove_if_ours(path, leaf, patience) {
                tracing::debug!("{error}");
            }
        }
    }
}
