//! A bare virtual machine as a peer of the microVM wall: QEMU's `microvm`
//! boots the same kernel to an init that does nothing but restart, which ends
//! QEMU. No container, no root file system, no agent: what a VMM and a kernel
//! cost by themselves.

use std::ffi::OsString;
use std::path::Path;

/// reboot(2) with RB_AUTOBOOT, as an ELF program of one segment:
/// `mov edi, 0xfee1dead; mov esi, 672274793; mov edx, 0x01234567; mov eax, 169;
/// syscall; jmp .`
fn init() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut code = Vec::new();
    for (opcode, value) in
        [(0xbf_u8, 0xfee1_dead_u32), (0xbe, 672_274_793), (0xba, 0x0123_4567), (0xb8, 169)]
    {
        code.push(opcode);
        code.extend(value.to_le_bytes());
    }
    code.extend([0x0f, 0x05, 0xeb, 0xfe]);
    let size = HEADERS + code.len() as u64;
    let mut elf = Vec::new();
    // e_ident: 64 bits, little endian, System V.
    elf.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC, EM_X86_64
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for value in [BASE + HEADERS, 64, 0] {
        elf.extend(value.to_le_bytes());
    }
    // flags, sizes of the headers, one program header, no sections
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // PT_LOAD, readable and executable
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for value in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// An initramfs (cpio, `newc`) that holds the init alone.
pub fn initramfs() -> Vec<u8> {
    let mut cpio = Vec::new();
    entry(&mut cpio, "init", 0o100_755, &init());
    entry(&mut cpio, "TRAILER!!!", 0, &[]);
    cpio
}

fn entry(cpio: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let (size, name_size) = (data.len(), name.len() + 1);
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let header = format!(
        "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
        1, 0, 0, 1, 0, 0, 0, 0, 0, 0
    );
    for part in [header.as_bytes(), name.as_bytes(), b"\0"] {
        cpio.extend(part);
    }
    pad(cpio);
    cpio.extend(data);
    pad(cpio);
}

fn pad(cpio: &mut Vec<u8>) {
    cpio.resize(cpio.len().next_multiple_of(4), 0);
}

/// QEMU's words: as little machine as it has, hull's default size.
pub fn words(kernel: &Path, initramfs: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = [
        "-M",
        "microvm",
        "-accel",
        "kvm",
        "-cpu",
        "host,-arch-capabilities",
        "-smp",
        "1",
        "-m",
        "512",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-append",
        "quiet reboot=t panic=-1",
        "-kernel",
    ]
    .map(OsString::from)
    .into();
    words.extend([kernel.into(), "-initrd".into(), initramfs.into()]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_is_one_small_elf_program() {
        let elf = init();
        assert_eq!(elf.len(), 120 + 24);
        assert_eq!(&elf[..4], b"\x7fELF");
        // e_entry points at the first instruction.
        assert_eq!(u64::from_le_bytes(elf[24..32].try_into().unwrap()), 0x40_0078);
        assert_eq!(elf[120], 0xbf);
    }

    #[test]
    fn the_initramfs_is_aligned_and_ends() {
        let cpio = initramfs();
        assert_eq!(cpio.len() % 4, 0);
        assert_eq!(&cpio[..6], b"070701");
        assert!(String::from_utf8_lossy(&cpio).contains("TRAILER!!!"));
    }
}
