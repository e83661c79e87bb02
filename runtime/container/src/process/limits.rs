//! Resource limits (setrlimit(2)).

use crate::sys;
use crate::{Error, Result};
use oci::spec::{PosixRlimit, PosixRlimitType};

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) kind: PosixRlimitType,
    soft: u64,
    hard: u64,
}

/// Understands `process.rlimits`.
pub(crate) fn plan(rlimits: Option<&[PosixRlimit]>) -> Result<Vec<Limit>> {
    let mut limits: Vec<Limit> = Vec::new();
    for (index, rlimit) in rlimits.into_iter().flatten().enumerate() {
        let limit = Limit { kind: rlimit.typ(), soft: rlimit.soft(), hard: rlimit.hard() };
        let field = || format!("process.rlimits[{index}]");
        if limits.iter().any(|known| known.kind == limit.kind) {
            return Err(Error::value(field(), format!("duplicated {}", limit.kind)));
        }
        if limit.soft > limit.hard {
            return Err(Error::value(
                field(),
                format!("{}: soft {} is above hard {}", limit.kind, limit.soft, limit.hard),
            ));
        }
        limits.push(limit);
    }
    Ok(limits)
}

impl Limit {
    fn resource(self) -> u32 {
        use PosixRlimitType as Kind;
        match self.kind {
            Kind::RlimitCpu => libc::RLIMIT_CPU,
            Kind::RlimitFsize => libc::RLIMIT_FSIZE,
            Kind::RlimitData => libc::RLIMIT_DATA,
            Kind::RlimitStack => libc::RLIMIT_STACK,
            Kind::RlimitCore => libc::RLIMIT_CORE,
            Kind::RlimitRss => libc::RLIMIT_RSS,
            Kind::RlimitNproc => libc::RLIMIT_NPROC,
            Kind::RlimitNofile => libc::RLIMIT_NOFILE,
            Kind::RlimitMemlock => libc::RLIMIT_MEMLOCK,
            Kind::RlimitAs => libc::RLIMIT_AS,
            Kind::RlimitLocks => libc::RLIMIT_LOCKS,
            Kind::RlimitSigpending => libc::RLIMIT_SIGPENDING,
            Kind::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
            Kind::RlimitNice => libc::RLIMIT_NICE,
            Kind::RlimitRtprio => libc::RLIMIT_RTPRIO,
            Kind::RlimitRttime => libc::RLIMIT_RTTIME,
        }
    }

    /// Whether the caller's hard limit would have to be raised.
    pub(crate) fn is_raise(self) -> bool {
        let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `now` outlives the call; a null pointer sets nothing.
        let read = sys::check(unsafe {
            libc::syscall(
                libc::SYS_prlimit64,
                0,
                self.resource(),
                std::ptr::null::<libc::rlimit64>(),
                &raw mut now,
            )
        });
        read.is_ok() && self.hard > now.rlim_max
    }

    /// Sets the limit of a process; 0 is the caller.
    pub(crate) fn apply(self, pid: i32) -> sys::Result<()> {
        let limit = libc::rlimit64 { rlim_cur: self.soft, rlim_max: self.hard };
        // SAFETY: `limit` outlives the call; a null pointer asks for no old value.
        sys::check(unsafe {
            libc::syscall(
                libc::SYS_prlimit64,
                pid,
                self.resource(),
                &raw const limit,
                std::ptr::null_mut::<libc::rlimit64>(),
            )
        })
        .map(drop)
    }

    /// The field and value, for messages.
    pub(crate) fn words(self) -> String {
        format!("process.rlimits: {} soft {} hard {}", self.kind, self.soft, self.hard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rlimits(json: &str) -> Vec<PosixRlimit> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_limit_may_be_given_once() {
        let twice = r#"[{"type":"RLIMIT_CORE","soft":1,"hard":1},
            {"type":"RLIMIT_CORE","soft":2,"hard":2}]"#;
        assert!(plan(Some(&rlimits(twice))).is_err());
    }

    #[test]
    fn soft_is_not_above_hard() {
        assert!(plan(Some(&rlimits(r#"[{"type":"RLIMIT_CORE","soft":2,"hard":1}]"#))).is_err());
    }
}
