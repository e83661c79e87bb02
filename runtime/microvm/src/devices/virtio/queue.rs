//! A virtqueue in use, its kick and its interrupt.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VmFd;
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

/// A wire to the guest's I/O interrupt controller.
///
/// It is driven by KVM_IRQ_LINE and not by an irqfd: for a pin of the I/O APIC
/// (not an MSI) KVM hands an irqfd's injection to a kernel worker, which costs
/// a scheduling round on each interrupt.
#[derive(Debug, Clone)]
pub enum Line {
    /// A pin of a machine's I/O APIC.
    Pin(Arc<VmFd>, u32),
    /// An event, where there is no KVM.
    Event(Arc<EventFd>),
}

impl Line {
    /// A wire that leads nowhere anybody looks.
    #[cfg(test)]
    pub fn none() -> Line {
        Line::Event(Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()))
    }

    /// One edge.
    pub fn pulse(&self) -> io::Result<()> {
        match self {
            Line::Pin(vm, pin) => vm
                .set_irq_line(*pin, true)
                .and_then(|()| vm.set_irq_line(*pin, false))
                .map_err(|e| io::Error::from_raw_os_error(e.errno())),
            Line::Event(event) => event.write(1),
        }
    }
}

impl From<Arc<EventFd>> for Line {
    fn from(event: Arc<EventFd>) -> Line {
        Line::Event(event)
    }
}

/// The interrupt of one device. Clones are the same interrupt.
#[derive(Debug, Clone)]
pub struct Irq {
    status: Arc<AtomicU32>,
    line: Line,
}

impl Irq {
    /// An interrupt that sets bits in `status` and signals `line`.
    pub fn new(status: Arc<AtomicU32>, line: impl Into<Line>) -> Irq {
        Irq { status, line: line.into() }
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
        self.line.pulse()
    }
}
