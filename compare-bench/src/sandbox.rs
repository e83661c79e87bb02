//! What a running sandbox holds in memory: the proportional set size (PSS, of
//! proc_pid_smaps(5)) of all its processes, guest memory told apart.

use std::collections::HashMap;
use std::fs;

/// A mapping this large is guest memory: a runtime's other mappings are
/// stacks (8 MiB), code and heap.
const GUEST_MAPPING_KIB: u64 = 48 * 1024;

/// Memory of a sandbox, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// PSS of every process, guest memory included.
    pub pss: u64,
    /// The part of it that is guest memory.
    pub guest: u64,
}

/// The memory of a process and all its descendants now.
pub fn memory(pid: i32) -> Memory {
    let mut sum = Memory::default();
    for pid in family(pid, &parents()) {
        if let Ok(smaps) = fs::read_to_string(format!("/proc/{pid}/smaps")) {
            let one = parse(&smaps);
            sum.pss += one.pss;
            sum.guest += one.guest;
        }
    }
    sum
}

/// pid → parent of every process.
fn parents() -> HashMap<i32, i32> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) =
            fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(parent_of)
        {
            parents.insert(pid, parent);
        }
    }
    parents
}

/// The fourth field of a stat line; the second may hold anything, up to the last `)`.
fn parent_of(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A process and its descendants.
fn family(root: i32, parents: &HashMap<i32, i32>) -> Vec<i32> {
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

fn parse(smaps: &str) -> Memory {
    let mut memory = Memory::default();
    let mut size = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
        match key {
            "Size:" => size = value.parse().unwrap_or(0),
            "Pss:" => {
                let pss: u64 = value.parse().unwrap_or(0);
                memory.pss += pss;
                if size >= GUEST_MAPPING_KIB {
                    memory.guest += pss;
                }
            }
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_told_apart_by_its_size() {
        let smaps = "7f00-8f00 rw-p 0 00:00 0 [heap]\nSize: 132 kB\nPss: 12 kB\nPss_Dirty: 12 kB\n\
                     9f00-af00 rw-s 0 00:01 7 /memfd:guest\nSize: 524288 kB\nPss: 40000 kB\n";
        assert_eq!(parse(smaps), Memory { pss: 40012, guest: 40000 });
    }

    #[test]
    fn a_name_with_brackets_does_not_hide_the_parent() {
        assert_eq!(parent_of("12 (a) b (c)) S 7 12 12 0 -1"), Some(7));
    }

    #[test]
    fn a_family_is_all_generations() {
        let parents = HashMap::from([(1, 0), (5, 1), (6, 5), (7, 6), (8, 1)]);
        let mut family = family(5, &parents);
        family.sort_unstable();
        assert_eq!(family, [5, 6, 7]);
    }

    #[test]
    fn this_process_holds_memory() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(memory(pid).pss > 100);
    }
}
