//! The program is not executed by this one directly, but by a stub of some hundred bytes.
//!
//! Until it executes something else, a container's process is this program, and `/proc/self/exe`
//! leads to its file on the host. An image whose program is `/proc/self/exe`, a script or a binary
//! with that as its interpreter, would make the kernel execute this file in the container, which
//! could then open it for writing once nobody executes it (CVE-2019-5736). What is looked at
//! before the exec can be exchanged after. So the process first executes a stub in a sealed memory
//! file, and that executes the program: whatever the container's files lead to, it is the stub.
//! This is cheaper than running all of this program from a copy or a read-only mount.
//!
//! The stub makes three system calls at most: mark the channel close-on-exec, execve, and, when
//! that fails, say so. It takes the program's path from `argv[0]`, the rest is handed on. Executed
//! a second time, by such a trick, it finds no channel and ends.

use crate::sys;
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Every filter that is in force must let these through.
pub(super) const CALLS: [(libc::c_long, [u64; 6]); 3] = [
    (libc::SYS_fcntl, [0, libc::F_SETFD as u64, 0, 0, 0, 0]),
    (libc::SYS_fcntl, [0, libc::F_SETFD as u64, libc::FD_CLOEXEC as u64, 0, 0, 0]),
    (libc::SYS_execveat, [0, 0, 0, 0, libc::AT_EMPTY_PATH as u64, 0]),
];

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".section .rodata.hull_stub, \"a\", @progbits",
    ".global hull_stub_begin",
    ".global hull_stub_end",
    "hull_stub_begin:",
    "mov edi, dword ptr [rip + 9f]",
    "mov esi, 2",  // F_SETFD
    "mov edx, 1",  // FD_CLOEXEC
    "mov eax, 72", // fcntl
    "syscall",
    "test eax, eax",
    "js 4f",                        // no channel: executed by what it executed
    "mov r12, qword ptr [rsp + 8]", // argv[0]: the path
    "mov r8, qword ptr [rsp]",      // argc
    "mov rdi, r12",
    "lea rsi, [rsp + 16]",        // the program's own arguments
    "lea rdx, [rsp + r8*8 + 16]", // its environment
    "mov eax, 59",                // execve
    "syscall",
    "neg eax",
    "shl rax, 32",
    "or rax, 0x78", // Tag::Exec
    "push rax",
    "mov rbx, rsp",
    "xor edx, edx",
    "2:",
    "cmp byte ptr [r12 + rdx], 0",
    "je 3f",
    "inc rdx",
    "jmp 2b",
    "3:",
    "push rdx", // two iovecs: the tag with the error, the path
    "push r12",
    "push 8",
    "push rbx",
    "mov edi, dword ptr [rip + 9f]",
    "mov rsi, rsp",
    "mov edx, 2",
    "mov eax, 20", // writev
    "syscall",
    "4:",
    "mov edi, 1",
    "mov eax, 231", // exit_group
    "syscall",
    ".balign 4",
    "9:",
    ".long 0",
    "hull_stub_end:",
    ".text",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".section .rodata.hull_stub, \"a\", @progbits",
    ".global hull_stub_begin",
    ".global hull_stub_end",
    ".balign 4",
    "hull_stub_begin:",
    "ldr w0, 9f",
    "mov x1, #2",
    "mov x2, #1",
    "mov x8, #25", // fcntl
    "svc #0",
    "tbnz w0, #31, 4f", // no channel: executed by what it executed
    "ldr x19, [sp, #8]",
    "ldr x3, [sp]",
    "mov x0, x19",
    "add x1, sp, #16",
    "add x2, x1, x3, lsl #3",
    "mov x8, #221", // execve
    "svc #0",
    "neg w0, w0",
    "lsl x0, x0, #32",
    "add x0, x0, #0x78",
    "str x0, [sp, #-16]!",
    "mov x4, sp",
    "mov x5, #0",
    "2:",
    "ldrb w6, [x19, x5]",
    "cbz w6, 3f",
    "add x5, x5, #1",
    "b 2b",
    "3:",
    "stp x19, x5, [sp, #-16]!",
    "mov x6, #8",
    "stp x4, x6, [sp, #-16]!",
    "ldr w0, 9f",
    "mov x1, sp",
    "mov x2, #2",
    "mov x8, #66", // writev
    "svc #0",
    "4:",
    "mov x0, #1",
    "mov x8, #94", // exit_group
    "svc #0",
    "9:",
    ".long 0",
    "hull_stub_end:",
    ".text",
);

unsafe extern "C" {
    static hull_stub_begin: u8;
    static hull_stub_end: u8;
}

fn code() -> &'static [u8] {
    let begin = &raw const hull_stub_begin;
    let end = &raw const hull_stub_end;
    // SAFETY: both symbols are in one read-only section, in this order; nobody writes to it.
    unsafe { std::slice::from_raw_parts(begin, end as usize - begin as usize) }
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

const HEADERS: usize = 64 + 2 * 56;
const ADDRESS: u64 = 0x40_0000;

/// The smallest ELF file around the code, with the channel's number in its last word.
fn image(channel: i32) -> Vec<u8> {
    let code = code();
    let size = (HEADERS + code.len()) as u64;
    let mut image = Vec::with_capacity(size as usize);
    let mut put = |bytes: &[u8]| image.extend_from_slice(bytes);
    // 64 bits, little endian, version 1; an executable.
    put(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(&2u16.to_le_bytes());
    put(&MACHINE.to_le_bytes());
    put(&1u32.to_le_bytes());
    for word in [ADDRESS + HEADERS as u64, 64, 0] {
        put(&word.to_le_bytes());
    }
    put(&0u32.to_le_bytes());
    for half in [64u16, 56, 2, 64, 0, 0] {
        put(&half.to_le_bytes());
    }
    // One segment to read and execute, and a stack that is not to be executed.
    for (kind, flags, address, size, align) in
        [(1u32, 5u32, ADDRESS, size, 0x1_0000u64), (0x6474_e551, 6, 0, 0, 16)]
    {
        put(&kind.to_le_bytes());
        put(&flags.to_le_bytes());
        for word in [0, address, address, size, size, align] {
            put(&word.to_le_bytes());
        }
    }
    put(&code[..code.len() - 4]);
    put(&channel.to_le_bytes());
    image
}

/// A stub that is ready to be executed.
#[derive(Debug)]
pub(crate) struct Stub {
    file: OwnedFd,
    channel: RawFd,
}

impl Stub {
    /// Makes a stub that tells failures to `channel`; `None` where memory files cannot be executed.
    pub(crate) fn make(channel: BorrowedFd<'_>) -> Option<Stub> {
        const MFD_EXEC: u32 = 0x10;
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let create = |flags: u32| {
            // SAFETY: the name is NUL-terminated.
            sys::owned(unsafe { libc::memfd_create(c"hull-exec".as_ptr(), flags) } as libc::c_long)
        };
        // Kernels before 6.3 do not know the flag, and do not need it.
        let file = match create(flags | MFD_EXEC) {
            Err(Errno::EINVAL) => create(flags),
            made => made,
        }
        .ok()?;
        sys::write_once(file.as_fd(), &image(channel.as_raw_fd())).ok()?;
        let seals =
            libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
        // SAFETY: takes integers only.
        let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        sys::check(sealed.into()).ok()?;
        Some(Stub { file, channel: channel.as_raw_fd() })
    }

    /// Executes `path` by way of the stub. Returns only when the stub itself cannot be executed.
    pub(super) fn execute(
        &self,
        path: &CStr,
        arguments: &[CString],
        environment: &[*const libc::c_char],
    ) -> Errno {
        let arguments: Vec<*const libc::c_char> = [path.as_ptr()]
            .into_iter()
            .chain(arguments.iter().map(|text| text.as_ptr()))
            .chain([std::ptr::null()])
            .collect();
        // The channel must outlive the first exec; the stub closes it by the second.
        // SAFETY: takes integers only.
        unsafe { libc::fcntl(self.channel, libc::F_SETFD, 0) };
        // SAFETY: the path is an empty string; both lists hold pointers to NUL-terminated strings
        // that outlive the call and end with a null pointer.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.file.as_raw_fd(),
                c"".as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        let error = Errno::last();
        // SAFETY: takes integers only.
        unsafe { libc::fcntl(self.channel, libc::F_SETFD, libc::FD_CLOEXEC) };
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Channel, Tag};

    /// Executes a program by way of a stub in a child; gives what the channel says and its status.
    fn run(path: &CStr, arguments: &[CString]) -> (Option<crate::sync::Message>, i32) {
        let (here, there) = Channel::pair().unwrap();
        let environment = [c"MARK=yes".as_ptr(), std::ptr::null()];
        // SAFETY: the child only makes system calls and allocates; no other thread of the tests
        // holds the allocator's lock for long, as glibc's fork sees to.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(here);
            if let Some(stub) = Stub::make(there.fd()) {
                stub.execute(path, arguments, &environment);
            }
            sys::exit(99);
        }
        drop(there);
        let message = here.receive().unwrap();
        (message, libc::WEXITSTATUS(sys::wait(pid).unwrap()))
    }

    #[test]
    fn arguments_and_environment_reach_the_program() {
        let script = c"test \"$0$1$MARK\" = zeroone\"yes\" && exit 42";
        let arguments = [c"sh", c"-c", script, c"zero", c"one"].map(CStr::to_owned);
        let (message, status) = run(c"/bin/sh", &arguments);
        assert!(message.is_none());
        assert_eq!(status, 42);
    }

    #[test]
    fn a_failure_is_told_with_its_path() {
        let (message, status) = run(c"/etc/passwd", &[c"x".to_owned()]);
        let message = message.unwrap();
        assert_eq!(message.tag, Tag::Exec);
        assert_eq!(message.failure().to_string(), "exec /etc/passwd: permission denied");
        assert_eq!(status, 1);
    }

    #[test]
    fn a_program_sees_nothing_of_this_one() {
        let script = c"test -e /proc/self/fd/3 && exit 1; exit 5";
        let arguments = [c"sh", c"-c", script].map(CStr::to_owned);
        // The test's own descriptors are closed by exec, the channel's by the stub.
        let (_, status) = run(c"/bin/sh", &arguments);
        assert_eq!(status, 5);
    }
}
