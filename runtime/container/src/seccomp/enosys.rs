//! `ENOSYS` for system calls newer than the profile.
//!
//! A profile that returns `EPERM` by default breaks programs that try a new system call and fall
//! back on `ENOSYS`. As runc does, calls numbered above the highest one that the profile names (for
//! an architecture) get `ENOSYS`, by a few instructions in front of libseccomp's program. A profile
//! that says `ENOSYS` itself, or allows by default, is left as it is.

use super::compile::arch;
use super::{Error, Result};
use libseccomp::{ScmpArch, ScmpSyscall};
use oci::spec::{Arch, LinuxSeccomp, LinuxSeccompAction};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// `AUDIT_ARCH_*` and the ABI bit of x32.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_X86: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARM: u32 = 0x4000_0028;
const AUDIT_RISCV64: u32 = 0xc000_00f3;
const X32_BIT: u32 = 0x4000_0000;
/// `SECCOMP_RET_ERRNO | ENOSYS`.
const RETURN_ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// One `struct sock_filter`.
#[derive(Clone, Copy)]
struct Insn(u16, u8, u8, u32);

/// Highest number named, by the architecture that the kernel tells.
#[derive(Debug, Default, PartialEq, Eq)]
struct Highest {
    audit: u32,
    /// The plain ABI.
    plain: Option<u32>,
    /// x32, which shares x86-64's architecture.
    x32: Option<u32>,
}

/// The instructions in front; empty where the profile needs none.
pub(super) fn prelude(seccomp: &LinuxSeccomp) -> Result<Vec<u8>> {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActLog, ScmpActTrace};
    if matches!(seccomp.default_action(), ScmpActAllow | ScmpActLog | ScmpActTrace)
        || seccomp.default_errno_ret() == Some(libc::ENOSYS as u32)
    {
        return Ok(Vec::new());
    }
    Ok(assemble(&highest(seccomp)?))
}

fn highest(seccomp: &LinuxSeccomp) -> Result<Vec<Highest>> {
    let native = ScmpArch::native();
    let mut architectures = vec![native];
    for name in
        seccomp.architectures().iter().flatten().filter(|name| **name != Arch::ScmpArchNative)
    {
        let known = arch(*name);
        if !architectures.contains(&known) {
            architectures.push(known);
        }
    }
    let mut out: Vec<Highest> = Vec::new();
    for architecture in architectures {
        let audit = match architecture {
            ScmpArch::X8664 | ScmpArch::X32 => AUDIT_X86_64,
            ScmpArch::X86 => AUDIT_X86,
            ScmpArch::Aarch64 => AUDIT_AARCH64,
            ScmpArch::Arm => AUDIT_ARM,
            ScmpArch::Riscv64 => AUDIT_RISCV64,
            // Not ones that hull runs on: libseccomp's program alone decides there.
            _ => continue,
        };
        let mut top = None;
        for rule in seccomp.syscalls().iter().flatten() {
            for name in rule.names() {
                let Ok(call) = ScmpSyscall::from_name_by_arch(name, architecture) else { continue };
                // Negative ones are libseccomp's own, for calls that this architecture lacks.
                if let Ok(number) = u32::try_from(call.as_raw_syscall()) {
                    top = top.max(Some(number & !X32_BIT));
                }
            }
        }
        if top.is_none() {
            continue;
        }
        let at = match out.iter().position(|entry| entry.audit == audit) {
            Some(at) => at,
            None => {
                out.push(Highest { audit, ..Highest::default() });
                out.len() - 1
            }
        };
        if architecture == ScmpArch::X32 { out[at].x32 = top } else { out[at].plain = top }
    }
    if out.len() > 16 {
        return Err(Error::field("architectures", "are too many"));
    }
    Ok(out)
}

fn assemble(list: &[Highest]) -> Vec<u8> {
    if list.is_empty() {
        return Vec::new();
    }
    let mut sections: Vec<Vec<Insn>> = Vec::new();
    for entry in list {
        // Each section ends by falling out of its end (to the next architecture's test, which
        // cannot hold as the number is loaded: hence the jump over the rest, patched below).
        let mut code = vec![Insn(LOAD, 0, 0, NUMBER)];
        let over =
            |limit: u32| [Insn(JUMP_GREATER, 0, 1, limit), Insn(RETURN, 0, 0, RETURN_ENOSYS)];
        match (entry.plain, entry.x32) {
            (Some(plain), None) => code.extend(over(plain)),
            (plain, Some(x32)) => {
                // Without the bit: over the x32 part.
                code.push(Insn(JUMP_GREATER_OR_EQUAL, 0, 3, X32_BIT));
                code.extend(over(x32 | X32_BIT));
                code.push(Insn(JUMP, 0, 0, 2));
                code.extend(over(plain.unwrap_or(u32::MAX)));
            }
            (None, None) => {}
        }
        sections.push(code);
    }
    let mut out = vec![Insn(LOAD, 0, 0, ARCHITECTURE)];
    let total: usize = 1 + sections.iter().map(|code| code.len() + 2).sum::<usize>();
    for (entry, code) in list.iter().zip(sections) {
        // Not this architecture: over the section and its final jump.
        out.push(Insn(JUMP_EQUAL, 0, (code.len() + 1) as u8, entry.audit));
        out.extend(code);
        let rest = total - out.len() - 1;
        out.push(Insn(JUMP, 0, 0, rest as u32));
    }
    out.iter()
        .flat_map(|Insn(code, yes, no, value)| {
            let (code, value) = (code.to_ne_bytes(), value.to_ne_bytes());
            [code[0], code[1], *yes, *no, value[0], value[1], value[2], value[3]]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::tests::run;

    #[test]
    fn only_numbers_above_the_highest_get_enosys() {
        const THROUGH: u32 = 0x7fff_0000;
        let list = [
            Highest { audit: AUDIT_X86_64, plain: Some(334), x32: Some(547) },
            Highest { audit: AUDIT_X86, plain: Some(400), x32: None },
        ];
        let mut program = assemble(&list);
        program.extend([6, 0, 0, 0]);
        program.extend(THROUGH.to_ne_bytes());
        let answer = |audit, number| run(&program, audit, number, [0; 6]);
        assert_eq!(answer(AUDIT_X86_64, 334), THROUGH);
        assert_eq!(answer(AUDIT_X86_64, 335), RETURN_ENOSYS);
        assert_eq!(answer(AUDIT_X86_64, X32_BIT | 547), THROUGH);
        assert_eq!(answer(AUDIT_X86_64, X32_BIT | 548), RETURN_ENOSYS);
        assert_eq!(answer(AUDIT_X86, 400), THROUGH);
        assert_eq!(answer(AUDIT_X86, 401), RETURN_ENOSYS);
        assert_eq!(answer(AUDIT_AARCH64, 4000), THROUGH);
    }
}
