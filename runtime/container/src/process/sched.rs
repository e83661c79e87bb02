//! Scheduling of the process: policy, I/O priority, CPU affinity, memory policy, personality.
//!
//! Sources: sched_setattr(2), ioprio_set(2), sched_setaffinity(2), set_mempolicy(2),
//! personality(2); "Linux Process" and "Memory policy" of the runtime specification.

use crate::sys;
use crate::{Error, Result};
use oci::spec::{
    IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType,
    Scheduler,
};

/// `struct sched_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

impl SchedAttr {
    /// Understands `process.scheduler`.
    pub(crate) fn plan(given: &Scheduler) -> Result<SchedAttr> {
        use LinuxSchedulerPolicy as Policy;
        let field = |name: &str| format!("process.scheduler.{name}");
        let policy = *given.policy();
        let real_time = matches!(policy, Policy::SchedFifo | Policy::SchedRr);
        let priority = given.priority().unwrap_or(0);
        if priority != 0 && !real_time {
            return Err(Error::value(field("priority"), "is for SCHED_FIFO and SCHED_RR only"));
        }
        let nice = given.nice().unwrap_or(0);
        if !(-20..=19).contains(&nice) {
            return Err(Error::value(field("nice"), format!("{nice} is not in -20..=19")));
        }
        let numbers = [*given.runtime(), *given.deadline(), *given.period()];
        let numbers = numbers.map(|number| number.unwrap_or(0));
        if policy != Policy::SchedDeadline && numbers.iter().any(|number| *number != 0) {
            return Err(Error::value(
                field("runtime"),
                "runtime, deadline and period are for SCHED_DEADLINE only",
            ));
        }
        let flags = given.flags().iter().flatten().fold(0u64, |flags, flag| {
            flags
                | match flag {
                    LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                    LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                    LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                    LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                    LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                    LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                    LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
                }
        });
        Ok(SchedAttr {
            size: size_of::<SchedAttr>() as u32,
            policy: match policy {
                Policy::SchedOther => 0,
                Policy::SchedFifo => 1,
                Policy::SchedRr => 2,
                Policy::SchedBatch => 3,
                Policy::SchedIso => 4,
                Policy::SchedIdle => 5,
                Policy::SchedDeadline => 6,
            },
            flags,
            nice,
            priority: priority as u32,
            runtime: numbers[0],
            deadline: numbers[1],
            period: numbers[2],
            ..SchedAttr::default()
        })
    }

    pub(crate) fn apply(&self) -> sys::Result<()> {
        // SAFETY: the structure says its own size and outlives the call.
        sys::check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, self as *const Self, 0) })
            .map(drop)
    }
}

/// The value of ioprio_set(2).
pub(crate) fn io_priority(given: &LinuxIOPriority) -> Result<i32> {
    let priority = given.priority();
    if !(0..=7).contains(&priority) {
        return Err(Error::value(
            "process.ioPriority.priority",
            format!("{priority} is not in 0..=7"),
        ));
    }
    let class = match given.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    Ok(class << 13 | priority as i32)
}

/// Sets the caller's I/O priority.
pub(crate) fn set_io_priority(value: i32) -> sys::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: takes integers only.
    sys::check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) })
        .map(drop)
}

/// Numbers above this are a mistake, not a machine.
const MAX_NUMBER: usize = 8191;

/// A set of CPUs or memory nodes, as bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// Understands `0-3,7`.
    pub(crate) fn parse(field: &str, text: &str) -> Result<Bits> {
        let wrong = || Error::value(field, format!("{text:?} is not a list like 0-3,7"));
        let mut bits = Bits::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| wrong())?;
            let last: usize = last.trim().parse().map_err(|_| wrong())?;
            if first > last || last > MAX_NUMBER {
                return Err(wrong());
            }
            for number in first..=last {
                let word = number / 64;
                if bits.0.len() <= word {
                    bits.0.resize(word + 1, 0);
                }
                bits.0[word] |= 1 << (number % 64);
            }
        }
        Ok(bits)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the caller's CPU affinity.
    pub(crate) fn set_affinity(&self) -> sys::Result<()> {
        // SAFETY: the length given is that of the vector.
        sys::check(unsafe {
            libc::syscall(
                libc::SYS_sched_setaffinity,
                0,
                size_of_val(self.0.as_slice()),
                self.0.as_ptr(),
            )
        })
        .map(drop)
    }
}

/// Gives the caller all CPUs of its cgroup: the affinity of whoever called the runtime is not the
/// container's, and kernels since 6.2 remember it over a change of cgroups.
pub(crate) fn reset_affinity() {
    let all = [u64::MAX; (MAX_NUMBER + 1) / 64];
    // SAFETY: the length given is that of the array, in bytes. What forbids the call (a filter
    // around us) leaves the process as it was.
    unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(&all), all.as_ptr()) };
}

/// The caller's CPU affinity as the kernel has it: one hexadecimal number.
pub(crate) fn own_affinity() -> sys::Result<String> {
    let mut words = [0u64; (MAX_NUMBER + 1) / 64];
    let size = size_of_val(&words);
    // SAFETY: the length given is that of the array, in bytes.
    let filled = sys::check(unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, 0, size, words.as_mut_ptr())
    })? as usize;
    Ok(hexadecimal(&words[..filled.min(size) / 8]))
}

/// A mask, its lowest word first, as `0x3`.
fn hexadecimal(words: &[u64]) -> String {
    let mut words = words.iter().rev().skip_while(|word| **word == 0);
    let first = format!("{:#x}", words.next().unwrap_or(&0));
    words.fold(first, |text, word| text + &format!("{word:016x}"))
}

/// `linux.memoryPolicy`, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    mode: i32,
    nodes: Bits,
}

/// Modes of `linux.memoryPolicy`, for `features`.
pub const MEMORY_POLICY_MODES: &[&str] = &[
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

/// Flags of `linux.memoryPolicy`, for `features`.
pub const MEMORY_POLICY_FLAGS: &[&str] =
    &["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

impl MemoryPolicy {
    pub(crate) fn plan(given: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
        use MemoryPolicyModeType as Mode;
        const FIELD: &str = "linux.memoryPolicy";
        let nodes = Bits::parse(
            "linux.memoryPolicy.nodes: invalid memory policy node",
            given.nodes().as_deref().unwrap_or_default(),
        )?;
        let flags = given.flags().as_deref().unwrap_or_default();
        let without_nodes = matches!(given.mode(), Mode::MpolDefault | Mode::MpolLocal);
        if without_nodes && !nodes.is_empty() {
            let count: u32 = nodes.0.iter().map(|word| word.count_ones()).sum();
            let reason = format!("{} mode requires 0 nodes but got {count}", given.mode());
            return Err(Error::value(FIELD, reason));
        }
        if without_nodes && !flags.is_empty() {
            return Err(Error::value(FIELD, format!("{} takes no flags", given.mode())));
        }
        let needs_nodes = !without_nodes && given.mode() != Mode::MpolPreferred;
        if needs_nodes && nodes.is_empty() {
            return Err(Error::value(FIELD, format!("{} needs nodes", given.mode())));
        }
        let both = flags.contains(&MemoryPolicyFlagType::MpolFRelativeNodes)
            && flags.contains(&MemoryPolicyFlagType::MpolFStaticNodes);
        if both {
            return Err(Error::value(FIELD, "relative and static nodes exclude each other"));
        }
        let balancing = flags.contains(&MemoryPolicyFlagType::MpolFNumaBalancing);
        if balancing && given.mode() != Mode::MpolBind {
            return Err(Error::value(FIELD, "MPOL_F_NUMA_BALANCING is for MPOL_BIND only"));
        }
        let mode = match given.mode() {
            Mode::MpolDefault => 0,
            Mode::MpolPreferred => 1,
            Mode::MpolBind => 2,
            Mode::MpolInterleave => 3,
            Mode::MpolLocal => 4,
            Mode::MpolPreferredMany => 5,
            Mode::MpolWeightedInterleave => 6,
        };
        let mode = flags.iter().fold(mode, |mode, flag| {
            mode | match flag {
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            }
        });
        Ok(MemoryPolicy { mode, nodes })
    }

    pub(crate) fn apply(&self) -> sys::Result<()> {
        let bits = self.nodes.0.len() * 64;
        let pointer = if bits == 0 { std::ptr::null() } else { self.nodes.0.as_ptr() };
        // The kernel reads one bit less than it is told.
        let count = if bits == 0 { 0 } else { bits + 1 };
        // SAFETY: the mask holds as many bits as are read, or is null with a count of 0.
        sys::check(unsafe { libc::syscall(libc::SYS_set_mempolicy, self.mode, pointer, count) })
            .map(drop)
    }
}

/// The value of personality(2).
pub(crate) fn personality(given: &LinuxPersonality) -> Result<u64> {
    if given.flags().iter().flatten().next().is_some() {
        return Err(Error::value("linux.personality.flags", "no flag is known"));
    }
    Ok(match given.domain() {
        LinuxPersonalityDomain::PerLinux => 0x0000,
        LinuxPersonalityDomain::PerLinux32 => 0x0008,
    })
}

/// Sets the caller's personality.
pub(crate) fn set_personality(value: u64) -> sys::Result<()> {
    // SAFETY: takes an integer only.
    sys::check(unsafe { libc::personality(value) } as libc::c_long).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_understood() {
        assert_eq!(Bits::parse("f", "0-1,64").unwrap(), Bits(vec![3, 1]));
        assert!(Bits::parse("f", "").unwrap().is_empty());
        for wrong in ["3-1", "a", "1-", "99999999999", "-1"] {
            assert!(Bits::parse("f", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_affinity_is_one_number() {
        assert_eq!(hexadecimal(&[0]), "0x0");
        assert_eq!(hexadecimal(&[3, 0]), "0x3");
        assert_eq!(hexadecimal(&[1, 2, 0]), "0x20000000000000001");
        assert!(own_affinity().unwrap().starts_with("0x"));
    }

    #[test]
    fn priorities_belong_to_real_time() {
        let given: Scheduler =
            serde_json::from_str(r#"{"policy":"SCHED_OTHER","priority":3}"#).unwrap();
        assert!(SchedAttr::plan(&given).is_err());
        let given: Scheduler =
            serde_json::from_str(r#"{"policy":"SCHED_BATCH","nice":5}"#).unwrap();
        let attr = SchedAttr::plan(&given).unwrap();
        assert_eq!((attr.policy, attr.nice, attr.size), (3, 5, 56));
    }

    #[test]
    fn io_priorities_have_a_class_and_a_level() {
        let given: LinuxIOPriority =
            serde_json::from_str(r#"{"class":"IOPRIO_CLASS_IDLE","priority":7}"#).unwrap();
        assert_eq!(io_priority(&given).unwrap(), 3 << 13 | 7);
    }

    #[test]
    fn every_memory_policy_is_listed() {
        let known = |error: serde_json::Error| {
            let text = error.to_string();
            let quoted = text.split('`').skip(1).step_by(2).filter(|name| !name.is_empty());
            let mut names: Vec<_> = quoted.map(str::to_owned).collect();
            names.sort();
            names
        };
        let modes = known(serde_json::from_str::<MemoryPolicyModeType>("\"\"").unwrap_err());
        assert_eq!(modes, MEMORY_POLICY_MODES);
        let flags = known(serde_json::from_str::<MemoryPolicyFlagType>("\"\"").unwrap_err());
        assert_eq!(flags, MEMORY_POLICY_FLAGS);
    }

    #[test]
    fn a_memory_policy_must_make_sense() {
        let policy = |json: &str| MemoryPolicy::plan(&serde_json::from_str(json).unwrap());
        assert!(policy(r#"{"mode":"MPOL_BIND"}"#).is_err());
        assert!(policy(r#"{"mode":"MPOL_DEFAULT","nodes":"0"}"#).is_err());
        let bind = policy(r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES"]}"#);
        assert_eq!(bind.unwrap().mode, 2 | 1 << 15);
    }
}
