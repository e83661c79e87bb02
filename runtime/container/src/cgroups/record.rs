//! A cgroup that exists: freezing, killing, listing, changing and removing it.

use super::entry::Entry;
use super::error::{Error, Result};
use super::fs;
use super::layout::Layout;
use super::systemd;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a cgroup may take to stop or to empty.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the state file remembers of a cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Directory by controller; the v2 cgroup has the empty name, as in `/proc/PID/cgroup`.
    pub paths: BTreeMap<String, PathBuf>,
    /// Directories above that were made for it, in the order they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<PathBuf>,
    /// The systemd unit, with the systemd driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The unit is of a user's own systemd.
    #[serde(default)]
    pub user_unit: bool,
    /// Made without being root.
    #[serde(default)]
    pub rootless: bool,
}

/// One hierarchy as a `cgroup` mount in a container shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Name of the directory under the mount: `cpu`, `cpu,cpuacct`, `systemd`, `unified`; empty on a
    /// machine with v2 alone, where the cgroup itself is what is mounted.
    pub name: String,
    /// Symbolic links to it (`cpu` for `cpu,cpuacct`).
    pub links: Vec<String>,
    /// The container's own cgroup in it, as the host sees it: what is bound without a cgroup namespace.
    pub source: PathBuf,
    /// `cgroup2` rather than `cgroup`.
    pub v2: bool,
    /// Mount data for mounting it afresh in a cgroup namespace (`cpu,cpuacct`, `none,name=systemd`).
    pub data: String,
}

pub(super) fn hierarchies(layout: &Layout, record: &Record) -> Vec<Hierarchy> {
    let mut out = Vec::new();
    let base_name = |path: &Path| {
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    // Where an ordinary user may not make a cgroup, the container stays in the caller's.
    let source = |name: &str, own: &PathBuf| {
        record
            .paths
            .get(name)
            .or(record.rootless.then_some(own).filter(|own| own.is_dir()))
            .cloned()
    };
    for v1 in &layout.v1 {
        let Some(source) = v1.controllers.first().and_then(|name| source(name, &v1.own)) else {
            continue;
        };
        let name = base_name(&v1.mountpoint);
        let links = match v1.controllers.as_slice() {
            [_] => Vec::new(),
            several => several.iter().filter(|link| **link != name).cloned().collect(),
        };
        let named = v1.controllers.iter().any(|controller| controller.starts_with("name="));
        let data = v1.controllers.join(",");
        let data = if named { format!("none,{data}") } else { data };
        out.push(Hierarchy { name, links, source, v2: false, data });
    }
    let v2 = layout.v2.as_ref().and_then(|v2| Some((v2, source("", &v2.own)?)));
    if let Some((v2, source)) = v2 {
        let name = if layout.v1.is_empty() { String::new() } else { base_name(&v2.mountpoint) };
        out.push(Hierarchy { name, links: Vec::new(), source, v2: true, data: String::new() });
    }
    out
}

/// Doubles from half a millisecond up to 20 ms, until patience ends.
struct Wait<'a> {
    start: Instant,
    pause: Duration,
    path: &'a Path,
    what: &'static str,
}

impl<'a> Wait<'a> {
    fn new(path: &'a Path, what: &'static str) -> Wait<'a> {
        Wait { start: Instant::now(), pause: Duration::from_micros(250), path, what }
    }

    fn again(&mut self) -> Result<()> {
        if self.start.elapsed() > PATIENCE {
            let millis = PATIENCE.as_millis() as u64;
            return Err(Error::Timeout { path: self.path.to_path_buf(), what: self.what, millis });
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(Duration::from_millis(20));
        Ok(())
    }
}

impl Record {
    /// The v2 cgroup, if it has what v2 alone can do (a kernel before 5.2 cannot freeze there).
    fn v2_with(&self, file: &str) -> Option<PathBuf> {
        let file = self.paths.get("")?.join(file);
        file.exists().then_some(file)
    }

    /// The directory whose processes are the container's.
    pub(super) fn main(&self) -> Option<&PathBuf> {
        let order = ["", "devices", "freezer", "pids", "memory", "name=systemd"];
        order.iter().find_map(|name| self.paths.get(*name)).or_else(|| self.paths.values().next())
    }

    fn directories(&self) -> BTreeSet<&PathBuf> {
        self.paths.values().collect()
    }

    /// Stops every process of the cgroup from running.
    pub fn freeze(&self) -> Result<()> {
        if let Some(file) = self.v2_with("cgroup.freeze") {
            fs::write(&file, "1")?;
            let events = file.with_file_name("cgroup.events");
            let mut wait = Wait::new(&events, "frozen");
            while !event(&events, "frozen")? {
                wait.again().inspect_err(|_| {
                    let _ = fs::write(&file, "0");
                })?;
            }
            return Ok(());
        }
        let state = self.freezer_state()?;
        let mut wait = Wait::new(&state, "frozen");
        let mut rounds = 0u32;
        loop {
            fs::write(&state, "FROZEN")?;
            if fs::read(&state)?.trim() == "FROZEN" {
                return Ok(());
            }
            rounds += 1;
            // A process forking all the time can escape the v1 freezer: letting go for a moment helps.
            if rounds.is_multiple_of(50) {
                fs::write(&state, "THAWED")?;
            }
            wait.again().inspect_err(|_| {
                let _ = fs::write(&state, "THAWED");
            })?;
        }
    }

    /// Lets the processes run again.
    pub fn thaw(&self) -> Result<()> {
        if let Some(file) = self.v2_with("cgroup.freeze") {
            fs::write(&file, "0")?;
        }
        match self.freezer_state() {
            Ok(state) if fs::read(&state)?.trim() != "THAWED" => fs::write(&state, "THAWED"),
            Ok(_) => Ok(()),
            // v2 alone froze it.
            Err(_) if self.paths.contains_key("") => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the processes are stopped, by whichever freezer.
    pub fn frozen(&self) -> Result<bool> {
        if let Some(directory) = self.paths.get("") {
            match fs::read_raw(&directory.join("cgroup.events")) {
                Ok(text) if fs::pairs(&text).any(|pair| pair == ("frozen", 1)) => return Ok(true),
                _ => {}
            }
        }
        let Some(directory) = self.paths.get("freezer") else { return Ok(false) };
        let state = fs::read_raw(&directory.join("freezer.state")).unwrap_or_default();
        Ok(matches!(state.trim(), "FROZEN" | "FREEZING"))
    }

    fn freezer_state(&self) -> Result<PathBuf> {
        let directory = self.paths.get("freezer").ok_or_else(|| Error::Missing {
            field: "(pause)".to_owned(),
            controller: "freezer".to_owned(),
        })?;
        Ok(directory.join("freezer.state"))
    }

    /// Sends SIGKILL to every process, nested cgroups included. Returns when none is left that the
    /// kernel still lists.
    pub fn kill_all(&self) -> Result<()> {
        if let Some(file) = self.v2_with("cgroup.kill") {
            kill(&file)?;
        }
        let mut path = Path::new("/");
        if let Some(main) = self.main() {
            path = main;
        }
        let mut wait = Wait::new(path, "empty");
        loop {
            let left = self.everywhere()?;
            if left.is_empty() {
                return Ok(());
            }
            for pid in left {
                // SAFETY: sends a signal, touches no memory.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            // A process stopped by the v1 freezer does not even die.
            match self.thaw() {
                Err(_) if !self.exists() => return Ok(()),
                done => done?,
            }
            wait.again()?;
        }
    }

    /// Sends a signal to every process, nested cgroups included.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL
            && let Some(file) = self.v2_with("cgroup.kill")
        {
            return kill(&file);
        }
        // Stopped while the list is made, so that no fork escapes it.
        let was_frozen = self.frozen()?;
        let freezes = !was_frozen && self.freeze().is_ok();
        let result = self.processes().map(|list| {
            for pid in list {
                // SAFETY: sends a signal, touches no memory.
                unsafe { libc::kill(pid, signal) };
            }
        });
        if freezes {
            self.thaw()?;
        }
        result
    }

    /// All processes, nested cgroups included, in ascending order.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let Some(main) = self.main() else { return Ok(Vec::new()) };
        let mut all = BTreeSet::new();
        collect(main, &mut all)?;
        Ok(all.into_iter().collect())
    }

    /// The processes of all hierarchies: one that left some of them is still the container's.
    fn everywhere(&self) -> Result<BTreeSet<i32>> {
        let mut all = BTreeSet::new();
        for directory in self.directories() {
            collect(directory, &mut all)?;
        }
        Ok(all)
    }

    /// Whether any directory of it still exists.
    pub fn exists(&self) -> bool {
        self.directories().into_iter().any(|directory| directory.exists())
    }

    /// Removes the cgroup with everything nested in it. Its processes must have been killed.
    pub fn remove(&self) -> Result<()> {
        if let Some(unit) = &self.unit {
            systemd::stop(unit, self.user_unit)?;
        }
        for directory in self.directories() {
            fs::remove(directory, PATIENCE)?;
        }
        self.remove_parents();
        Ok(())
    }

    fn remove_parents(&self) {
        for parent in self.parents.iter().rev() {
            // Another container may be in there by now.
            let _ = fs::rmdir(parent);
        }
    }

    /// Removes the cgroup; processes that are left in it are killed first. The usual case, that there
    /// are none, is found out by just removing.
    pub fn clear(&self) -> Result<()> {
        let empty = self.unit.is_none()
            && self.directories().into_iter().all(|directory| fs::rmdir(directory).is_ok());
        if empty {
            self.remove_parents();
            return Ok(());
        }
        if self.exists() {
            self.kill_all()?;
        }
        self.remove()
    }

    /// Descriptors for one more process (`exec`). Each of `sub` is runc's `--cgroup`: a path below the
    /// container's cgroup, or `controller[,controller]:path` on v1.
    pub fn entry(&self, sub: &[String]) -> Result<Entry> {
        if sub.is_empty() {
            return Entry::open(&self.paths);
        }
        let mut paths = self.paths.clone();
        for argument in sub {
            let missing = || Error::NoSub { argument: argument.clone() };
            let (controllers, below) = match argument.split_once(':') {
                Some((controllers, below)) => (Some(controllers), below),
                None => (None, argument.as_str()),
            };
            let below = Path::new(below.trim_start_matches('/'));
            if below.components().any(|part| matches!(part, Component::ParentDir)) {
                return Err(Error::Outside { argument: argument.clone() });
            }
            let mut known = controllers.into_iter().flat_map(|list| list.split(','));
            if let Some(one) = known.find(|one| !self.paths.contains_key(*one)) {
                let controller = one.to_owned();
                return Err(Error::Controller { argument: argument.clone(), controller });
            }
            let mut moved = false;
            for (name, path) in paths.iter_mut() {
                let chosen = controllers
                    .is_none_or(|list| list.split(',').any(|one| one == name && !one.is_empty()));
                let target = self.paths[name].join(below);
                if chosen && target.is_dir() {
                    *path = target;
                    moved = true;
                } else if chosen && controllers.is_some() {
                    return Err(missing());
                }
            }
            if !moved {
                return Err(missing());
            }
        }
        Entry::open(&paths)
    }

    /// The same, but on v2 beside process `pid`: where the container has divided its cgroup among
    /// groups below (as systemd does), no process may be in the cgroup itself; where it has left it,
    /// there may be none.
    pub fn entry_beside(&self, pid: i32) -> Result<Option<Entry>> {
        let Some(top) = self.paths.get("") else { return Ok(None) };
        let has = |directory: &PathBuf| {
            let list = fs::read_raw(&directory.join("cgroup.procs")).unwrap_or_default();
            list.lines().any(|line| line.parse() == Ok(pid))
        };
        let below = || fs::tree(top).into_iter().find(has);
        let Some(there) = Layout::read()?.v2_of(pid).filter(has).or_else(below) else {
            return Ok(None);
        };
        let mut paths = self.paths.clone();
        paths.insert(String::new(), there);
        Entry::open(&paths).map(Some)
    }

    /// Whether systemd can be asked to move a process into the cgroup ([`Record::attach`]).
    pub fn can_attach(&self) -> bool {
        self.user_unit && systemd::knows_our_numbers()
    }

    /// Lets systemd move a process into the cgroup.
    pub fn attach(&self, pid: i32) -> Result<()> {
        let Some(unit) = &self.unit else { return Ok(()) };
        systemd::attach(unit, pid, self.user_unit)
    }

    /// Whether the container has given controllers of its v2 cgroup to groups below.
    pub fn is_divided(&self) -> bool {
        let file = self.paths.get("").map(|directory| directory.join("cgroup.subtree_control"));
        file.is_some_and(|file| fs::read_raw(&file).is_ok_and(|list| !list.trim().is_empty()))
    }

    /// What a `cgroup` mount shows.
    pub fn mounts(&self) -> Result<Vec<Hierarchy>> {
        Ok(hierarchies(&Layout::read()?, self))
    }
}

/// Kills by `cgroup.kill`. systemd removes the cgroup of a scope that became empty: then there is
/// nobody left.
fn kill(file: &Path) -> Result<()> {
    match fs::put(file, "1") {
        Err(source) if !matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
            Err(Error::io("write 1 to", file, source))
        }
        _ => Ok(()),
    }
}

/// One flag of `cgroup.events`.
fn event(file: &Path, key: &str) -> Result<bool> {
    let text = fs::read(file)?;
    Ok(fs::pairs(&text).any(|pair| pair == (key, 1)))
}

/// How many processes there are below `directory`.
pub(super) fn count(directory: &Path) -> Result<usize> {
    let mut all = BTreeSet::new();
    collect(directory, &mut all)?;
    Ok(all.len())
}

/// Adds the processes below `directory`. One that is gone has none.
fn collect(directory: &Path, all: &mut BTreeSet<i32>) -> Result<()> {
    for directory in fs::tree(directory) {
        let file = directory.join("cgroup.procs");
        match fs::read_raw(&file) {
            Ok(text) => all.extend(
                text.lines().filter_map(|pid| pid.parse::<i32>().ok()).filter(|&pid| pid > 0),
            ),
            // Gone; or a threaded cgroup, whose processes its domain lists.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
                ) => {}
            Err(source) => return Err(Error::io("read", file, source)),
        }
    }
    Ok(())
}

#[cfg(test)]
impl Record {
    /// The directory above the main one.
    pub(super) fn main_parent(&self) -> PathBuf {
        self.main().and_then(|main| main.parent()).map(Path::to_path_buf).unwrap_or_default()
    }
}
