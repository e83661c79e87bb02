//! Limits for the unified hierarchy.
//!
//! Source: the kernel's `admin-guide/cgroup-v2.rst`; conversions from v1's units in [`super::convert`].

use super::convert::{blkio_to_io_weight, max, shares_to_weight, swap};
use super::{Mode, Write, device_number, list_value, memory_value, page_size};
use crate::cgroups::error::{Error, Result};
use oci::spec::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use std::borrow::Cow;

/// What `cpu.max` has when nothing was ever written.
const DEFAULT_PERIOD: u64 = 100_000;

/// The writes of `resources` (all but `devices` and `unified`).
pub(crate) fn writes(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut out = Vec::new();
    if let Some(cpu) = resources.cpu() {
        for (value, file, field) in
            [(cpu.cpus(), "cpuset.cpus", "cpu.cpus"), (cpu.mems(), "cpuset.mems", "cpu.mems")]
        {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                list_value(field, value)?;
                out.push(Write::new("cpuset", file, value, field));
            }
        }
        scheduling(cpu, &mut out)?;
    }
    if let Some(memory) = resources.memory() {
        limits(memory, &mut out)?;
    }
    if let Some(pids) = resources.pids()
        && pids.limit() != 0
    {
        out.push(Write::new("pids", "pids.max", max(pids.limit()), "pids.limit"));
    }
    if let Some(block) = resources.block_io() {
        block_io(block, &mut out)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = page_size(limit)?;
        let value = max(limit.limit());
        out.push(Write::new("hugetlb", format!("hugetlb.{size}.max"), &value, "hugepageLimits"));
        let rsvd =
            Write::new("hugetlb", format!("hugetlb.{size}.rsvd.max"), &value, "hugepageLimits");
        out.push(rsvd.mode(Mode::IfPresent));
    }
    if let Some(network) = resources.network() {
        // v1 alone has these; the controller's absence is what will be said.
        if network.class_id().is_some() {
            out.push(Write::new("net_cls", "net_cls.classid", "", "network.classID"));
        }
        if network.priorities().as_ref().is_some_and(|list| !list.is_empty()) {
            out.push(Write::new("net_prio", "net_prio.ifpriomap", "", "network.priorities"));
        }
    }
    super::rdma(resources, &mut out)?;
    Ok(out)
}

/// `unified`: file names and values as they are, line by line: the kernel takes one device of `io.max`
/// at a time.
pub(crate) fn unified(resources: &LinuxResources) -> Result<Vec<Write>> {
    let Some(map) = resources.unified() else { return Ok(Vec::new()) };
    let mut keys: Vec<_> = map.keys().collect();
    keys.sort();
    let mut out = Vec::new();
    for key in keys {
        let controller = key.split_once('.').map_or("", |(controller, _)| controller);
        if controller.is_empty() || key.contains('/') {
            return Err(Error::value("unified", format!("{key:?} is not a file of a controller")));
        }
        let value = map[key].strip_suffix('\n').unwrap_or(&map[key]);
        out.extend(value.split('\n').map(|line| Write {
            controller: Cow::Owned(controller.to_owned()),
            file: Cow::Owned(key.clone()),
            value: line.to_owned(),
            field: Cow::Owned(format!("unified.{key}")),
            mode: Mode::Must,
        }));
    }
    Ok(out)
}

fn scheduling(cpu: &LinuxCpu, out: &mut Vec<Write>) -> Result<()> {
    if let Some(idle) = cpu.idle() {
        out.push(Write::new("cpu", "cpu.idle", idle, "cpu.idle"));
    }
    // An idle group has no weight: the kernel refuses to set one.
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0)
        && cpu.idle() != Some(1)
    {
        out.push(Write::new("cpu", "cpu.weight", shares_to_weight(shares), "cpu.shares"));
    }
    let quota = cpu.quota().filter(|&quota| quota != 0);
    let period = cpu.period().filter(|&period| period != 0);
    if quota.is_some() || period.is_some() {
        let line = format!("{} {}", max(quota.unwrap_or(-1)), period.unwrap_or(DEFAULT_PERIOD));
        let field = if quota.is_some() { "cpu.quota" } else { "cpu.period" };
        out.push(Write::new("cpu", "cpu.max", line, field).mode(Mode::Reorder));
    }
    if let Some(burst) = cpu.burst() {
        out.push(Write::new("cpu", "cpu.max.burst", burst, "cpu.burst").mode(Mode::Reorder));
    }
    for (value, field) in [
        (cpu.realtime_runtime().filter(|&v| v != 0).map(|_| ()), "cpu.realtimeRuntime"),
        (cpu.realtime_period().filter(|&v| v != 0).map(|_| ()), "cpu.realtimePeriod"),
    ] {
        if value.is_some() {
            return Err(Error::value(field, "cgroup v2 has no real-time limits"));
        }
    }
    Ok(())
}

fn limits(memory: &LinuxMemory, out: &mut Vec<Write>) -> Result<()> {
    let limit = memory_value("memory.limit", memory.limit())?;
    let total = memory_value("memory.swap", memory.swap())?;
    if let Some(swap) = swap(total, limit)? {
        let write = Write::new("memory", "memory.swap.max", max(swap), "memory.swap");
        // None at all, and none asked for, are also had from a kernel that does not account swap.
        let easy = swap <= 0;
        out.push(if easy { write.mode(Mode::IfPresent) } else { write });
    }
    if let Some(limit) = limit {
        out.push(Write::new("memory", "memory.max", max(limit), "memory.limit"));
    }
    if let Some(reservation) = memory_value("memory.reservation", memory.reservation())? {
        out.push(Write::new("memory", "memory.low", max(reservation), "memory.reservation"));
    }
    #[allow(deprecated)] // Still a field of the specification.
    let kernel = memory.kernel();
    for (value, field) in [(kernel, "memory.kernel"), (memory.kernel_tcp(), "memory.kernelTCP")] {
        if memory_value(field, value)?.is_some() {
            // Not a file of v2: the absence is said as it is on a v1 kernel that gave it up.
            out.push(Write::new("memory", field, "", field).mode(Mode::Obsolete));
        }
    }
    if memory.swappiness().is_some() {
        return Err(Error::value("memory.swappiness", "cgroup v2 has no swappiness"));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(Error::value(
            "memory.disableOOMKiller",
            "cgroup v2 cannot disable the OOM killer",
        ));
    }
    if memory.use_hierarchy() == Some(false) {
        return Err(Error::value("memory.useHierarchy", "cgroup v2 is always hierarchical"));
    }
    Ok(())
}

fn block_io(block: &LinuxBlockIo, out: &mut Vec<Write>) -> Result<()> {
    if let Some(weight) = block.weight().filter(|&weight| weight != 0) {
        let other = Mode::Or("io.weight", blkio_to_io_weight(weight).to_string());
        out.push(Write::new("io", "io.bfq.weight", weight, "blockIO.weight").mode(other));
    }
    for device in block.weight_device().iter().flatten() {
        let number = device_number("blockIO.weightDevice", device.major(), device.minor())?;
        if let Some(weight) = device.weight().filter(|&weight| weight != 0) {
            let other = Mode::Or("io.weight", format!("{number} {}", blkio_to_io_weight(weight)));
            let line = format!("{number} {weight}");
            out.push(Write::new("io", "io.bfq.weight", line, "blockIO.weightDevice").mode(other));
        }
        if device.leaf_weight().is_some_and(|weight| weight != 0) {
            return Err(Error::value(
                "blockIO.weightDevice.leafWeight",
                "cgroup v2 has no leaf weights",
            ));
        }
    }
    if block.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(Error::value("blockIO.leafWeight", "cgroup v2 has no leaf weights"));
    }
    let mut throttle =
        |list: &Option<Vec<LinuxThrottleDevice>>, key: &str, field: &'static str| -> Result<()> {
            for device in list.iter().flatten() {
                let number = device_number(field, device.major(), device.minor())?;
                // 0 lifts a limit, as on v1.
                let rate =
                    if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
                out.push(Write::new("io", "io.max", format!("{number} {key}={rate}"), field));
            }
            Ok(())
        };
    throttle(block.throttle_read_bps_device(), "rbps", "blockIO.throttleReadBpsDevice")?;
    throttle(block.throttle_write_bps_device(), "wbps", "blockIO.throttleWriteBpsDevice")?;
    throttle(block.throttle_read_iops_device(), "riops", "blockIO.throttleReadIOPSDevice")?;
    throttle(block.throttle_write_iops_device(), "wiops", "blockIO.throttleWriteIOPSDevice")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(resources: serde_json::Value) -> Result<Vec<(String, String)>> {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        let mut all = writes(&resources)?;
        all.extend(unified(&resources)?);
        Ok(all.into_iter().map(|w| (w.file.into_owned(), w.value)).collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
    }

    #[test]
    fn memory_and_swap() {
        let got = plan(json!({"memory": {"limit": 100, "swap": 300, "reservation": 50}})).unwrap();
        assert_eq!(
            got,
            pairs(&[("memory.swap.max", "200"), ("memory.max", "100"), ("memory.low", "50")])
        );
        let got = plan(json!({"memory": {"limit": -1}})).unwrap();
        assert_eq!(got, pairs(&[("memory.swap.max", "max"), ("memory.max", "max")]));
    }

    #[test]
    fn cpu() {
        let cpu = |value| plan(json!({ "cpu": value })).unwrap();
        assert_eq!(cpu(json!({"shares": 1024})), pairs(&[("cpu.weight", "100")]));
        assert_eq!(cpu(json!({"quota": 5000})), pairs(&[("cpu.max", "5000 100000")]));
        assert_eq!(cpu(json!({"quota": -9, "period": 9000})), pairs(&[("cpu.max", "max 9000")]));
        assert_eq!(
            cpu(json!({"period": 9000, "burst": 5})),
            pairs(&[("cpu.max", "max 9000"), ("cpu.max.burst", "5")])
        );
        assert_eq!(cpu(json!({"quota": 0, "shares": 0})), []);
        assert_eq!(cpu(json!({"idle": 1, "shares": 9})), pairs(&[("cpu.idle", "1")]));
    }

    #[test]
    fn what_v2_lacks_is_refused_by_name() {
        for (resources, name) in [
            (json!({"memory": {"swappiness": 10}}), "memory.swappiness"),
            (json!({"memory": {"disableOOMKiller": true}}), "memory.disableOOMKiller"),
            (json!({"cpu": {"realtimeRuntime": 10}}), "cpu.realtimeRuntime"),
            (json!({"blockIO": {"leafWeight": 10}}), "blockIO.leafWeight"),
            (json!({"unified": {"../x.y": "1"}}), "unified"),
            (json!({"unified": {"plain": "1"}}), "unified"),
        ] {
            let error = plan(resources).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn the_rest() {
        let got = plan(json!({
            "pids": {"limit": 7},
            "hugepageLimits": [{"pageSize": "1GB", "limit": 4}],
            "blockIO": {"weight": 500, "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 6}]},
            "unified": {"memory.high": "9"},
        }))
        .unwrap();
        let want = pairs(&[
            ("pids.max", "7"),
            ("io.bfq.weight", "500"),
            ("io.max", "8:0 wiops=6"),
            ("hugetlb.1GB.max", "4"),
            ("hugetlb.1GB.rsvd.max", "4"),
            ("memory.high", "9"),
        ]);
        assert_eq!(got, want);
    }
}
