//! Statistics of the unified hierarchy.
//!
//! Source: the kernel's `admin-guide/cgroup-v2.rst` and `accounting/psi.rst`.

use super::{BlkioEntry, Hugetlb, MemoryEntry, Psi, PsiLine, Stats, count, huge_page_sizes, text};
use crate::cgroups::error::Result;
use crate::cgroups::fs;
use std::path::Path;

pub(super) fn read(path: &Path, stats: &mut Stats) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    const MICRO: u64 = 1000;
    // Processor time is there with and without the controller.
    for (key, value) in fs::pairs(&text(&path.join("cpu.stat"))?) {
        match key {
            "usage_usec" => stats.cpu.usage.total = value.saturating_mul(MICRO),
            "user_usec" => stats.cpu.usage.user = value.saturating_mul(MICRO),
            "system_usec" => stats.cpu.usage.kernel = value.saturating_mul(MICRO),
            "nr_periods" => stats.cpu.throttling.periods = value,
            "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
            "throttled_usec" => stats.cpu.throttling.throttled_time = value.saturating_mul(MICRO),
            _ => {}
        }
    }
    stats.cpu.psi = pressure(&text(&path.join("cpu.pressure"))?);
    stats.memory.psi = pressure(&text(&path.join("memory.pressure"))?);
    stats.blkio.psi = pressure(&text(&path.join("io.pressure"))?);
    if path.join("memory.current").exists() {
        memory(path, stats)?;
    }
    if path.join("pids.current").exists() {
        stats.pids.current = count(&path.join("pids.current"))?;
        stats.pids.limit = match count(&path.join("pids.max"))? {
            u64::MAX => 0,
            limit => limit,
        };
    }
    let (bytes, operations) = io(&text(&path.join("io.stat"))?);
    stats.blkio.io_service_bytes_recursive = bytes;
    stats.blkio.io_serviced_recursive = operations;
    for size in huge_page_sizes(path, "current") {
        let usage = count(&path.join(format!("hugetlb.{size}.current")))?;
        let events = text(&path.join(format!("hugetlb.{size}.events")))?;
        let failcnt =
            fs::pairs(&events).find(|(key, _)| *key == "max").map_or(0, |(_, value)| value);
        stats.hugetlb.insert(size, Hugetlb { usage, max: 0, failcnt });
    }
    Ok(())
}

fn memory(path: &Path, stats: &mut Stats) -> Result<()> {
    let memory = &mut stats.memory;
    let entry = |usage: &str, limit: &str, peak: &str| -> Result<MemoryEntry> {
        Ok(MemoryEntry {
            limit: count(&path.join(limit))?,
            usage: count(&path.join(usage))?,
            max: count(&path.join(peak))?,
            failcnt: 0,
        })
    };
    memory.usage = entry("memory.current", "memory.max", "memory.peak")?;
    memory.swap = entry("memory.swap.current", "memory.swap.max", "memory.swap.peak")?;
    memory.raw = fs::pairs(&text(&path.join("memory.stat"))?)
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    memory.cache = memory.raw.get("file").copied().unwrap_or_default();
    for (key, value) in fs::pairs(&text(&path.join("memory.events"))?) {
        let events = &mut memory.event_count;
        match key {
            "low" => events.low = value,
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_group_kill" => events.oom_group_kill = value,
            "oom_kill" => events.oom_kill = value,
            _ => {}
        }
    }
    memory.usage.failcnt = memory.event_count.max;
    for (key, value) in fs::pairs(&text(&path.join("memory.swap.events"))?) {
        if key == "max" {
            memory.swap.failcnt = value;
        }
    }
    // Engines expect v1's meaning: memory and swap together.
    let sum = |a: u64, b: u64| {
        if a == u64::MAX || b == u64::MAX { u64::MAX } else { a.saturating_add(b) }
    };
    memory.swap.usage = sum(memory.swap.usage, memory.usage.usage);
    memory.swap.limit = sum(memory.swap.limit, memory.usage.limit);
    Ok(())
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn io(content: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in content.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else {
            continue;
        };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let (list, op) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "dbytes" => (&mut bytes, "Discard"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                "dios" => (&mut operations, "Discard"),
                _ => continue,
            };
            list.push(BlkioEntry { major, minor, op: op.to_owned(), value });
        }
    }
    (bytes, operations)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn pressure(content: &str) -> Option<Psi> {
    let mut psi = Psi::default();
    let mut found = false;
    for line in content.lines() {
        let mut words = line.split_whitespace();
        let target = match words.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        found = true;
        let mut out = PsiLine::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => out.avg10 = value.parse().unwrap_or_default(),
                "avg60" => out.avg60 = value.parse().unwrap_or_default(),
                "avg300" => out.avg300 = value.parse().unwrap_or_default(),
                "total" => out.total = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        *target = out;
    }
    found.then_some(psi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_counters() {
        let (bytes, operations) =
            io("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\nnonsense\n");
        assert_eq!(bytes.iter().map(|e| e.value).collect::<Vec<_>>(), [1, 2, 5]);
        assert_eq!(operations.iter().map(|e| e.value).collect::<Vec<_>>(), [3, 4, 6]);
        assert_eq!(bytes[1].op, "Write");
    }

    #[test]
    fn pressure_lines() {
        let psi = pressure("some avg10=1.50 avg60=0.25 avg300=0.00 total=77\n").unwrap();
        assert_eq!(psi.some, PsiLine { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 77 });
        assert_eq!(psi.full, PsiLine::default());
        assert_eq!(pressure(""), None);
    }
}
