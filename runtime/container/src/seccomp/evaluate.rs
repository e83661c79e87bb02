//! Asking a compiled filter what it would do: a classic BPF machine for what seccomp uses of it.
//!
//! Source: `linux/filter.h`, `seccomp(2)`.

/// `struct seccomp_data` as 32-bit words: number, architecture, instruction pointer, arguments.
type Data = [u32; 16];

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// What the filter returns for a system call of this machine; `None` if it is not understood.
pub(super) fn evaluate(program: &[u8], number: i64, arguments: [u64; 6]) -> Option<u32> {
    let mut data: Data = [0; 16];
    data[0] = number as u32;
    data[1] = ARCH;
    for (at, argument) in arguments.iter().enumerate() {
        data[4 + 2 * at] = *argument as u32;
        data[5 + 2 * at] = (*argument >> 32) as u32;
    }
    let (mut accumulator, mut index) = (0u32, 0u32);
    let mut memory = [0u32; 16];
    let mut at = 0;
    loop {
        // Jumps lead forward only, so this ends.
        let instruction = program.get(at * 8..at * 8 + 8)?;
        let code = u16::from_ne_bytes([instruction[0], instruction[1]]);
        let (when, otherwise) = (usize::from(instruction[2]), usize::from(instruction[3]));
        let k = u32::from_ne_bytes(instruction[4..8].try_into().ok()?);
        at += 1;
        let operand = if code & 0x08 != 0 { index } else { k };
        let mut jump = |condition: bool| at += if condition { when } else { otherwise };
        match code {
            0x20 => accumulator = *data.get(k as usize / 4)?,
            0x00 => accumulator = k,
            0x01 => index = k,
            0x60 => accumulator = *memory.get(k as usize)?,
            0x61 => index = *memory.get(k as usize)?,
            0x02 => *memory.get_mut(k as usize)? = accumulator,
            0x03 => *memory.get_mut(k as usize)? = index,
            0x07 => index = accumulator,
            0x87 => accumulator = index,
            0x05 => at += k as usize,
            0x15 | 0x1d => jump(accumulator == operand),
            0x25 | 0x2d => jump(accumulator > operand),
            0x35 | 0x3d => jump(accumulator >= operand),
            0x45 | 0x4d => jump(accumulator & operand != 0),
            0x54 | 0x5c => accumulator &= operand,
            0x44 | 0x4c => accumulator |= operand,
            0xa4 | 0xac => accumulator ^= operand,
            0x04 | 0x0c => accumulator = accumulator.wrapping_add(operand),
            0x14 | 0x1c => accumulator = accumulator.wrapping_sub(operand),
            0x64 | 0x6c => accumulator = accumulator.checked_shl(operand)?,
            0x74 | 0x7c => accumulator = accumulator.checked_shr(operand)?,
            0x06 => return Some(k),
            0x16 => return Some(accumulator),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compile;
    use super::*;

    #[test]
    fn a_filter_answers_as_it_is_written() {
        let profile = serde_json::from_str(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
                {"names":["read"],"action":"SCMP_ACT_ALLOW"},
                {"names":["fcntl"],"action":"SCMP_ACT_ALLOW",
                 "args":[{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]}]}"#,
        )
        .unwrap();
        let filter = compile(&profile, None).unwrap();
        let none = [0; 6];
        assert!(filter.allows(libc::SYS_read, none));
        assert!(!filter.allows(libc::SYS_write, none));
        assert!(filter.allows(libc::SYS_fcntl, [0, 2, 0, 0, 0, 0]));
        assert!(!filter.allows(libc::SYS_fcntl, [0, 3, 0, 0, 0, 0]));
    }

    #[test]
    fn nonsense_is_not_understood() {
        assert_eq!(evaluate(&[], 0, [0; 6]), None);
        assert_eq!(evaluate(&[0xff; 8], 0, [0; 6]), None);
    }
}
