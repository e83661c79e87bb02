//! Dropping capabilities of the calling thread.

use std::io;

/// What access to files of all users needs: CHOWN, DAC_OVERRIDE,
/// DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID, MKNOD, SETFCAP.
pub const FILE_ACCESS: u64 =
    1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 27 | 1 << 31;

/// _LINUX_CAPABILITY_VERSION_3: two words for each set.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn get() -> io::Result<[Sets; 2]> {
    let header = Header { version: VERSION, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: header and two sets, as version 3 has them, both locals.
    match unsafe { libc::syscall(libc::SYS_capget, &header, sets.as_mut_ptr()) } {
        0 => Ok(sets),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The effective set.
#[cfg(test)]
pub fn effective() -> io::Result<u64> {
    let [low, high] = get()?;
    Ok(u64::from(low.effective) | u64::from(high.effective) << 32)
}

/// Keeps those of `wanted` that the thread has, and no other, for good. The
/// ambient set goes with the inheritable one; the bounding set is of no use to
/// a thread that may not execute anything.
pub fn keep(wanted: u64) -> io::Result<()> {
    let [mut low, mut high] = get()?;
    for (word, wanted) in [(&mut low, wanted as u32), (&mut high, (wanted >> 32) as u32)] {
        word.permitted &= wanted;
        word.effective &= wanted;
        word.inheritable = 0;
    }
    let header = Header { version: VERSION, pid: 0 };
    // SAFETY: as in `get`.
    match unsafe { libc::syscall(libc::SYS_capset, &header, [low, high].as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
