//! The monitor: the process that is the microVM.
//!
//! In the order of its life: it reads from its creator what to make, takes its place (mount and
//! network namespace, cgroup; [`place`]), has the kernel loaded in a thread while it prepares the
//! tree of files and the control socket, starts the machine ([`machine`]), and serves
//! creator, commands, guest and streams in one loop ([`serve`]) until the workload's status is
//! known, with which it exits.
//!
//! Until the creator lets go, its end is the monitor's: whatever was made is unmade. From then
//! on, or from the workload's start if that comes first, the monitor is confined.

mod boot;
mod clients;
mod guest;
mod machine;
mod place;
mod serve;
mod signals;
mod streams;

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

pub use signals::{Came, Signals};
pub use streams::{kind, terminal_of, window_size};

use hull_agent::link::{FrameError, MAX_FRAME, frame};

use super::protocol::{CREATOR_FD, Launch, News, STATE_FD};

/// Where among the arguments the state directory is named; before it stand the program, the word
/// and the id, which is there for whoever looks at a list of processes.
const STATE_DIR_ARGUMENT: usize = 3;

/// The whole life of a monitor.
pub fn run() -> ! {
    // SAFETY: the creator has left its socket under this number for us alone.
    let creator = UnixStream::from(unsafe { OwnedFd::from_raw_fd(CREATOR_FD) });
    // SAFETY: as above, the state directory.
    let state = unsafe { OwnedFd::from_raw_fd(STATE_FD) };
    let Some(path) = std::env::args_os().nth(STATE_DIR_ARGUMENT) else { exit(1) };
    // One heap for all threads, those made before the jail included: the C library opens a file
    // of /proc when it gives back memory of another, which no thread is allowed to in there.
    // SAFETY: mallopt changes a number of the allocator's.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // From here on a creator that has died is an error of a write and no signal.
    let signals = Signals::watch()
        .unwrap_or_else(|error| give_up(&creator, None, &format!("watch for signals: {error}")));
    let state = place::StateDir::new(path.into(), state).unwrap_or_else(|error| {
        give_up(&creator, None, &format!("open the state directory: {error}"))
    });
    let launch: Launch = match frame::read(&creator, MAX_FRAME) {
        Ok(Some(launch)) => launch,
        Ok(None) => give_up(&creator, Some(&state), "the creator has died"),
        Err(error) => give_up(&creator, Some(&state), &error.to_string()),
    };
    let phases = machine::Phases::new(launch.began);
    let mut state = Some(state);
    let mut place = match place::Place::take(&launch, &mut state) {
        Ok(place) => place,
        Err(error) => give_up(&creator, state.as_ref(), &error.to_string()),
    };
    match machine::bring_up(launch, &mut place, &creator, signals, phases) {
        Ok(machine) => {
            let mut server =
                std::mem::ManuallyDrop::new(serve::Server::new(machine, place, creator));
            exit(server.run())
        }
        Err(failure) => {
            match tell(&creator, &News::Failed(failure.to_string())) {
                Ok(()) => place.undo(),
                Err(_) => place.undo_for_creator(),
            }
            exit(1)
        }
    }
}

/// Tells the creator something.
fn tell(creator: &UnixStream, news: &News) -> Result<(), FrameError> {
    frame::write(creator, news)
}

/// Nothing was made yet: the creator is told why. If it is dead, its state directory is removed.
fn give_up(creator: &UnixStream, state: Option<&place::StateDir>, text: &str) -> ! {
    let told = tell(creator, &News::Failed(text.to_owned()));
    if let (Err(_), Some(state)) = (told, state) {
        state.remove();
    }
    exit(1)
}

/// Ends at once. Threads, guest memory and descriptors go with the process; taking them down
/// one by one would only cost the caller time.
fn exit(code: i32) -> ! {
    // SAFETY: _exit does not return.
    unsafe { libc::_exit(code) }
}
