//! `linux.resources` as unit properties, so that systemd does not undo at its next reload what is
//! written to the cgroup's files.
//!
//! Source: `systemd.resource-control(5)`, `org.freedesktop.systemd1(5)`.

use super::wire::Value;
use crate::cgroups::devices::bpf;
use crate::cgroups::devices::rules::{Kind, MKNOD, READ, Rule, State, WRITE};
use crate::cgroups::error::{Error, Result};
use crate::cgroups::limits::convert;
use oci::spec::{LinuxCpu, LinuxResources};

/// `CGROUP_LIMIT_MAX`.
const INFINITY: u64 = u64::MAX;
/// What `cpu.max` has where nothing else is said.
const DEFAULT_PERIOD: u64 = 100_000;
/// systemd rounds quotas to this many microseconds in a second.
const QUOTA_STEP: u64 = 10_000;

/// The limits. `v2`: on a machine with v2 alone.
pub(super) fn limits(resources: &LinuxResources, v2: bool) -> Result<Vec<(String, Value)>> {
    let mut out = Vec::new();
    let mut put = |name: &str, value: Value| out.push((name.to_owned(), value));
    let bytes = |value: i64| if value < 0 { INFINITY } else { value as u64 };
    if let Some(memory) = resources.memory() {
        let limit = memory.limit().filter(|&limit| limit != 0);
        if let Some(limit) = limit {
            put(if v2 { "MemoryMax" } else { "MemoryLimit" }, Value::U64(bytes(limit)));
        }
        if v2 {
            if let Some(low) = memory.reservation().filter(|&low| low != 0) {
                put("MemoryLow", Value::U64(bytes(low)));
            }
            if let Some(swap) = convert::swap(memory.swap().filter(|&swap| swap != 0), limit)? {
                put("MemorySwapMax", Value::U64(bytes(swap)));
            }
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|&shares| shares != 0)
            && cpu.idle() != Some(1)
        {
            if v2 {
                put("CPUWeight", Value::U64(convert::shares_to_weight(shares)));
            } else {
                put("CPUShares", Value::U64(shares));
            }
        }
        for (name, value) in quota(cpu) {
            put(name, Value::U64(value));
        }
        if v2 {
            for (list, name, field) in [
                (cpu.cpus(), "AllowedCPUs", "cpu.cpus"),
                (cpu.mems(), "AllowedMemoryNodes", "cpu.mems"),
            ] {
                if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
                    let mask = mask(list).ok_or_else(|| {
                        Error::value(field, format!("{list:?} is not a list of numbers"))
                    })?;
                    put(name, Value::Bytes(mask));
                }
            }
        }
    }
    match resources.pids().as_ref().map(|pids| pids.limit()) {
        None | Some(0) => {}
        Some(limit) => put("TasksMax", Value::U64(bytes(limit))),
    }
    if let Some(weight) =
        resources.block_io().as_ref().and_then(|block| block.weight()).filter(|&w| w != 0)
    {
        if v2 {
            put("IOWeight", Value::U64(convert::blkio_to_io_weight(weight)));
        } else {
            put("BlockIOWeight", Value::U64(u64::from(weight)));
        }
    }
    if v2 {
        for (name, value) in unified(resources)? {
            out.retain(|(known, _)| *known != name);
            out.push((name, value));
        }
    }
    Ok(out)
}

/// What `unified` says of the same limits, and overrides them. Other files of it are none of systemd's.
fn unified(resources: &LinuxResources) -> Result<Vec<(String, Value)>> {
    let mut out = Vec::new();
    for (key, text) in resources.unified().iter().flatten() {
        let text = text.trim();
        let wrong =
            || Error::value(format!("unified.{key}"), format!("{text:?} is not a value of it"));
        let number = |text: &str| match text {
            "max" => Ok(INFINITY),
            number => number.parse().map_err(|_| wrong()),
        };
        let name = match key.as_str() {
            "cpu.max" => {
                let (quota, period) = text.split_once(' ').unwrap_or((text, ""));
                let quota = match quota {
                    "max" => None,
                    number => Some(number.parse().map_err(|_| wrong())?),
                };
                let period = match period.trim() {
                    "" => DEFAULT_PERIOD,
                    number => number.parse().map_err(|_| wrong())?,
                };
                for (name, value) in quota_of(quota, Some(period)) {
                    out.push((name.to_owned(), Value::U64(value)));
                }
                continue;
            }
            "cpuset.cpus" | "cpuset.mems" => {
                let name = if key == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
                out.push((name.to_owned(), Value::Bytes(mask(text).ok_or_else(wrong)?)));
                continue;
            }
            "cpu.weight" => "CPUWeight",
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            _ => continue,
        };
        out.push((name.to_owned(), Value::U64(number(text)?)));
    }
    out.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(out)
}

/// Rounds a CPU quota as systemd will, which knows whole percents of a CPU only: what is written to the
/// group's file is what systemd writes there as well.
pub(in crate::cgroups) fn settle(resources: &mut LinuxResources) {
    let Some(mut cpu) = resources.cpu().clone() else { return };
    let (Some(quota), period) =
        (cpu.quota().filter(|&quota| quota > 0), cpu.period().unwrap_or(DEFAULT_PERIOD))
    else {
        return;
    };
    let per_second = quota_of(Some(quota), Some(period)).into_iter().last();
    let rounded = per_second.and_then(|(_, value)| {
        i64::try_from(u128::from(value) * u128::from(period) / 1_000_000).ok()
    });
    cpu.set_quota(rounded.filter(|&rounded| rounded > quota).or(Some(quota)));
    resources.set_cpu(Some(cpu));
}

fn quota(cpu: &LinuxCpu) -> Vec<(&'static str, u64)> {
    quota_of(cpu.quota().filter(|&quota| quota != 0), cpu.period().filter(|&period| period != 0))
}

fn quota_of(quota: Option<i64>, period: Option<u64>) -> Vec<(&'static str, u64)> {
    let mut out = Vec::new();
    if let Some(period) = period {
        out.push(("CPUQuotaPeriodUSec", period));
    }
    if quota.is_some() || period.is_some() {
        let per_second = match quota {
            Some(quota) if quota > 0 => {
                let exact = u128::from(quota as u64) * 1_000_000
                    / u128::from(period.unwrap_or(DEFAULT_PERIOD).max(1));
                u64::try_from(exact).unwrap_or(INFINITY - QUOTA_STEP).next_multiple_of(QUOTA_STEP)
            }
            _ => INFINITY,
        };
        out.push(("CPUQuotaPerSecUSec", per_second));
    }
    out
}

/// `0-2,5` as a bit mask, the lowest byte first.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
        for number in first..=last {
            let byte = usize::from(number / 8);
            if out.len() <= byte {
                out.resize(byte + 1, 0);
            }
            out[byte] |= 1 << (number % 8);
        }
    }
    (!out.is_empty()).then_some(out)
}

/// The device list, needed where systemd keeps v1's: it would allow everything otherwise.
pub(super) fn devices(rules: &[Rule], proc_devices: &str) -> Result<Vec<(String, Value)>> {
    let policy = |name: &str| ("DevicePolicy".to_owned(), Value::Str(name.to_owned()));
    if bpf::allows_everything(rules) {
        return Ok(vec![policy("auto")]);
    }
    let state = State::of(rules)?;
    if state.default_allow {
        return Err(Error::value(
            "devices",
            "systemd's device list on cgroup v1 cannot express denials",
        ));
    }
    let mut list = Vec::new();
    for (nodes, access) in &state.exceptions {
        let word = if nodes.kind == Kind::Block { "block" } else { "char" };
        let node = match (nodes.major, nodes.minor) {
            (None, None) => format!("{word}-*"),
            (Some(major), Some(minor)) => format!("/dev/{word}/{major}:{minor}"),
            (Some(major), None) => match driver(proc_devices, nodes.kind, major) {
                Some(name) => format!("{word}-{name}"),
                // No driver, no device.
                None => continue,
            },
            (None, Some(minor)) => {
                return Err(Error::value(
                    "devices",
                    format!("systemd cannot allow minor {minor} of every major"),
                ));
            }
        };
        let mut letters = String::new();
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if access & bit != 0 {
                letters.push(letter);
            }
        }
        list.push((node, letters));
    }
    Ok(vec![policy("strict"), ("DeviceAllow".to_owned(), Value::Pairs(list))])
}

/// The name of a major number in `/proc/devices`.
fn driver(proc_devices: &str, kind: Kind, major: u32) -> Option<&str> {
    let wanted = if kind == Kind::Block { "Block devices:" } else { "Character devices:" };
    proc_devices
        .lines()
        .skip_while(|line| *line != wanted)
        .skip(1)
        .take_while(|line| !line.is_empty())
        .find_map(|line| {
            let (number, name) = line.trim_start().split_once(' ')?;
            (number.parse() == Ok(major)).then_some(name)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::devices::rules;
    use serde_json::json;

    fn of(resources: serde_json::Value, v2: bool) -> Vec<(String, Value)> {
        limits(&serde_json::from_value(resources).unwrap(), v2).unwrap()
    }

    #[test]
    fn limits_become_properties() {
        let resources = json!({
            "memory": {"limit": 100, "swap": 300, "reservation": 50},
            "cpu": {"shares": 1024, "quota": 25000, "period": 100000, "cpus": "0-1,9"},
            "pids": {"limit": -1},
        });
        let got = of(resources.clone(), true);
        for want in [
            ("MemoryMax", Value::U64(100)),
            ("MemoryLow", Value::U64(50)),
            ("MemorySwapMax", Value::U64(200)),
            ("CPUWeight", Value::U64(100)),
            ("CPUQuotaPerSecUSec", Value::U64(250_000)),
            ("AllowedCPUs", Value::Bytes(vec![3, 2])),
            ("TasksMax", Value::U64(u64::MAX)),
        ] {
            assert!(got.contains(&(want.0.to_owned(), want.1.clone())), "{want:?}");
        }
        let got = of(resources, false);
        assert!(got.contains(&("CPUShares".to_owned(), Value::U64(1024))));
        assert!(got.contains(&("MemoryLimit".to_owned(), Value::U64(100))));
    }

    #[test]
    fn quotas_are_rounded_as_systemd_does() {
        let got = of(json!({"cpu": {"quota": 33333, "period": 100000}}), true);
        assert!(got.contains(&("CPUQuotaPerSecUSec".to_owned(), Value::U64(340_000))));
        let mut settled = serde_json::from_value(json!({"cpu": {"quota": 33333}})).unwrap();
        settle(&mut settled);
        assert_eq!(settled.cpu().as_ref().unwrap().quota(), Some(34_000));
        let got = of(json!({"cpu": {"quota": -1}}), true);
        assert_eq!(got, [("CPUQuotaPerSecUSec".to_owned(), Value::U64(u64::MAX))]);
    }

    #[test]
    fn unified_overrides_what_it_names() {
        let got = of(
            json!({
                "memory": {"limit": 100}, "cpu": {"quota": 25000},
                "unified": {
                    "memory.max": "300\n", "memory.high": "max", "pids.max": "7", "cpu.max": "max 50000",
                    "cpuset.cpus": "1", "hugetlb.2MB.max": "0",
                },
            }),
            true,
        );
        let number = |name: &str, value| (name.to_owned(), Value::U64(value));
        let want = [
            ("AllowedCPUs".to_owned(), Value::Bytes(vec![2])),
            number("CPUQuotaPerSecUSec", u64::MAX),
            number("CPUQuotaPeriodUSec", 50_000),
            number("MemoryHigh", u64::MAX),
            number("MemoryMax", 300),
            number("TasksMax", 7),
        ];
        assert_eq!(got, want);
        let wrong = serde_json::from_value(json!({"unified": {"pids.max": "many"}})).unwrap();
        assert!(limits(&wrong, true).unwrap_err().to_string().contains("pids.max"));
    }

    #[test]
    fn devices_by_name_of_their_driver() {
        let proc_devices = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        let got = devices(&rules::parse(&[], true).unwrap(), proc_devices).unwrap();
        let Value::Pairs(list) = &got[1].1 else { panic!() };
        assert!(list.contains(&("char-pts".into(), "rwm".into())));
        assert!(list.contains(&("/dev/char/1:3".into(), "rwm".into())));
        assert!(list.contains(&("block-*".into(), "m".into())));
    }
}
