//! What a behaviour may have left. Each runs in PID and mount namespaces of its
//! own, so a process or a mount that is there afterwards is its own and no
//! other job's; control groups and states are known by the id.

use crate::cgroup;
use crate::place::Place;
use crate::wait::within;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// What was there before.
pub struct Before {
    mounts: Vec<String>,
}

/// Takes note of what is there.
pub fn before() -> Before {
    Before { mounts: mounts() }
}

/// The mount points of this mount namespace, as often as they are mounted.
pub fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut all: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().nth(4)).map(str::to_owned).collect();
    all.sort();
    all
}

/// All processes of this PID namespace but the first one and the caller.
pub fn processes() -> Vec<i32> {
    let own = std::process::id() as i32;
    let mut all: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid| *pid != 1 && *pid != own)
        .collect();
    all.sort();
    all
}

/// One line about a process.
pub fn describe(pid: i32) -> String {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = String::from_utf8_lossy(&read("stat")).into_owned();
    let after = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let mut fields = after.split_whitespace();
    let (state, parent) = (fields.next().unwrap_or("?"), fields.next().unwrap_or("?"));
    let line = read("cmdline")
        .split(|b| *b == 0)
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    format!(
        "{pid} (parent {parent}, {state}, {}, in {}): {}",
        String::from_utf8_lossy(&read("comm")).trim(),
        String::from_utf8_lossy(&read("wchan")),
        line.chars().take(300).collect::<String>()
    )
}

/// All that is left now, each in a sentence.
pub fn found(place: &Place, before: &Before) -> Vec<String> {
    let mut all = Vec::new();
    for pid in processes() {
        all.push(format!("process {}", describe(pid)));
    }
    let mut known = before.mounts.clone();
    for mount in mounts() {
        match known.iter().position(|m| *m == mount) {
            Some(index) => {
                known.swap_remove(index);
            }
            None => all.push(format!("mount {mount}")),
        }
    }
    all.extend(cgroup::named(&place.id).iter().map(|p| format!("cgroup {}", p.display())));
    all.extend(states(place).iter().map(|p| format!("state {}", p.display())));
    all.extend(sockets(place).into_iter().map(|s| format!("socket {s}")));
    all
}

/// What is in the directory of states by the behaviour's id.
pub fn states(place: &Place) -> Vec<PathBuf> {
    fs::read_dir(place.root())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(&place.id))
        .map(|entry| entry.path())
        .collect()
}

/// Bound unix sockets with the id in their path.
fn sockets(place: &Place) -> Vec<String> {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .filter(|path| path.contains(&place.id))
        .map(str::to_owned)
        .collect()
}

/// Nothing may be left; what a runtime tears down late is waited for.
///
/// # Panics
/// When something is.
#[track_caller]
pub fn none(place: &Place, before: &Before) {
    let time = Duration::from_secs(20);
    if within(time, || found(place, before).is_empty().then_some(())).is_none() {
        let all = found(place, before);
        if !all.is_empty() {
            panic!("left behind:\n  {}", all.join("\n  "));
        }
    }
}
