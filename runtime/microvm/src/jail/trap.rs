//! Says which system call was refused, and ends the process.

use std::io;

/// Exit status of a process that left its list: 128 + SIGSYS.
pub const STATUS: libc::c_int = 159;

/// Installs the handler of SIGSYS for the whole process.
pub fn install() -> io::Result<()> {
    // SAFETY: a zeroed sigaction is a valid one, and the handler is
    // async-signal-safe: it formats into a local and calls write and _exit.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = refused as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut())
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn refused(
    _signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the third argument is a ucontext of this thread; RAX
    // holds the number of the call that was refused.
    let call =
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RAX as usize] };
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes 16 bytes at most.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let mut line = Line { bytes: [0; 128], len: 0 };
    line.text(b"hull: thread ");
    line.text(name.split(|b| *b == 0).next().unwrap_or_default());
    line.text(b": system call ");
    line.number(call.unsigned_abs());
    line.text(b" is not on its list\n");
    // SAFETY: a local of the length given; _exit ends the process.
    unsafe {
        libc::write(2, line.bytes.as_ptr().cast(), line.len);
        libc::_exit(STATUS)
    }
}

/// A line made without an allocator.
struct Line {
    bytes: [u8; 128],
    len: usize,
}

impl Line {
    fn text(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(slot) = self.bytes.get_mut(self.len) {
                *slot = *byte;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.text(&digits[at..]);
    }
}
