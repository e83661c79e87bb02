//! A profile compiled by libseccomp.
//!
//! Where the specification is silent this follows runc: system calls that libseccomp does not know
//! are passed over (profiles name those of newer kernels), a rule with the default action is not
//! added, and several conditions on one argument are alternatives.

use super::{Error, INSTRUCTION, MAX_INSTRUCTIONS, Result, enosys};
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci::spec::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use std::fs::File;
use std::io::{Read, Seek};

/// What a rule without `errnoRet` returns.
const DEFAULT_ERRNO: u32 = libc::EPERM as u32;

pub(super) fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<u8>> {
    let failed = |operation: &str| {
        let operation = operation.to_owned();
        move |source| Error::Library { operation, source }
    };
    let default = action("defaultAction", seccomp.default_action(), seccomp.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(failed("make a filter"))?;
    // A binary tree instead of a list: long profiles cost the container less. An old libseccomp that
    // has none makes a list.
    let _ = context.set_ctl_optimize(2);
    for name in seccomp.architectures().iter().flatten() {
        context.add_arch(arch(*name)).map_err(failed(&format!("architectures: add {name}")))?;
    }
    for (at, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        add(&mut context, at, rule, default)?;
    }
    let mut program = enosys::prelude(seccomp)?;
    program.extend(export(&context)?);
    let instructions = program.len() / INSTRUCTION;
    if instructions == 0 || instructions > MAX_INSTRUCTIONS {
        return Err(Error::TooLong(instructions));
    }
    Ok(program)
}

fn add(
    context: &mut ScmpFilterContext,
    at: usize,
    rule: &LinuxSyscall,
    default: ScmpAction,
) -> Result<()> {
    let field = || format!("syscalls[{at}]");
    let action = action(&field(), rule.action(), rule.errno_ret())?;
    let mut conditions = Vec::new();
    for argument in rule.args().iter().flatten() {
        conditions.push(condition(&field(), argument)?);
    }
    // libseccomp refuses a rule that changes nothing.
    if action == default {
        return Ok(());
    }
    let mut used = [0u8; 6];
    for argument in rule.args().iter().flatten() {
        used[argument.index()] += 1;
    }
    let alternatives = used.iter().any(|&times| times > 1);
    for name in rule.names() {
        if name.is_empty() {
            return Err(Error::field(field(), "has an empty name"));
        }
        let Ok(call) = ScmpSyscall::from_name(name) else {
            tracing::debug!(
                "linux.seccomp: system call {name} is not known to libseccomp: passed over"
            );
            continue;
        };
        let failed =
            |source| Error::Library { operation: format!("{}: add {name}", field()), source };
        if conditions.is_empty() {
            context.add_rule(action, call).map_err(failed)?;
        } else if alternatives {
            for one in &conditions {
                context.add_rule_conditional(action, call, &[*one]).map_err(failed)?;
            }
        } else {
            context.add_rule_conditional(action, call, &conditions).map_err(failed)?;
        }
    }
    Ok(())
}

fn action(field: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction> {
    let errno = errno.unwrap_or(DEFAULT_ERRNO);
    // SECCOMP_RET_DATA has 16 bits; as an errno the kernel takes up to MAX_ERRNO.
    let value = u16::try_from(errno)
        .map_err(|_| Error::field(field, format!("errnoRet {errno} is too large")))?;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(i32::from(value)),
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(value),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    })
}

fn condition(field: &str, argument: &LinuxSeccompArg) -> Result<ScmpArgCompare> {
    let index = argument.index();
    if index > 5 {
        return Err(Error::field(field, format!("args: a system call has no argument {index}")));
    }
    let (value, second) = (argument.value(), argument.value_two().unwrap_or(0));
    let (operator, datum) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(value), second),
    };
    Ok(ScmpArgCompare::new(index as u32, operator, datum))
}

pub(super) fn arch(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

/// libseccomp 2.5 exports to a descriptor only: an anonymous file takes it.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let fd = memfd_create("seccomp", MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| Error::io("make an anonymous file", errno.into()))?;
    let mut file = File::from(fd);
    context
        .export_bpf(&file)
        .map_err(|source| Error::Library { operation: "export the filter".to_owned(), source })?;
    let mut out = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut out))
        .map_err(|source| Error::io("read the filter", source))?;
    Ok(out)
}
