//! `linux.intelRdt`: cache and memory bandwidth of a container by resctrl.
//!
//! Sources: "IntelRdt" of the runtime specification, the kernel's `filesystems/resctrl.rst`.

use oci::spec::LinuxIntelRdt;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// resctrl could not be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No resctrl file system.
    #[error("linux.intelRdt: resctrl is not mounted on this machine")]
    Missing,
    /// A field that cannot be honoured.
    #[error("linux.intelRdt.{field}: {reason}")]
    Field {
        /// Name below `linux.intelRdt`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A system call failed.
    #[error("linux.intelRdt: {operation} {}: {source} {hint}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed; resctrl's own words are in `last_cmd_status`.
        source: io::Error,
        /// `info/last_cmd_status`.
        hint: String,
    },
}

/// What the state file remembers: the container's group, and the directories made for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// In the order they were made.
    pub made: Vec<PathBuf>,
    /// The container's group.
    #[serde(default)]
    pub group: PathBuf,
}

/// A control group of resctrl. Dropped without [`Group::keep`], what was made for it is removed.
#[derive(Debug)]
pub struct Group {
    /// `tasks` files that the first process is written to.
    tasks: Vec<PathBuf>,
    made: Vec<PathBuf>,
    path: PathBuf,
}

/// What is to be made and written.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    group: PathBuf,
    /// The group must be there already: `closID` names it and nothing is to be written.
    must_exist: bool,
    schemata: String,
    monitoring: Option<PathBuf>,
}

fn plan(root: &Path, rdt: &LinuxIntelRdt, id: &str) -> Result<Plan, Error> {
    let field = |field, reason: &str| Err(Error::Field { field, reason: reason.to_owned() });
    let clos = rdt.clos_id().as_deref().filter(|clos| !clos.is_empty());
    let group = match clos {
        // The default group.
        Some("/") => root.to_path_buf(),
        Some(name) => {
            let reserved = ["info", "mon_data", "mon_groups", ".", ".."];
            if name.contains(['/', '\n']) || reserved.contains(&name) {
                return field("closID", "is not the name of a group");
            }
            root.join(name)
        }
        None => root.join(id),
    };
    let lines = rdt.schemata().as_deref().unwrap_or_default();
    let mut schemata = Vec::new();
    for line in lines {
        if line.contains('\n') {
            return field("schemata", "each element is one line");
        }
        schemata.push(line.as_str());
    }
    if schemata.is_empty() {
        let parts = [
            (rdt.l3_cache_schema(), "l3CacheSchema", "L3"),
            (rdt.mem_bw_schema(), "memBwSchema", "MB:"),
        ];
        for (value, name, prefix) in parts {
            for line in value
                .as_deref()
                .unwrap_or_default()
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
            {
                if !line.starts_with(prefix) {
                    return field(name, &format!("{line:?} does not start with {prefix}"));
                }
                schemata.push(line);
            }
        }
    }
    let mut schemata = schemata.join("\n");
    if !schemata.is_empty() {
        schemata.push('\n');
    }
    let monitoring =
        rdt.enable_monitoring().unwrap_or(false).then(|| group.join("mon_groups").join(id));
    Ok(Plan { must_exist: clos.is_some() && schemata.is_empty(), group, schemata, monitoring })
}

/// The lines of the older fields, each of which has its own kind of line only.
fn schemes(l3: Option<&str>, bandwidth: Option<&str>) -> Result<String, Error> {
    let mut out = String::new();
    for (value, field, prefix) in [(l3, "l3CacheSchema", "L3"), (bandwidth, "memBwSchema", "MB:")] {
        for line in value.unwrap_or_default().lines().map(str::trim).filter(|line| !line.is_empty())
        {
            if !line.starts_with(prefix) {
                return Err(Error::Field {
                    field,
                    reason: format!("{line:?} does not start with {prefix}"),
                });
            }
            out.push_str(line);
            out.push('\n');
        }
    }
    Ok(out)
}

fn mounted() -> Option<PathBuf> {
    let info = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    info.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        back.starts_with("resctrl ").then(|| front.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// Whether resctrl can be used here.
pub fn available() -> bool {
    mounted().is_some()
}

impl Group {
    /// Makes (or takes) the group named by `closID`, else by the container's id, and writes its schemata.
    pub fn create(rdt: &LinuxIntelRdt, id: &str) -> Result<Group, Error> {
        let root = mounted().ok_or(Error::Missing)?;
        Group::carry_out(plan(&root, rdt, id)?, &root)
    }

    fn carry_out(plan: Plan, root: &Path) -> Result<Group, Error> {
        let failed = |operation, path: &Path, source| Error::Io {
            operation,
            path: path.to_path_buf(),
            source,
            hint: std::fs::read_to_string(root.join("info/last_cmd_status"))
                .unwrap_or_default()
                .trim()
                .to_owned(),
        };
        let mut group = Group { tasks: Vec::new(), made: Vec::new(), path: plan.group.clone() };
        let make = |path: &Path, made: &mut Vec<PathBuf>| match std::fs::create_dir(path) {
            Ok(()) => {
                made.push(path.to_path_buf());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(source) => Err(failed("make", path, source)),
        };
        if plan.must_exist && !plan.group.is_dir() {
            return Err(Error::Field {
                field: "closID",
                reason: format!("{} does not exist", plan.group.display()),
            });
        }
        make(&plan.group, &mut group.made)?;
        if !plan.schemata.is_empty() {
            let file = plan.group.join("schemata");
            std::fs::write(&file, &plan.schemata)
                .map_err(|source| failed("write to", &file, source))?;
        }
        group.tasks.push(plan.group.join("tasks"));
        if let Some(monitoring) = plan.monitoring {
            make(&monitoring, &mut group.made)?;
            group.tasks.push(monitoring.join("tasks"));
        }
        Ok(group)
    }

    /// Moves the container's first process in, before it runs anything of the container's.
    pub fn join(&self, pid: i32) -> Result<(), Error> {
        for file in &self.tasks {
            std::fs::write(file, pid.to_string()).map_err(|source| Error::Io {
                operation: "write the process to",
                path: file.clone(),
                source,
                hint: String::new(),
            })?;
        }
        Ok(())
    }

    /// Moves all threads of these processes in. What begins meanwhile begins in its parent's group:
    /// they are looked through until nothing new is seen.
    fn join_all(&self, list: &dyn Fn() -> Vec<i32>) -> Result<(), Error> {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..MAX_ROUNDS {
            let before = seen.len();
            for thread in list().into_iter().flat_map(threads) {
                if !seen.insert(thread) {
                    continue;
                }
                match self.join(thread) {
                    // It ended meanwhile.
                    Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
                    }
                    outcome => outcome?,
                }
            }
            if seen.len() == before {
                break;
            }
        }
        Ok(())
    }

    /// What the state file will remember.
    pub fn record(&self) -> Record {
        Record { made: self.made.clone(), group: self.path.clone() }
    }

    /// Keeps the group beyond this value's life.
    pub fn keep(mut self) -> Record {
        Record { made: std::mem::take(&mut self.made), group: std::mem::take(&mut self.path) }
    }
}

/// How often processes are looked through for new threads.
const MAX_ROUNDS: usize = 16;

fn threads(pid: i32) -> Vec<i32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"));
    let name = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.map(|list| list.flatten().filter_map(name).collect()).unwrap_or_default()
}

/// Gives a living container that has no group one of its own (`update`): makes it, writes the
/// schemas and moves the processes in that `list` tells.
pub fn enter(
    id: &str,
    l3: Option<&str>,
    bandwidth: Option<&str>,
    list: &dyn Fn() -> Vec<i32>,
) -> Result<Record, Error> {
    let root = mounted().ok_or(Error::Missing)?;
    enter_below(&root, id, l3, bandwidth, list)
}

fn enter_below(
    root: &Path,
    id: &str,
    l3: Option<&str>,
    bandwidth: Option<&str>,
    list: &dyn Fn() -> Vec<i32>,
) -> Result<Record, Error> {
    let mut rdt = LinuxIntelRdt::default();
    rdt.set_clos_id(None);
    rdt.set_schemata(None);
    rdt.set_l3_cache_schema(l3.map(str::to_owned));
    rdt.set_mem_bw_schema(bandwidth.map(str::to_owned));
    rdt.set_enable_monitoring(None);
    let group = Group::carry_out(plan(root, &rdt, id)?, root)?;
    group.join_all(list)?;
    Ok(group.keep())
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = remove(&self.made);
    }
}

impl Record {
    /// Changes cache and bandwidth (`update`); what is `None` stays.
    pub fn update(&self, l3: Option<&str>, bandwidth: Option<&str>) -> Result<(), Error> {
        let lines = schemes(l3, bandwidth)?;
        let file = self.group.join("schemata");
        std::fs::write(&file, lines).map_err(|source| Error::Io {
            operation: "write to",
            path: file,
            source,
            hint: String::new(),
        })
    }

    /// Removes what was made for the container; a group that was there before stays.
    pub fn remove(&self) -> Result<(), Error> {
        remove(&self.made)
    }
}

/// Processes of a removed group fall back to its parent's.
fn remove(made: &[PathBuf]) -> Result<(), Error> {
    for path in made.iter().rev() {
        match std::fs::remove_dir(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Io {
                    operation: "remove",
                    path: path.clone(),
                    source,
                    hint: String::new(),
                });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(rdt: serde_json::Value) -> Result<Plan, Error> {
        plan(Path::new("/r"), &serde_json::from_value(rdt).unwrap(), "id")
    }

    #[test]
    fn groups_are_named_by_class_or_container() {
        assert_eq!(of(json!({})).unwrap().group, Path::new("/r/id"));
        assert_eq!(of(json!({"closID": "c"})).unwrap().group, Path::new("/r/c"));
        assert!(of(json!({"closID": "c"})).unwrap().must_exist);
        assert_eq!(of(json!({"closID": "/"})).unwrap().group, Path::new("/r"));
        for wrong in ["..", "a/b", "info", "mon_groups"] {
            assert!(of(json!({"closID": wrong})).is_err(), "{wrong}");
        }
    }

    #[test]
    fn schemata_win_over_the_older_fields() {
        let plan = of(json!({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20"})).unwrap();
        assert_eq!(plan.schemata, "L3:0=f\nMB:0=20\n");
        let plan = of(json!({"l3CacheSchema": "L3:0=f", "schemata": ["L2:0=3"]})).unwrap();
        assert_eq!(plan.schemata, "L2:0=3\n");
        assert!(of(json!({"memBwSchema": "L3:0=20"})).is_err());
    }

    #[test]
    fn monitoring_has_a_group_below() {
        let plan = of(json!({"closID": "c", "enableMonitoring": true})).unwrap();
        assert_eq!(plan.monitoring.as_deref(), Some(Path::new("/r/c/mon_groups/id")));
    }

    #[test]
    fn a_living_container_gets_a_group_and_all_its_threads_are_in_it() {
        let root = std::env::temp_dir().join(format!("hull-rdt-enter-{}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        let own = std::process::id() as i32;
        let record =
            enter_below(&root, "id", Some("L3:0=f"), None, &|| vec![own]).expect("a group");
        assert_eq!(record.group, root.join("id"));
        assert_eq!(record.made, [root.join("id")]);
        assert_eq!(std::fs::read_to_string(root.join("id/schemata")).unwrap(), "L3:0=f\n");
        assert!(root.join("id/tasks").exists());
        assert!(enter_below(&root, "other", None, Some("L3:0=f"), &Vec::new).is_err());
        assert!(!root.join("other").exists());
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_dropped_group_leaves_nothing() {
        let root = std::env::temp_dir().join(format!("hull-rdt-test-{}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        let plan = plan(&root, &serde_json::from_value(json!({})).unwrap(), "id").unwrap();
        let group = Group::carry_out(plan, &root).unwrap();
        assert!(root.join("id").is_dir());
        drop(group);
        assert!(!root.join("id").exists());
        std::fs::remove_dir(&root).unwrap();
    }
}
