//! What the machine wants of its processors, and how it ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Outcome;
use crate::devices::bus::lock;
use crate::vcpu::run::Vcpu;

/// The phase that ends the machine's own preparations.
pub const FIRST_RUN: &str = "first KVM_RUN";

/// What a processor's thread is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Want {
    /// Be in the guest.
    Run = 0,
    /// Wait.
    Pause = 1,
    /// End.
    Stop = 2,
}

/// Shared by all threads of a machine.
#[derive(Debug)]
pub struct Control {
    want: AtomicU8,
    threads: Mutex<Threads>,
    changed: Condvar,
    vcpus: OnceLock<Vec<Arc<Vcpu>>>,
    outcome: Mutex<Option<Outcome>>,
    exit: OwnedFd,
    phases: Mutex<Vec<(&'static str, Instant)>>,
}

#[derive(Debug, Default)]
struct Threads {
    parked: usize,
    gone: usize,
}

impl Control {
    /// A machine that is paused.
    pub fn new() -> io::Result<Control> {
        // SAFETY: eventfd has no conditions; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Control {
            want: AtomicU8::new(Want::Pause as u8),
            threads: Mutex::default(),
            changed: Condvar::new(),
            vcpus: OnceLock::new(),
            outcome: Mutex::new(None),
            // SAFETY: the descriptor is new and nobody else's.
            exit: unsafe { OwnedFd::from_raw_fd(fd) },
            phases: Mutex::default(),
        })
    }

    /// Names the processors. Once, before their threads start.
    pub fn set_vcpus(&self, vcpus: Vec<Arc<Vcpu>>) {
        let first = self.vcpus.set(vcpus).is_ok();
        debug_assert!(first, "processors named twice");
    }

    /// The processors.
    pub fn vcpus(&self) -> &[Arc<Vcpu>] {
        self.vcpus.get().map_or(&[], Vec::as_slice)
    }

    /// What is wanted now.
    pub fn wanted(&self) -> Want {
        match self.want.load(Ordering::SeqCst) {
            0 => Want::Run,
            1 => Want::Pause,
            _ => Want::Stop,
        }
    }

    /// Called by a processor's thread: waits while a pause is wanted.
    pub fn park(&self) -> Want {
        let mut threads = lock(&self.threads);
        threads.parked += 1;
        self.changed.notify_all();
        while self.wanted() == Want::Pause {
            threads = self.changed.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
        threads.parked -= 1;
        self.wanted()
    }

    /// Called by a processor's thread when it ends.
    pub fn leave(&self) {
        lock(&self.threads).gone += 1;
        self.changed.notify_all();
    }

    /// Wants a pause and waits until all threads are parked or gone.
    pub fn pause(&self) {
        self.set(Want::Pause);
        let mut threads = lock(&self.threads);
        while self.wanted() == Want::Pause && threads.parked + threads.gone < self.vcpus().len() {
            threads = self.changed.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all threads have come up.
    pub fn wait_parked(&self) {
        self.pause();
    }

    /// Lets the processors run.
    pub fn resume(&self) {
        self.set(Want::Run);
    }

    fn set(&self, want: Want) {
        {
            let _threads = lock(&self.threads);
            // A machine that has ended stays so.
            if self.wanted() == Want::Stop {
                return;
            }
            self.want.store(want as u8, Ordering::SeqCst);
        }
        self.changed.notify_all();
        if want != Want::Run {
            for vcpu in self.vcpus() {
                vcpu.kick();
            }
        }
    }

    /// The machine has ended; only the first outcome counts.
    pub fn end(&self, outcome: Outcome) {
        {
            let mut slot = lock(&self.outcome);
            if slot.is_none() {
                self.phase("end");
                *slot = Some(outcome);
            }
        }
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight bytes of a local; the descriptor is ours. It stays readable
        // from the first write on, so that a failure of a later one does not matter.
        unsafe { libc::write(self.exit.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        self.set(Want::Stop);
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.wanted() == Want::Stop
    }

    /// Waits for the end, and takes the outcome; later callers get `Stopped`.
    pub fn wait(&self) -> Outcome {
        let mut threads = lock(&self.threads);
        while self.wanted() != Want::Stop {
            threads = self.changed.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
        drop(threads);
        lock(&self.outcome).take().unwrap_or(Outcome::Stopped)
    }

    /// Readable once the machine has ended.
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }

    /// Whether any processor has been in the guest.
    pub fn has_run(&self) -> bool {
        lock(&self.phases).iter().any(|(name, _)| *name == FIRST_RUN)
    }

    /// Notes that something happened now, the first time it does.
    pub fn phase(&self, name: &'static str) {
        self.phase_at(name, Instant::now());
    }

    /// Notes that something happened then.
    pub fn phase_at(&self, name: &'static str, at: Instant) {
        let mut phases = lock(&self.phases);
        if phases.iter().all(|(known, _)| *known != name) {
            phases.push((name, at));
        }
    }

    /// What has happened, in order of time.
    pub fn phases(&self) -> Vec<(&'static str, Instant)> {
        let mut phases = lock(&self.phases).clone();
        phases.sort_by_key(|(_, at)| *at);
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_outcome_counts() {
        let control = Control::new().unwrap();
        assert!(!control.ended());
        control.end(Outcome::Shutdown);
        control.end(Outcome::Reset);
        assert!(matches!(control.wait(), Outcome::Shutdown));
        control.resume();
        assert!(control.ended());
    }

    #[test]
    fn phases_are_noted_once_and_in_order() {
        let control = Control::new().unwrap();
        control.phase("b");
        let now = Instant::now();
        control.phase_at("a", now - std::time::Duration::from_secs(1));
        control.phase("b");
        let names: Vec<_> = control.phases().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
