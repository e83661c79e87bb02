//! A room: the processes around one behaviour.
//!
//! ```text
//! driver ── door (waits, passes the status on)
//!             └─ init: PID 1 of the room, own mounts and /proc, reaps, watches the clock
//!                  └─ the behaviour
//! ```
//! All are forks of the driver, which has one thread and no locks held. Each
//! dies with its parent (PR_SET_PDEATHSIG), and the room with its init
//! (pid_namespaces(7)), so nothing outlives a driver that is killed.

use super::Setting;
use crate::place::{IGNORED, Place, Wall};
use crate::{Behaviour, cgroup, leftovers};
use std::cell::Cell;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a behaviour may take.
const TIME: Duration = Duration::from_secs(180);
/// How much longer the driver waits for the room's own clock.
const GRACE: Duration = Duration::from_secs(30);
/// How all directories begin.
pub const PREFIX: &str = "hb.";

const FAILED: i32 = 101;
const TIMED_OUT: i32 = 124;

/// A behaviour that is being looked at.
pub struct Room {
    /// Its full name.
    pub name: String,
    /// The wall.
    pub wall: Wall,
    /// What is checked.
    pub behaviour: Behaviour,
    door: i32,
    dir: PathBuf,
    id: String,
    opened: Instant,
}

/// What became of it.
pub enum Verdict {
    /// The sentence is true.
    Passed,
    /// It is not.
    Failed,
    /// It cannot be looked at here.
    Ignored(String),
}

/// A room that was closed.
pub struct Ended {
    /// The room.
    pub room: Room,
    /// What became of the behaviour.
    pub verdict: Verdict,
    /// What it said.
    pub text: String,
}

/// Makes `/tmp/hb.PART.XXXXXX`.
pub fn make_dir(part: &str) -> Result<PathBuf, String> {
    let dot = if part.is_empty() { "" } else { "." };
    let template =
        CString::new(format!("/tmp/{PREFIX}{part}{dot}XXXXXX")).map_err(|e| e.to_string())?;
    let raw = template.into_raw();
    // SAFETY: mkdtemp overwrites the last six bytes of a string that is ours.
    let made = unsafe { libc::mkdtemp(raw) };
    let error = io::Error::last_os_error();
    // SAFETY: the string came from into_raw and kept its length.
    let path = unsafe { CString::from_raw(raw) };
    if made.is_null() {
        return Err(format!("a directory in /tmp: {error}"));
    }
    Ok(PathBuf::from(path.into_string().map_err(|e| e.to_string())?))
}

impl Room {
    /// Starts a behaviour.
    pub fn open(setting: &Setting, name: String, wall: Wall, behaviour: Behaviour) -> Room {
        let dir = match make_dir("") {
            Ok(dir) => dir,
            Err(error) => panic!("{error}"),
        };
        // A user namespace's root, which is nobody outside, must get through.
        let _ = fs::set_permissions(&dir, fs::Permissions::from_mode(0o755));
        let suffix = dir.file_name().unwrap_or_default().to_string_lossy().replace(PREFIX, "");
        let id = format!("hb-{suffix}");
        let place = Place {
            wall,
            program: setting.program(wall).to_owned(),
            kernel: setting.kernel.clone(),
            dir: dir.clone(),
            id: id.clone(),
            shared: setting.shared.clone(),
            debian: setting.debian.clone(),
            untidy: Cell::new(false),
            bundles: Cell::new(0),
        };
        let _ = io::stdout().flush();
        // SAFETY: the driver has one thread, so the child may do anything.
        let door = unsafe { libc::fork() };
        assert!(door >= 0, "fork: {}", io::Error::last_os_error());
        if door == 0 {
            let status = door_process(&place, behaviour.check);
            // SAFETY: ends the process without the driver's own clean-up.
            unsafe { libc::_exit(status) };
        }
        Room { name, wall, behaviour, door, dir, id, opened: Instant::now() }
    }

    fn close(self, status: Option<i32>) -> Ended {
        let mut text =
            String::from_utf8_lossy(&fs::read(self.dir.join("said")).unwrap_or_default())
                .into_owned();
        let verdict = match status {
            Some(0) => Verdict::Passed,
            Some(IGNORED) => Verdict::Ignored(
                fs::read_to_string(self.dir.join("ignored"))
                    .unwrap_or_else(|_| "no reason given".to_owned()),
            ),
            Some(FAILED) => Verdict::Failed,
            Some(TIMED_OUT) => {
                text.push_str(&format!("\nit did not end within {} s", TIME.as_secs()));
                Verdict::Failed
            }
            other => {
                text.push_str(&format!("\nthe behaviour's process ended with {other:?}"));
                Verdict::Failed
            }
        };
        clear_cgroups(&self.id);
        clear_dir(&self.dir);
        Ended { room: self, verdict, text }
    }
}

/// Waits a moment for rooms to end, and closes those that did.
pub fn look(rooms: &mut Vec<Room>) -> Vec<Ended> {
    let mut ended = Vec::new();
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one integer.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid <= 0 {
            break;
        }
        // Others than doors are orphans of a room that broke: reaped, no more.
        if let Some(index) = rooms.iter().position(|room| room.door == pid) {
            let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            ended.push(rooms.swap_remove(index).close(code));
        }
    }
    for room in rooms.iter() {
        if room.opened.elapsed() > TIME + GRACE {
            // SAFETY: our own child, not reaped yet. Its room dies with it.
            unsafe { libc::kill(room.door, libc::SIGKILL) };
        }
    }
    if ended.is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    ended
}

fn clear_cgroups(id: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let all = cgroup::named(id);
        if all.is_empty() || Instant::now() > end {
            return;
        }
        for path in &all {
            // A frozen process does not die; thaw, then kill.
            let _ = fs::write(path.join("freezer.state"), "THAWED");
            let _ = fs::write(path.join("cgroup.freeze"), "0");
            let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            for pid in
                procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1)
            {
                // SAFETY: kill takes two integers; the group has our own id.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            let _ = fs::remove_dir(path);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn clear_dir(dir: &Path) {
    for _ in 0..20 {
        if fs::remove_dir_all(dir).is_ok() || !dir.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The door: a session without a terminal, and the way into the namespaces.
fn door_process(place: &Place, check: fn(&Place)) -> i32 {
    // SAFETY: system calls with integers and null pointers only, in a process
    // with one thread.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        libc::setsid();
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::umask(0o022);
        if libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS) != 0 {
            eprintln!("unshare: {}", io::Error::last_os_error());
            return 120;
        }
        let init = libc::fork();
        if init == 0 {
            libc::_exit(init_process(place, check));
        }
        let mut status = 0;
        while libc::waitpid(init, &mut status, 0) < 0 {
            if *libc::__errno_location() != libc::EINTR {
                return 121;
            }
        }
        if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 122 }
    }
}

/// PID 1 of the room.
fn init_process(place: &Place, check: fn(&Place)) -> i32 {
    // SAFETY: as above; the strings are constants that end with a zero.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        let null = std::ptr::null();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        if libc::mount(null, c"/".as_ptr(), null, private, null.cast()) != 0
            || libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, null.cast())
                != 0
        {
            eprintln!("mounts of a room: {}", io::Error::last_os_error());
            return 123;
        }
    }
    let said = File::options().create(true).append(true).open(place.dir.join("said"));
    let nothing = File::open("/dev/null");
    let (Ok(said), Ok(nothing)) = (said, nothing) else { return 123 };
    // SAFETY: descriptors that are open; afterwards all others but those two go.
    unsafe {
        libc::dup2(nothing.as_raw_fd(), 0);
        libc::dup2(said.as_raw_fd(), 1);
        libc::dup2(said.as_raw_fd(), 2);
        drop((said, nothing));
        libc::close_range(3, u32::MAX, 0);
    }
    // SAFETY: one thread; the child becomes the behaviour.
    let behaviour = unsafe { libc::fork() };
    if behaviour == 0 {
        std::process::exit(behaviour_process(place, check));
    }
    reap_until(behaviour)
}

/// Reaps orphans until the behaviour ends or its time is over.
fn reap_until(behaviour: i32) -> i32 {
    let end = Instant::now() + TIME;
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one integer.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid == behaviour {
            return if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                128 + libc::WTERMSIG(status)
            };
        }
        if pid > 0 {
            continue;
        }
        if Instant::now() > end {
            eprintln!("\nits time is over; the processes of its room:");
            for pid in leftovers::processes() {
                eprintln!("  {}", leftovers::describe(pid));
            }
            return TIMED_OUT;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn behaviour_process(place: &Place, check: fn(&Place)) -> i32 {
    // SAFETY: one thread, so nobody reads the environment meanwhile.
    unsafe {
        for (name, _) in std::env::vars_os() {
            if name != "PATH" {
                std::env::remove_var(name);
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        std::env::set_var(
            "PATH",
            format!("{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        );
        std::env::set_var("HOME", "/root");
        // As in any Rust program; the door set all to their defaults.
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let none = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
    }
    if std::env::set_current_dir(&place.dir).is_err() {
        return 123;
    }
    let before = leftovers::before();
    let result = catch_unwind(AssertUnwindSafe(|| {
        check(place);
        if !place.untidy.get() {
            leftovers::none(place, &before);
        }
    }));
    if result.is_ok() { 0 } else { FAILED }
}
