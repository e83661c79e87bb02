//! Statistics of v1 hierarchies.
//!
//! Source: the kernel's `admin-guide/cgroup-v1/`.

use super::{BlkioEntry, Hugetlb, MemoryEntry, Stats, count, huge_page_sizes, text};
use crate::cgroups::error::Result;
use crate::cgroups::fs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `cpuacct.stat` and `cpuacct.usage_*` count in ticks of `USER_HZ`, which is 100 on every
/// architecture that Linux has a container for.
const NANOS_PER_TICK: u64 = 1_000_000_000 / 100;

pub(super) fn read(paths: &BTreeMap<String, PathBuf>, stats: &mut Stats) -> Result<()> {
    let there = |name: &str| paths.get(name).filter(|path| path.exists());
    if let Some(path) = there("cpu") {
        for (key, value) in fs::pairs(&text(&path.join("cpu.stat"))?) {
            match key {
                "nr_periods" => stats.cpu.throttling.periods = value,
                "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
                "throttled_time" => stats.cpu.throttling.throttled_time = value,
                _ => {}
            }
        }
    }
    if let Some(path) = there("cpuacct") {
        cpuacct(path, stats)?;
    }
    if let Some(path) = there("cpuset") {
        cpuset(path, stats)?;
    }
    if let Some(path) = there("memory") {
        memory(path, stats)?;
    }
    if let Some(path) = there("pids") {
        stats.pids.current = count(&path.join("pids.current"))?;
        // Without a limit the file says `max`, which is reported as none.
        stats.pids.limit = match count(&path.join("pids.max"))? {
            u64::MAX => 0,
            limit => limit,
        };
    }
    if let Some(path) = there("blkio") {
        blkio(path, stats)?;
    }
    if let Some(path) = there("hugetlb") {
        for size in huge_page_sizes(path, "limit_in_bytes") {
            let file = |name: &str| count(&path.join(format!("hugetlb.{size}.{name}")));
            let entry = Hugetlb {
                usage: file("usage_in_bytes")?,
                max: file("max_usage_in_bytes")?,
                failcnt: file("failcnt")?,
            };
            stats.hugetlb.insert(size, entry);
        }
    }
    Ok(())
}

fn cpuacct(path: &Path, stats: &mut Stats) -> Result<()> {
    let usage = &mut stats.cpu.usage;
    usage.total = count(&path.join("cpuacct.usage"))?;
    for (key, value) in fs::pairs(&text(&path.join("cpuacct.stat"))?) {
        match key {
            "user" => usage.user = value.saturating_mul(NANOS_PER_TICK),
            "system" => usage.kernel = value.saturating_mul(NANOS_PER_TICK),
            _ => {}
        }
    }
    let numbers = |line: &str| {
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<u64>>()
    };
    usage.percpu = numbers(&text(&path.join("cpuacct.usage_percpu"))?);
    // `cpu user system` with a head line.
    for line in text(&path.join("cpuacct.usage_all"))?.lines().skip(1) {
        if let [_, user, kernel] = numbers(line).as_slice() {
            usage.percpu_user.push(*user);
            usage.percpu_kernel.push(*kernel);
        }
    }
    Ok(())
}

fn cpuset(path: &Path, stats: &mut Stats) -> Result<()> {
    let file = |name: &str| count(&path.join(format!("cpuset.{name}")));
    let set = &mut stats.cpuset;
    set.cpus = ranges(&text(&path.join("cpuset.cpus"))?);
    set.mems = ranges(&text(&path.join("cpuset.mems"))?);
    set.cpu_exclusive = file("cpu_exclusive")?;
    set.mem_hardwall = file("mem_hardwall")?;
    set.mem_exclusive = file("mem_exclusive")?;
    set.memory_migrate = file("memory_migrate")?;
    set.memory_spread_page = file("memory_spread_page")?;
    set.memory_spread_slab = file("memory_spread_slab")?;
    set.memory_pressure = file("memory_pressure")?;
    set.sched_load_balance = file("sched_load_balance")?;
    set.sched_relax_domain_level =
        text(&path.join("cpuset.sched_relax_domain_level"))?.trim().parse().unwrap_or_default();
    Ok(())
}

/// `0-2,5` to the numbers.
fn ranges(list: &str) -> Vec<u16> {
    let mut out = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            out.extend(first..=last);
        }
    }
    out
}

fn memory(path: &Path, stats: &mut Stats) -> Result<()> {
    let entry = |prefix: &str| -> Result<MemoryEntry> {
        let file = |name: &str| count(&path.join(format!("{prefix}.{name}")));
        Ok(MemoryEntry {
            limit: file("limit_in_bytes")?,
            usage: file("usage_in_bytes")?,
            max: file("max_usage_in_bytes")?,
            failcnt: file("failcnt")?,
        })
    };
    let memory = &mut stats.memory;
    memory.usage = entry("memory")?;
    memory.swap = entry("memory.memsw")?;
    memory.kernel = entry("memory.kmem")?;
    memory.kernel_tcp = entry("memory.kmem.tcp")?;
    memory.raw = fs::pairs(&text(&path.join("memory.stat"))?)
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    memory.cache = memory.raw.get("cache").copied().unwrap_or_default();
    for (key, value) in fs::pairs(&text(&path.join("memory.oom_control"))?) {
        if key == "oom_kill" {
            memory.event_count.oom_kill = value;
        }
    }
    Ok(())
}

fn blkio(path: &Path, stats: &mut Stats) -> Result<()> {
    let list = |file: &str| -> Result<Vec<BlkioEntry>> { Ok(entries(&text(&path.join(file))?)) };
    let bfq = list("blkio.bfq.io_service_bytes_recursive")?;
    let out = &mut stats.blkio;
    if !bfq.is_empty() {
        out.io_service_bytes_recursive = bfq;
        out.io_serviced_recursive = list("blkio.bfq.io_serviced_recursive")?;
        out.io_service_time_recursive = list("blkio.bfq.io_service_time_recursive")?;
        out.io_wait_time_recursive = list("blkio.bfq.io_wait_time_recursive")?;
        out.io_merged_recursive = list("blkio.bfq.io_merged_recursive")?;
        out.io_queued_recursive = list("blkio.bfq.io_queued_recursive")?;
        out.io_time_recursive = list("blkio.bfq.time_recursive")?;
        out.sectors_recursive = list("blkio.bfq.sectors_recursive")?;
    } else {
        // What every scheduler has.
        out.io_service_bytes_recursive = list("blkio.throttle.io_service_bytes_recursive")?;
        out.io_serviced_recursive = list("blkio.throttle.io_serviced_recursive")?;
    }
    Ok(())
}

/// `8:0 Read 4096`; lines of totals have no device.
fn entries(content: &str) -> Vec<BlkioEntry> {
    content
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let second = words.next()?;
            let (op, value) = match words.next() {
                Some(value) => (second.to_owned(), value),
                None => (String::new(), second),
            };
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op,
                value: value.parse().ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(ranges("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(ranges("\n"), [] as [u16; 0]);
    }

    #[test]
    fn block_device_counters() {
        let got = entries("8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n8:16 7\n");
        assert_eq!(got.len(), 3);
        assert_eq!(got[0], BlkioEntry { major: 8, minor: 0, op: "Read".to_owned(), value: 4096 });
        assert_eq!(got[2], BlkioEntry { major: 8, minor: 16, op: String::new(), value: 7 });
    }
}
