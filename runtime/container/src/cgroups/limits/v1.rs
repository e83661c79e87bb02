//! Limits for v1 hierarchies.
//!
//! Source: the kernel's `admin-guide/cgroup-v1/` (memory, cpusets, blkio-controller, hugetlb, net_cls,
//! net_prio, pids, rdma) and `scheduler/sched-{bwc,rt-group}.rst`.

use super::{Mode, Write, device_number, list_value, memory_value, page_size};
use crate::cgroups::error::{Error, Result};
use oci::spec::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

/// The writes of `resources` (all but `devices` and `unified`).
pub(crate) fn writes(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut out = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpuset(cpu, &mut out)?;
        scheduling(cpu, &mut out)?;
    }
    if let Some(memory) = resources.memory() {
        limits(memory, &mut out)?;
    }
    if let Some(pids) = resources.pids() {
        match pids.limit() {
            0 => {}
            limit if limit < 0 => out.push(Write::new("pids", "pids.max", "max", "pids.limit")),
            limit => out.push(Write::new("pids", "pids.max", limit, "pids.limit")),
        }
    }
    if let Some(block) = resources.block_io() {
        block_io(block, &mut out)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = page_size(limit)?;
        let field = "hugepageLimits";
        let rsvd = format!("hugetlb.{size}.rsvd.limit_in_bytes");
        let plain = format!("hugetlb.{size}.limit_in_bytes");
        out.push(Write::new("hugetlb", plain, limit.limit(), field));
        // Reservations are accounted since 5.7.
        out.push(Write::new("hugetlb", rsvd, limit.limit(), field).mode(Mode::IfPresent));
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            out.push(Write::new("net_cls", "net_cls.classid", class, "network.classID"));
        }
        for priority in network.priorities().iter().flatten() {
            let name = priority.name();
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(Error::value(
                    "network.priorities",
                    format!("{name:?} is not an interface"),
                ));
            }
            let line = format!("{name} {}", priority.priority());
            out.push(Write::new("net_prio", "net_prio.ifpriomap", line, "network.priorities"));
        }
    }
    super::rdma(resources, &mut out)?;
    Ok(out)
}

fn cpuset(cpu: &LinuxCpu, out: &mut Vec<Write>) -> Result<()> {
    for (value, file, field) in
        [(cpu.cpus(), "cpuset.cpus", "cpu.cpus"), (cpu.mems(), "cpuset.mems", "cpu.mems")]
    {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            list_value(field, value)?;
            out.push(Write::new("cpuset", file, value, field));
        }
    }
    Ok(())
}

fn scheduling(cpu: &LinuxCpu, out: &mut Vec<Write>) -> Result<()> {
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        // The kernel would silently clamp.
        if !(2..=262_144).contains(&shares) {
            return Err(Error::value(
                "cpu.shares",
                format!("{shares} is not between 2 and 262144"),
            ));
        }
        // An idle group has no shares: the kernel refuses to set them.
        if cpu.idle() != Some(1) {
            out.push(Write::new("cpu", "cpu.shares", shares, "cpu.shares").mode(Mode::Reorder));
        }
    }
    if let Some(idle) = cpu.idle() {
        out.push(Write::new("cpu", "cpu.idle", idle, "cpu.idle"));
    }
    if let Some(period) = cpu.period().filter(|&period| period != 0) {
        out.push(Write::new("cpu", "cpu.cfs_period_us", period, "cpu.period").mode(Mode::Reorder));
    }
    if let Some(quota) = cpu.quota().filter(|&quota| quota != 0) {
        out.push(
            Write::new("cpu", "cpu.cfs_quota_us", quota.max(-1), "cpu.quota").mode(Mode::Reorder),
        );
    }
    if let Some(burst) = cpu.burst() {
        out.push(Write::new("cpu", "cpu.cfs_burst_us", burst, "cpu.burst").mode(Mode::Reorder));
    }
    if let Some(period) = cpu.realtime_period().filter(|&period| period != 0) {
        out.push(
            Write::new("cpu", "cpu.rt_period_us", period, "cpu.realtimePeriod").mode(Mode::Reorder),
        );
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|&runtime| runtime != 0) {
        out.push(
            Write::new("cpu", "cpu.rt_runtime_us", runtime, "cpu.realtimeRuntime")
                .mode(Mode::Reorder),
        );
    }
    Ok(())
}

fn limits(memory: &LinuxMemory, out: &mut Vec<Write>) -> Result<()> {
    let limit = memory_value("memory.limit", memory.limit())?;
    let swap = memory_value("memory.swap", memory.swap())?;
    let swap_file = "memory.memsw.limit_in_bytes";
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap != -1
        && (limit == -1 || swap < limit)
    {
        return Err(Error::value("memory.swap", "is less than memory.limit, which it includes"));
    }
    if let Some(limit) = limit {
        // Which of the two comes first depends on whether they grow: the kernel keeps swap >= limit.
        out.push(
            Write::new("memory", "memory.limit_in_bytes", limit, "memory.limit")
                .mode(Mode::Reorder),
        );
    }
    match swap {
        Some(swap) => {
            out.push(Write::new("memory", swap_file, swap, "memory.swap").mode(Mode::Reorder))
        }
        // No limit for memory means none for swap; a kernel may have swap accounting off.
        None if limit == Some(-1) => {
            // Swap is lifted first, or the memory limit stays bound by it.
            let lift = Write::new("memory", swap_file, -1, "memory.limit").mode(Mode::IfPresent);
            out.insert(out.len() - 1, lift);
        }
        None => {}
    }
    if let Some(reservation) = memory_value("memory.reservation", memory.reservation())? {
        out.push(Write::new(
            "memory",
            "memory.soft_limit_in_bytes",
            reservation,
            "memory.reservation",
        ));
    }
    #[allow(deprecated)] // Still a field of the specification.
    let kernel = memory.kernel();
    if let Some(kernel) = memory_value("memory.kernel", kernel)? {
        out.push(
            Write::new("memory", "memory.kmem.limit_in_bytes", kernel, "memory.kernel")
                .mode(Mode::Obsolete),
        );
    }
    if let Some(tcp) = memory_value("memory.kernelTCP", memory.kernel_tcp())? {
        let write = Write::new("memory", "memory.kmem.tcp.limit_in_bytes", tcp, "memory.kernelTCP");
        out.push(write.mode(Mode::Obsolete));
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(Error::value(
                "memory.swappiness",
                format!("{swappiness} is not between 0 and 100"),
            ));
        }
        out.push(Write::new("memory", "memory.swappiness", swappiness, "memory.swappiness"));
    }
    // `false` is the default, which engines spell out: not worth a system call at creation.
    if memory.disable_oom_killer() == Some(true) {
        out.push(Write::new("memory", "memory.oom_control", 1, "memory.disableOOMKiller"));
    }
    match memory.use_hierarchy() {
        // What every kernel since 5.11 does anyhow; it refuses the contrary.
        Some(true) => {
            let write = Write::new("memory", "memory.use_hierarchy", 1, "memory.useHierarchy");
            out.push(write.mode(Mode::Obsolete));
        }
        Some(false) => {
            out.push(Write::new("memory", "memory.use_hierarchy", 0, "memory.useHierarchy"))
        }
        None => {}
    }
    Ok(())
}

fn block_io(block: &LinuxBlockIo, out: &mut Vec<Write>) -> Result<()> {
    let mut weight = |bfq: &'static str, cfq: &'static str, value: String, field: &'static str| {
        out.push(Write::new("blkio", bfq, &value, field).mode(Mode::Or(cfq, value)));
    };
    if let Some(value) = block.weight().filter(|&value| value != 0) {
        weight("blkio.bfq.weight", "blkio.weight", value.to_string(), "blockIO.weight");
    }
    for device in block.weight_device().iter().flatten() {
        let number = device_number("blockIO.weightDevice", device.major(), device.minor())?;
        if let Some(value) = device.weight().filter(|&value| value != 0) {
            let line = format!("{number} {value}");
            weight("blkio.bfq.weight_device", "blkio.weight_device", line, "blockIO.weightDevice");
        }
    }
    if let Some(value) = block.leaf_weight().filter(|&value| value != 0) {
        out.push(Write::new("blkio", "blkio.leaf_weight", value, "blockIO.leafWeight"));
    }
    for device in block.weight_device().iter().flatten() {
        let number = device_number("blockIO.weightDevice", device.major(), device.minor())?;
        if let Some(value) = device.leaf_weight().filter(|&value| value != 0) {
            let line = format!("{number} {value}");
            out.push(Write::new(
                "blkio",
                "blkio.leaf_weight_device",
                line,
                "blockIO.weightDevice.leafWeight",
            ));
        }
    }
    let mut throttle = |list: &Option<Vec<LinuxThrottleDevice>>,
                        file: &'static str,
                        field: &'static str|
     -> Result<()> {
        for device in list.iter().flatten() {
            let number = device_number(field, device.major(), device.minor())?;
            out.push(Write::new("blkio", file, format!("{number} {}", device.rate()), field));
        }
        Ok(())
    };
    throttle(
        block.throttle_read_bps_device(),
        "blkio.throttle.read_bps_device",
        "blockIO.throttleReadBpsDevice",
    )?;
    throttle(
        block.throttle_write_bps_device(),
        "blkio.throttle.write_bps_device",
        "blockIO.throttleWriteBpsDevice",
    )?;
    throttle(
        block.throttle_read_iops_device(),
        "blkio.throttle.read_iops_device",
        "blockIO.throttleReadIOPSDevice",
    )?;
    throttle(
        block.throttle_write_iops_device(),
        "blkio.throttle.write_iops_device",
        "blockIO.throttleWriteIOPSDevice",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(resources: serde_json::Value) -> Result<Vec<(String, String)>> {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        Ok(writes(&resources)?.into_iter().map(|w| (w.file.into_owned(), w.value)).collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
    }

    #[test]
    fn memory_and_swap() {
        let got = plan(
            json!({"memory": {"limit": 100, "swap": 200, "reservation": 50, "swappiness": 10}}),
        )
        .unwrap();
        let want = pairs(&[
            ("memory.limit_in_bytes", "100"),
            ("memory.memsw.limit_in_bytes", "200"),
            ("memory.soft_limit_in_bytes", "50"),
            ("memory.swappiness", "10"),
        ]);
        assert_eq!(got, want);
    }

    #[test]
    fn no_memory_limit_lifts_swap_first() {
        let got = plan(json!({"memory": {"limit": -1}})).unwrap();
        let want = pairs(&[("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "-1")]);
        assert_eq!(got, want);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (resources, name) in [
            (json!({"memory": {"limit": 100, "swap": 50}}), "memory.swap"),
            (json!({"memory": {"limit": -5}}), "memory.limit"),
            (json!({"memory": {"swappiness": 101}}), "memory.swappiness"),
            (json!({"cpu": {"shares": 1}}), "cpu.shares"),
            (json!({"cpu": {"cpus": "0;1"}}), "cpu.cpus"),
            (
                json!({"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}),
                "hugepageLimits.pageSize",
            ),
            (
                json!({"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}}),
                "throttleReadBps",
            ),
            (
                json!({"network": {"priorities": [{"name": "a b", "priority": 1}]}}),
                "network.priorities",
            ),
        ] {
            let error = plan(resources).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn zero_is_what_engines_write_for_unset() {
        let zeros = json!({
            "memory": {"limit": 0, "swap": 0, "reservation": 0},
            "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
            "pids": {"limit": 0},
            "blockIO": {"weight": 0},
        });
        assert_eq!(plan(zeros).unwrap(), []);
    }

    #[test]
    fn the_rest() {
        let got = plan(json!({
            "cpu": {"shares": 512, "quota": 5000, "period": 10000, "burst": 7, "idle": 1, "realtimeRuntime": 9, "realtimePeriod": 8},
            "pids": {"limit": -1},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
            "network": {"classID": 1048577},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
        }))
        .unwrap();
        let want = pairs(&[
            ("cpu.idle", "1"),
            ("cpu.cfs_period_us", "10000"),
            ("cpu.cfs_quota_us", "5000"),
            ("cpu.cfs_burst_us", "7"),
            ("cpu.rt_period_us", "8"),
            ("cpu.rt_runtime_us", "9"),
            ("pids.max", "max"),
            ("hugetlb.2MB.limit_in_bytes", "4"),
            ("hugetlb.2MB.rsvd.limit_in_bytes", "4"),
            ("net_cls.classid", "1048577"),
            ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
        ]);
        assert_eq!(got, want);
    }
}
