//! A virtqueue in use, its kick and its interrupt.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

/// InterruptStatus bit: a used buffer was added.
pub const INTERRUPT_USED: u32 = 1;
/// InterruptStatus bit: the configuration changed.
pub const INTERRUPT_CONFIG: u32 = 2;

/// A queue the driver has set up. Clones are the same queue.
#[derive(Debug, Clone)]
pub struct ActiveQueue {
    queue: Arc<Mutex<Queue>>,
    kick: Arc<EventFd>,
    irq: Irq,
}

impl ActiveQueue {
    /// Joins a queue, its notification and its interrupt.
    pub fn new(queue: Arc<Mutex<Queue>>, kick: Arc<EventFd>, irq: Irq) -> ActiveQueue {
        ActiveQueue { queue, kick, irq }
    }

    /// The rings. Hold it for the handling of one batch; the transport looks
    /// at it only while the device is paused or reset.
    pub fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event the guest signals; non-blocking, to be read (or polled) by
    /// the device.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// The kick's descriptor, to poll.
    pub fn kick_fd(&self) -> RawFd {
        self.kick.as_raw_fd()
    }

    /// The device's interrupt.
    pub fn irq(&self) -> &Irq {
        &self.irq
    }
}

/// The interrupt line of one device. Clones are the same line.
#[derive(Debug, Clone)]
pub struct Irq {
    status: Arc<AtomicU32>,
    line: Arc<EventFd>,
}

impl Irq {
    /// An interrupt that sets bits in `status` and signals `line`.
    pub fn new(status: Arc<AtomicU32>, line: Arc<EventFd>) -> Irq {
        Irq { status, line }
    }

    /// Tells the driver that used buffers were added (ask the queue's
    /// `needs_notification` first).
    pub fn used(&self) -> io::Result<()> {
        self.raise(INTERRUPT_USED)
    }

    /// Tells the driver that the configuration space changed.
    pub fn config(&self) -> io::Result<()> {
        self.raise(INTERRUPT_CONFIG)
    }

    fn raise(&self, bit: u32) -> io::Result<()> {
        self.status.fetch_or(bit, Ordering::SeqCst);
        self.line.write(1)
    }
}
