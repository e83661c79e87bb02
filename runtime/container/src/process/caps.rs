//! The five capability sets of a process (capabilities(7)).

use crate::sys;
use nix::errno::Errno;
use oci::spec::{Capabilities, Capability, LinuxCapabilities};

/// Names in the kernel's order: the place is the number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// `CAP_SYS_ADMIN`.
pub(crate) const SYS_ADMIN: u32 = 21;
/// CAP_DAC_OVERRIDE.
pub(crate) const DAC_OVERRIDE: u32 = 1;

/// A set of capabilities as the kernel has it.
type Mask = u64;

/// What a process is to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) bounding: Mask,
    pub(crate) effective: Mask,
    pub(crate) permitted: Mask,
    pub(crate) inheritable: Mask,
    pub(crate) ambient: Mask,
}

fn number(capability: Capability) -> Option<u32> {
    let name = capability.to_string();
    NAMES.iter().position(|known| *known == name).map(|place| place as u32)
}

fn mask(set: &Option<Capabilities>) -> Mask {
    set.iter().flatten().filter_map(|capability| number(*capability)).fold(0, |m, n| m | 1 << n)
}

/// Names of the capabilities in a mask.
fn names(mask: Mask) -> Vec<String> {
    (0..64)
        .filter(|number| mask & (1 << number) != 0)
        .map(|number| match NAMES.get(number) {
            Some(name) => format!("CAP_{name}"),
            None => format!("CAP_{number}"),
        })
        .collect()
}

/// All names, for `features`.
pub fn all_names() -> impl Iterator<Item = String> {
    NAMES.iter().map(|name| format!("CAP_{name}"))
}

impl Sets {
    /// Computes the sets. What `available` does not hold cannot be granted; it is left out and
    /// named in the second value, for a warning.
    pub(crate) fn plan(given: Option<&LinuxCapabilities>, available: Mask) -> (Sets, Vec<String>) {
        let Some(given) = given else { return (Sets::default(), Vec::new()) };
        let asked = Sets {
            bounding: mask(given.bounding()),
            effective: mask(given.effective()),
            permitted: mask(given.permitted()),
            inheritable: mask(given.inheritable()),
            ambient: mask(given.ambient()),
        };
        let all =
            asked.bounding | asked.effective | asked.permitted | asked.inheritable | asked.ambient;
        let missing = all & !available;
        let mut warnings = Vec::new();
        if missing != 0 {
            warnings.push(format!(
                "process.capabilities: not available here, left out: {}",
                names(missing).join(" ")
            ));
        }
        let permitted = asked.permitted & available;
        let inheritable = asked.inheritable & available;
        let possible = permitted & inheritable;
        let impossible = asked.ambient & available & !possible;
        if impossible != 0 {
            warnings.extend(names(impossible).into_iter().map(|name| {
                format!(
                    "process.capabilities.ambient: can't raise ambient capability {name}: \
                     it is not both permitted and inheritable"
                )
            }));
        }
        let sets = Sets {
            bounding: asked.bounding & available,
            effective: asked.effective & available,
            permitted,
            inheritable,
            ambient: asked.ambient & possible,
        };
        (sets, warnings)
    }

    /// Names what capset(2) would refuse with EPERM once the bounding set is limited: inheritable
    /// ones that are neither bounding nor inherited already.
    pub(crate) fn beyond_bounding(self, inherited: Mask) -> Option<String> {
        let refused = self.inheritable & !self.bounding & !inherited;
        (refused != 0).then(|| names(refused).join(" "))
    }

    pub(crate) fn holds(self, number: u32) -> bool {
        self.effective & (1 << number) != 0
    }

    /// Takes everything else out of the bounding set. Needs CAP_SETPCAP, so it comes first.
    pub(crate) fn limit(self) -> sys::Result<()> {
        for number in 0..64 {
            if self.bounding & (1 << number) != 0 {
                continue;
            }
            match sys::prctl(libc::PR_CAPBSET_DROP, number, 0) {
                Ok(_) => {}
                // Beyond the last one that this kernel knows.
                Err(Errno::EINVAL) => break,
                // No privilege to drop it and none to gain by it: it was not there.
                Err(Errno::EPERM) if sys::prctl(libc::PR_CAPBSET_READ, number, 0) == Ok(0) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sets the other four, once the user is changed.
    pub(crate) fn apply(self) -> sys::Result<()> {
        capset(self.effective, self.permitted, self.inheritable)?;
        // There is no call that sets the ambient set at once.
        const PR_CAP_AMBIENT_RAISE: u64 = 2;
        const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;
        sys::prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
        for number in (0..64).filter(|number| self.ambient & (1 << number) != 0) {
            sys::prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)?;
        }
        Ok(())
    }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

fn capset(effective: Mask, permitted: Mask, inheritable: Mask) -> sys::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 of the call reads a header and two data elements, which are given.
    sys::check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
        .map(drop)
}

/// What this process may hand on, its permitted set; and its inheritable set.
pub(crate) fn available() -> sys::Result<(Mask, Mask)> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 of the call fills two data elements.
    sys::check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let both = |of: fn(&Data) -> u32| u64::from(of(&data[0])) | u64::from(of(&data[1])) << 32;
    Ok((both(|half| half.permitted), both(|half| half.inheritable)))
}

/// What a process in a new user namespace may hold: all that this kernel knows.
pub(crate) fn known() -> Mask {
    (0..64)
        .take_while(|n| sys::prctl(libc::PR_CAPBSET_READ, *n, 0).is_ok())
        .fold(0, |m, n| m | 1 << n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(json: &str) -> LinuxCapabilities {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_capability_of_the_specification_has_a_number() {
        for (place, name) in NAMES.iter().enumerate() {
            let capability: Capability = serde_json::from_str(&format!("\"CAP_{name}\"")).unwrap();
            assert_eq!(number(capability), Some(place as u32), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_left_out_and_named() {
        let given =
            given(r#"{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"],"permitted":["CAP_CHOWN"]}"#);
        let (sets, warnings) = Sets::plan(Some(&given), 1);
        assert_eq!(sets.bounding, 1);
        assert_eq!(sets.permitted, 1);
        assert!(warnings[0].contains("CAP_SYS_RESOURCE"));
    }

    #[test]
    fn ambient_needs_permitted_and_inheritable() {
        let given =
            given(r#"{"permitted":["CAP_CHOWN"],"inheritable":[],"ambient":["CAP_CHOWN"]}"#);
        let (sets, warnings) = Sets::plan(Some(&given), u64::MAX);
        assert_eq!(sets.ambient, 0);
        assert!(warnings[0].contains("can't raise ambient capability CAP_CHOWN: "));
    }

    #[test]
    fn inheritable_ones_need_to_be_bounding() {
        let given =
            given(r#"{"bounding":["CAP_KILL"],"inheritable":["CAP_KILL","CAP_SYS_ADMIN"]}"#);
        let (sets, _) = Sets::plan(Some(&given), u64::MAX);
        assert_eq!(sets.beyond_bounding(0).as_deref(), Some("CAP_SYS_ADMIN"));
        assert_eq!(sets.beyond_bounding(1 << SYS_ADMIN), None);
        assert_eq!(Sets::default().beyond_bounding(0), None);
    }

    #[test]
    fn without_the_field_nothing_is_held() {
        assert_eq!(Sets::plan(None, u64::MAX).0, Sets::default());
    }
}
