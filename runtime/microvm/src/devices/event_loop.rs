//! One thread for all devices that are small: it waits for kicks and sockets
//! and calls whoever registered them.
//!
//! Holding it (`pause`) holds all of them at once, so they need not know.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::bus::lock;
use crate::jail::{Jail, Role};

/// Called by the loop's thread.
pub trait Handler: Send + Sync + Debug {
    /// What was registered with `tag` is ready.
    fn ready(&self, tag: u64, events: EventSet);
}

/// A handler and the tag it is called with.
type Registered = (Arc<dyn Handler>, u64);

/// One registration; needed to change or end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(u64);

const WAKE: u64 = 0;

#[derive(Debug)]
struct Shared {
    epoll: Epoll,
    wake: EventFd,
    next: AtomicU64,
    handlers: Mutex<HashMap<u64, Registered>>,
    stop: AtomicBool,
    hold: Mutex<Hold>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Hold {
    wanted: bool,
    held: bool,
    gone: bool,
}

/// A handle on the loop. Clones are the same loop.
#[derive(Debug, Clone)]
pub struct EventLoop {
    shared: Arc<Shared>,
}

impl EventLoop {
    /// A loop without a thread yet; descriptors may be added.
    pub fn new() -> io::Result<EventLoop> {
        let epoll = Epoll::new()?;
        let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        epoll.ctl(ControlOperation::Add, wake.as_raw_fd(), EpollEvent::new(EventSet::IN, WAKE))?;
        Ok(EventLoop {
            shared: Arc::new(Shared {
                epoll,
                wake,
                next: AtomicU64::new(WAKE + 1),
                handlers: Mutex::default(),
                stop: AtomicBool::new(false),
                hold: Mutex::default(),
                changed: Condvar::new(),
            }),
        })
    }

    /// Starts the thread.
    pub fn start(&self, jail: &Jail) -> io::Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        let jail = jail.clone();
        std::thread::Builder::new().name("hull-devices".into()).stack_size(256 << 10).spawn(
            move || {
                crate::vcpu::signals::block_all();
                match jail.enter(Role::Devices) {
                    Ok(()) => shared.run(),
                    Err(error) => tracing::error!("device thread: {error}"),
                }
                lock(&shared.hold).gone = true;
                shared.changed.notify_all();
            },
        )
    }

    /// Has `handler` called with `tag` when `fd` is ready.
    pub fn add(
        &self,
        fd: RawFd,
        events: EventSet,
        handler: Arc<dyn Handler>,
        tag: u64,
    ) -> io::Result<Token> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.handlers).insert(id, (handler, tag));
        let added = self.shared.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, id));
        if let Err(error) = added {
            lock(&self.shared.handlers).remove(&id);
            return Err(error);
        }
        Ok(Token(id))
    }

    /// Changes what is waited for.
    pub fn modify(&self, token: Token, fd: RawFd, events: EventSet) -> io::Result<()> {
        self.shared.epoll.ctl(ControlOperation::Modify, fd, EpollEvent::new(events, token.0))
    }

    /// Ends a registration; call before the descriptor is closed.
    pub fn remove(&self, token: Token, fd: RawFd) {
        lock(&self.shared.handlers).remove(&token.0);
        // It can only fail for a descriptor that is gone already.
        let _ = self.shared.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    /// Returns when no handler runs, and keeps it so.
    pub fn pause(&self) {
        let mut hold = lock(&self.shared.hold);
        hold.wanted = true;
        self.wake();
        while !hold.held && !hold.gone {
            hold = self.shared.changed.wait(hold).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets handlers run again.
    pub fn resume(&self) {
        lock(&self.shared.hold).wanted = false;
        self.shared.changed.notify_all();
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.resume();
        self.wake();
    }

    fn wake(&self) {
        // A full counter wakes as well.
        let _ = self.shared.wake.write(1);
    }
}

impl Shared {
    fn run(&self) {
        let mut events = [EpollEvent::default(); 16];
        loop {
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!("device thread: epoll_wait: {error}");
                    return;
                }
            };
            for event in &events[..count] {
                if event.data() == WAKE {
                    let _ = self.wake.read();
                    self.hold_if_wanted();
                    if self.stop.load(Ordering::SeqCst) {
                        return;
                    }
                    continue;
                }
                let found = lock(&self.handlers)
                    .get(&event.data())
                    .map(|(handler, tag)| (Arc::clone(handler), *tag));
                if let Some((handler, tag)) = found {
                    handler.ready(tag, event.event_set());
                }
            }
        }
    }

    fn hold_if_wanted(&self) {
        let mut hold = lock(&self.hold);
        while hold.wanted {
            hold.held = true;
            self.changed.notify_all();
            hold = self.changed.wait(hold).unwrap_or_else(PoisonError::into_inner);
        }
        hold.held = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[derive(Debug)]
    struct Report {
        event: EventFd,
        sender: Mutex<mpsc::Sender<u64>>,
    }

    impl Handler for Report {
        fn ready(&self, tag: u64, _: EventSet) {
            self.event.read().unwrap();
            lock(&self.sender).send(tag).unwrap();
        }
    }

    #[test]
    fn handlers_run_unless_the_loop_is_held() {
        let events = EventLoop::new().unwrap();
        let (sender, receiver) = mpsc::channel();
        let handler = Arc::new(Report {
            event: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            sender: Mutex::new(sender),
        });
        let fd = handler.event.as_raw_fd();
        let token = events.add(fd, EventSet::IN, handler.clone(), 7).unwrap();
        let thread = events.start(&Jail::none()).unwrap();

        handler.event.write(1).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Ok(7));

        events.pause();
        handler.event.write(1).unwrap();
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        events.resume();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Ok(7));

        events.remove(token, fd);
        events.stop();
        thread.join().unwrap();
        events.pause();
    }
}
