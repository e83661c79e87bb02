//! Where a control group's files are on this host: version 1, 2, or both.

use std::fs;
use std::path::{Path, PathBuf};

/// The mount point of cgroup hierarchies.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// Whether the host has version 2 only.
pub fn is_v2() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// All hierarchies that are mounted.
pub fn hierarchies() -> Vec<PathBuf> {
    if is_v2() {
        return vec![PathBuf::from(MOUNT)];
    }
    let mut all: Vec<PathBuf> = fs::read_dir(MOUNT)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists())
        .collect();
    all.sort();
    all
}

/// The hierarchy of a controller, where it is mounted.
pub fn controller(name: &str) -> Option<PathBuf> {
    if is_v2() {
        let list = fs::read_to_string(Path::new(MOUNT).join("cgroup.controllers")).ok()?;
        // Freezing is no controller there: every group can.
        let there = name == "freezer" || list.split_whitespace().any(|c| c == name);
        return there.then(|| PathBuf::from(MOUNT));
    }
    let path = Path::new(MOUNT).join(name);
    path.join("cgroup.procs").exists().then_some(path)
}

/// Every directory below the hierarchies whose path has a part with `word` in
/// its name, deepest first.
pub fn named(word: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        search(&hierarchy, word, false, 0, &mut found);
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    found
}

fn search(dir: &Path, word: &str, inside: bool, depth: u32, found: &mut Vec<PathBuf>) {
    if depth > 8 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let inside = inside || entry.file_name().to_string_lossy().contains(word);
        search(&entry.path(), word, inside, depth + 1, found);
        if inside {
            found.push(entry.path());
        }
    }
}

/// The directory of process `pid` in the hierarchy of a controller (version 1)
/// or in the only one.
pub fn of_process(pid: i32, name: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let wanted = if is_v2() {
            controllers.is_empty()
        } else {
            controllers.split(',').any(|c| c == name)
        };
        if wanted {
            let hierarchy =
                if is_v2() { PathBuf::from(MOUNT) } else { Path::new(MOUNT).join(name) };
            return Some(hierarchy.join(path.trim_start_matches('/')));
        }
    }
    None
}
