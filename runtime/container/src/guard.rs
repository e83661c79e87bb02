//! What undoes a `create` whose process was killed.
//!
//! A guard that lives in the process itself dies with it. So for the time of a `create` there is a
//! watcher: a process that shares this one's memory and descriptors (`CLONE_VM`, `CLONE_FILES`:
//! making it copies nothing) and sleeps until this one ends. What is about to be made is noted
//! beforehand; if the end comes before the guard is dropped, the watcher removes what was noted.
//! Namespaces and the mounts in them need no such help, they go with the container's process, which
//! ends when its creator does.
//!
//! That descriptors are shared keeps the lock of the state directory taken when the creator ends.
//! Before the watcher lets go of it, to wait for children of the creator that share it as well, it
//! makes the file [`UNDOING`] in there: whoever gets the lock in between is to give it back.
//!
//! The watcher must not allocate, take locks or use thread-local data while its parent lives: it
//! makes one system call and sleeps in it.

use crate::{Error, Result, rootfs, sys};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use std::cell::{RefCell, UnsafeCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// More directories than any layout of hierarchies with nested paths has.
const MAX_NOTES: usize = 256;

/// Tries to remove what is still in use (by processes that are about to end), and their distance.
const TRIES: usize = 400;
const PAUSE_NANOS: i64 = 5_000_000;

/// The file in a state directory that is being undone.
pub const UNDOING: &str = "undoing";
const UNDOING_NAME: &CStr = c"undoing";

/// The same for a lock that is still held: a microVM's monitor may just be reading a kernel.
const LOCK_TRIES: usize = 6000;

#[repr(align(64))]
struct Stack(UnsafeCell<[u8; 32 << 10]>);

// SAFETY: only the one watcher that can be alive at a time (`TAKEN`) uses the memory.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; 32 << 10]));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What the watcher is told, in memory that both see.
struct Notes {
    creator: RawFd,
    /// The container's first process, 0 if there is none yet.
    init: AtomicI32,
    /// A mount in the caller's own mount namespace, and its id.
    mounted: AtomicPtr<c_char>,
    mount: AtomicU64,
    /// The state directory: emptied, then removed.
    state: AtomicPtr<c_char>,
    /// The descriptor of the creator's lock on it: it is surely made and locked by the creator.
    lock: AtomicI32,
    /// Directories to remove, in the order they were made.
    made: [AtomicPtr<c_char>; MAX_NOTES],
    count: AtomicUsize,
}

/// Undoes a `create` if this process is killed before the guard is dropped.
#[derive(Debug)]
pub struct Guard {
    watcher: i32,
    notes: *mut Notes,
    texts: RefCell<Vec<CString>>,
    _creator: OwnedFd,
}

impl Guard {
    /// Starts to watch. One guard at a time.
    pub fn new() -> Result<Guard> {
        let failed = |error: Errno| Error::sys("guard", "the making of a container", error);
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(failed(Errno::EBUSY));
        }
        let made = Guard::watch().map_err(failed);
        if made.is_err() {
            TAKEN.store(false, Ordering::Release);
        }
        made
    }

    fn watch() -> sys::Result<Guard> {
        let creator = sys::pidfd_open(std::process::id() as i32)?;
        let notes = Box::into_raw(Box::new(Notes {
            creator: creator.as_raw_fd(),
            init: AtomicI32::new(0),
            mounted: AtomicPtr::new(std::ptr::null_mut()),
            mount: AtomicU64::new(0),
            state: AtomicPtr::new(std::ptr::null_mut()),
            lock: AtomicI32::new(-1),
            made: [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_NOTES],
            count: AtomicUsize::new(0),
        }));
        // No signal is to be handled on the watcher's stack, by handlers of a process it is not.
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before))?;
        // SAFETY: `STACK` is used by nobody else as `TAKEN` was free; the address is its upper end.
        // The function gets memory that lives until the watcher was reaped.
        let watcher = sys::check(unsafe {
            let top = STACK.0.get().cast::<u8>().add(32 << 10);
            let flags = libc::CLONE_VM | libc::CLONE_FILES;
            libc::clone(watcher, top.cast(), flags, notes.cast())
        } as libc::c_long);
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        match watcher {
            Ok(pid) => Ok(Guard {
                watcher: pid as i32,
                notes,
                texts: RefCell::default(),
                _creator: creator,
            }),
            Err(error) => {
                // SAFETY: nobody else got the pointer.
                drop(unsafe { Box::from_raw(notes) });
                Err(error)
            }
        }
    }

    fn notes(&self) -> &Notes {
        // SAFETY: the memory is freed only by `drop`; all fields that change are atomic.
        unsafe { &*self.notes }
    }

    fn text(&self, path: &Path) -> Option<*mut c_char> {
        let text = CString::new(path.as_os_str().as_bytes()).ok()?;
        let pointer = text.as_ptr().cast_mut();
        self.texts.borrow_mut().push(text);
        Some(pointer)
    }

    /// A state directory is about to be made: it is to be removed with what is in it. Until
    /// [`Guard::state_directory_made`] it may turn out to be another container's: one that holds
    /// a `state.json` or is locked is left alone.
    pub fn state_directory(&self, path: &Path) {
        if let Some(text) = self.text(path) {
            self.notes().state.store(text, Ordering::Release);
        }
    }

    /// The state directory was made, and is locked by this descriptor of it.
    pub fn state_directory_made(&self, lock: BorrowedFd<'_>) {
        self.notes().lock.store(lock.as_raw_fd(), Ordering::Release);
    }

    /// The state directory is another one's after all.
    pub fn forget_state_directory(&self) {
        self.notes().state.store(std::ptr::null_mut(), Ordering::Release);
    }

    /// A directory (or a file) is about to be made (`true`), or it was there before (`false`).
    pub fn directory(&self, path: &Path, about_to: bool) {
        let notes = self.notes();
        let count = notes.count.load(Ordering::Acquire);
        if !about_to {
            if let Some(last) = count.checked_sub(1) {
                notes.count.store(last, Ordering::Release);
            }
            return;
        }
        if let Some((slot, text)) = notes.made.get(count).zip(self.text(path)) {
            slot.store(text, Ordering::Release);
            notes.count.store(count + 1, Ordering::Release);
        }
    }

    /// A mount is about to be put on this path.
    pub(crate) fn mount(&self, path: &CStr, id: u64) {
        let text = path.to_owned();
        self.notes().mount.store(id, Ordering::Release);
        self.notes().mounted.store(text.as_ptr().cast_mut(), Ordering::Release);
        self.texts.borrow_mut().push(text);
    }

    /// The container's first process exists.
    pub(crate) fn init(&self, pid: i32) {
        self.notes().init.store(pid, Ordering::Release);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: takes integers only; the number is the watcher's until it is reaped below.
        unsafe {
            libc::kill(self.watcher, libc::SIGKILL);
            libc::waitpid(self.watcher, std::ptr::null_mut(), libc::__WALL);
        }
        // SAFETY: the watcher is gone; nobody else has the pointer.
        drop(unsafe { Box::from_raw(self.notes) });
        TAKEN.store(false, Ordering::Release);
    }
}

/// The watcher's life.
extern "C" fn watcher(notes: *mut c_void) -> c_int {
    // SAFETY: `Guard` frees the notes only after this process was reaped.
    let notes = unsafe { &*notes.cast::<Notes>() };
    // A session of its own: what kills the creator's process group is not to take this along.
    // SAFETY: takes no arguments.
    unsafe { libc::syscall(libc::SYS_setsid) };
    let mut fd = libc::pollfd { fd: notes.creator, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor and no timeout. All signals are blocked: it returns when the creator
    // has ended, and this memory belongs to nobody else from then on.
    let ready = unsafe {
        let forever = std::ptr::null::<libc::timespec>();
        libc::syscall(libc::SYS_ppoll, &raw mut fd, 1, forever, 0usize, 8usize)
    };
    if ready == 1 {
        undo(notes);
    }
    0
}

fn undo(notes: &Notes) {
    let held = notes.lock.load(Ordering::Acquire);
    if held >= 0 {
        // SAFETY: takes integers and a NUL-terminated name.
        unsafe {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC;
            libc::openat(held, UNDOING_NAME.as_ptr(), flags, 0o600);
        }
    }
    // What others wait for: the ends of pipes, of the talk with the container's process, the lock.
    // SAFETY: the descriptors were the creator's, which is gone; nothing here uses one of them.
    unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32) };
    let init = notes.init.load(Ordering::Acquire);
    if init > 0 {
        // SAFETY: takes integers only.
        unsafe { libc::kill(init, libc::SIGKILL) };
    }
    // First the lock: until the rest is gone nobody is to get the id, or a `delete` would return
    // before it, and the next container with the same cgroup would lose that to us.
    let state = notes.state.load(Ordering::Acquire);
    let locked = if state.is_null() {
        None
    } else {
        // SAFETY: noted texts are NUL-terminated and kept until the guard is dropped, which it
        // never was.
        let path = unsafe { CStr::from_ptr(state) };
        lock(path, held >= 0).map(|directory| (path, directory))
    };
    let gone = |(_, directory): &(&CStr, OwnedFd)| {
        sys::fstat(directory).is_ok_and(|stat| stat.st_nlink == 0)
    };
    if held >= 0 && locked.as_ref().is_none_or(gone) {
        // A container it was already, and whoever deletes one removes all of it.
        return;
    }
    let mounted = notes.mounted.load(Ordering::Acquire);
    if !mounted.is_null() {
        // SAFETY: noted texts are NUL-terminated and kept until the guard is dropped, which it
        // never was.
        let path = unsafe { CStr::from_ptr(mounted) };
        let _ = rootfs::detach_mount(path, notes.mount.load(Ordering::Acquire));
    }
    let count = notes.count.load(Ordering::Acquire).min(MAX_NOTES);
    for _ in 0..TRIES {
        let mut left = false;
        for slot in notes.made[..count].iter().rev() {
            let path = slot.load(Ordering::Acquire);
            // SAFETY: noted texts are kept until the guard is dropped, which it never was.
            let removed = path.is_null()
                || unsafe { libc::rmdir(path) } == 0
                || (Errno::last() == Errno::ENOTDIR && unsafe { libc::unlink(path) } == 0);
            if removed {
                slot.store(std::ptr::null_mut(), Ordering::Release);
            } else {
                left |= Errno::last() == Errno::EBUSY;
            }
        }
        if !left {
            break;
        }
        pause();
    }
    if let Some((path, directory)) = locked {
        remove_flat(path, &directory);
    }
}

fn pause() {
    let pause = libc::timespec { tv_sec: 0, tv_nsec: PAUSE_NANOS };
    // SAFETY: `pause` outlives the call; no rest is asked for.
    unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
}

/// Opens and locks a state directory. Unless it is `surely` the dead creator's, one that is
/// somebody's is left alone.
fn lock(path: &CStr, surely: bool) -> Option<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let directory = sys::open(path, flags, 0).ok()?;
    let raw = directory.as_raw_fd();
    // SAFETY: takes integers and a NUL-terminated name.
    let somebodys = !surely
        && unsafe {
            libc::faccessat(raw, c"state.json".as_ptr(), libc::F_OK, 0) == 0
                || libc::flock(raw, libc::LOCK_EX | libc::LOCK_NB) != 0
        };
    if somebodys {
        return None;
    }
    // A process of the creator's that shares its lock may still be undoing what it made itself;
    // and whoever else got the lock may have removed the directory.
    for _ in 0..LOCK_TRIES {
        // SAFETY: takes integers only.
        if unsafe { libc::flock(raw, libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            break;
        }
        pause();
    }
    Some(directory)
}

/// Removes a directory and the files in it, without allocating.
fn remove_flat(path: &CStr, directory: &OwnedFd) {
    #[repr(align(8))]
    struct Entries([u8; 4096]);
    let mut entries = Entries([0; 4096]);
    loop {
        // SAFETY: the length given is the buffer's.
        let length = sys::check(unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                directory.as_raw_fd(),
                entries.0.as_mut_ptr(),
                entries.0.len(),
            )
        });
        let length = match length {
            Ok(length) if length > 0 => length as usize,
            _ => break,
        };
        let mut at = 0;
        // Fields of `struct linux_dirent64`: inode, offset, record length, type, name.
        while at + 19 < length {
            let record = usize::from(u16::from_ne_bytes([entries.0[at + 16], entries.0[at + 17]]));
            let end = (at + record.max(20)).min(length);
            if let Ok(name) = CStr::from_bytes_until_nul(&entries.0[at + 19..end]) {
                // SAFETY: the name is NUL-terminated. `.` and `..` are refused by the kernel.
                unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) };
            }
            at = end;
        }
    }
    // SAFETY: NUL-terminated.
    unsafe { libc::rmdir(path.as_ptr()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::time::{Duration, Instant};

    /// Run as a child by the test below: makes things and is killed.
    #[test]
    #[ignore = "the victim of killed_creators_leave_nothing"]
    fn victim() {
        let base = std::env::var_os("CONTAINER_GUARD_TEST").unwrap();
        let base = Path::new(&base);
        let guard = Guard::new().unwrap();
        guard.state_directory(&base.join("state"));
        std::fs::create_dir(base.join("state")).unwrap();
        let directory = std::fs::File::open(base.join("state")).unwrap();
        guard.state_directory_made(std::os::fd::AsFd::as_fd(&directory));
        std::fs::write(base.join("state/state.json"), "{}").unwrap();
        for name in ["one", "one/two"] {
            guard.directory(&base.join(name), true);
            std::fs::create_dir(base.join(name)).unwrap();
        }
        guard.directory(&base.join("kept"), true);
        guard.directory(&base.join("kept"), false);
        // SAFETY: takes integers only.
        unsafe { libc::kill(std::process::id() as i32, libc::SIGKILL) };
    }

    #[test]
    fn killed_creators_leave_nothing() {
        let base = std::env::temp_dir().join(format!("container-guard-{}", std::process::id()));
        std::fs::create_dir_all(base.join("kept")).unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "guard::tests::victim", "--test-threads=1"])
            .env("CONTAINER_GUARD_TEST", &base)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        let end = Instant::now() + Duration::from_secs(10);
        let left = || std::fs::read_dir(&base).unwrap().count();
        while left() > 1 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(base.join("kept").is_dir());
        assert_eq!(left(), 1);
        std::fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_dropped_guard_removes_nothing() {
        let dir = std::env::temp_dir().join(format!("container-guard-d-{}", std::process::id()));
        let guard = loop {
            // Tests share the one watcher.
            match Guard::new() {
                Ok(guard) => break guard,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        guard.directory(&dir, true);
        std::fs::create_dir(&dir).unwrap();
        drop(guard);
        assert!(dir.is_dir());
        std::fs::remove_dir(&dir).unwrap();
    }
}
