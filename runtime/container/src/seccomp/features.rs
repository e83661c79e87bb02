//! What of `linux.seccomp` can be had, for `features`.

use super::{
    FLAG_LOG, FLAG_NEW_LISTENER, FLAG_SPEC_ALLOW, FLAG_TSYNC, FLAG_WAIT_KILLABLE_RECV,
    SET_MODE_FILTER, compile,
};
use libseccomp::{ScmpAction, ScmpFilterContext};
use oci::spec::Arch;

/// Actions that a profile may name.
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// Operators that a condition may name.
pub const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Flags that a profile may name, and the kernel's bit of each.
const FLAGS: &[(&str, u32)] = &[
    ("SECCOMP_FILTER_FLAG_LOG", FLAG_LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", FLAG_TSYNC),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", FLAG_WAIT_KILLABLE_RECV),
];

/// `SCMP_ARCH_NATIVE` is one of those that follow it.
const ARCHITECTURES: &[Arch] = &[
    Arch::ScmpArchAarch64,
    Arch::ScmpArchArm,
    Arch::ScmpArchLoongarch64,
    Arch::ScmpArchM68k,
    Arch::ScmpArchMips,
    Arch::ScmpArchMips64,
    Arch::ScmpArchMips64n32,
    Arch::ScmpArchMipsel,
    Arch::ScmpArchMipsel64,
    Arch::ScmpArchMipsel64n32,
    Arch::ScmpArchParisc,
    Arch::ScmpArchParisc64,
    Arch::ScmpArchPpc,
    Arch::ScmpArchPpc64,
    Arch::ScmpArchPpc64le,
    Arch::ScmpArchRiscv64,
    Arch::ScmpArchS390,
    Arch::ScmpArchS390x,
    Arch::ScmpArchSh,
    Arch::ScmpArchSheb,
    Arch::ScmpArchX32,
    Arch::ScmpArchX86,
    Arch::ScmpArchX86_64,
];

/// Architectures that the libseccomp this is linked with makes filters for.
pub fn architectures() -> Vec<String> {
    let can = |arch: &&Arch| {
        let arch = compile::arch(**arch);
        ScmpFilterContext::new(ScmpAction::Allow)
            .is_ok_and(|mut context| context.add_arch(arch).is_ok())
    };
    ARCHITECTURES.iter().filter(can).map(|arch| arch.to_string()).collect()
}

/// Flags that are understood.
pub fn known_flags() -> Vec<&'static str> {
    FLAGS.iter().map(|(name, _)| *name).collect()
}

/// Flags that this kernel takes, too.
pub fn supported_flags() -> Vec<&'static str> {
    FLAGS.iter().filter(|(_, flag)| kernel_takes(*flag)).map(|(name, _)| *name).collect()
}

fn kernel_takes(flag: u32) -> bool {
    // Alone it means nothing and is refused.
    let listener = if flag == FLAG_WAIT_KILLABLE_RECV { FLAG_NEW_LISTENER } else { 0 };
    let no_program = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: without a program nothing is installed: a known flag is EFAULT, an unknown one EINVAL.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flag | listener, no_program) };
    result < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::spec::{LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator};

    /// All names that a type knows, as it tells them when it is given another.
    fn names<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
        let error = serde_json::from_str::<T>("\"\"").unwrap_err().to_string();
        let quoted = error.split('`').skip(1).step_by(2).filter(|name| !name.is_empty());
        let mut names: Vec<_> = quoted.map(str::to_owned).collect();
        names.sort();
        names
    }

    #[test]
    fn all_that_a_profile_may_say_is_listed() {
        assert_eq!(names::<LinuxSeccompAction>(), ACTIONS);
        assert_eq!(names::<LinuxSeccompOperator>(), OPERATORS);
        assert_eq!(names::<LinuxSeccompFilterFlag>(), known_flags());
        let mut all: Vec<_> = ARCHITECTURES.iter().map(|arch| arch.to_string()).collect();
        all.push("SCMP_ARCH_NATIVE".to_owned());
        all.sort();
        assert_eq!(names::<Arch>(), all);
    }

    #[test]
    fn what_is_asked_of_library_and_kernel_is_part_of_it() {
        assert!(architectures().contains(&"SCMP_ARCH_X86_64".to_owned()));
        let supported = supported_flags();
        assert!(supported.contains(&"SECCOMP_FILTER_FLAG_LOG"), "{supported:?}");
        assert!(!kernel_takes(1 << 31));
    }
}
