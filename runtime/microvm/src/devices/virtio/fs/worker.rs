//! The thread that serves the queues, and how it is told to begin and stop.
//!
//! It is made before any vCPU runs and then waits. Whoever changes its state
//! waits until it has answered: when `set` returns, the thread is where it was
//! told to be, between two requests.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use fuse_backend_rs::api::server::Server;
use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::request;
use super::tree::Tree;
use crate::devices::virtio::{Activation, ActiveQueue};
use crate::jail::{self, Jail, Role};

/// The high priority queue and the request queue.
pub const QUEUES: usize = 2;

/// Requests served before the other queue is looked at.
const BATCH: u32 = 64;

/// What the worker is told to be.
#[derive(Debug)]
enum Order {
    /// Nothing to serve; queues and memory are let go.
    Idle,
    /// These queues, served unless `held`.
    Serve(Activation),
    /// Hold or go on.
    Hold(bool),
    /// End.
    Exit,
}

#[derive(Debug, Default)]
struct Slot {
    order: Option<Order>,
    /// The thread has ended, by order or not.
    gone: bool,
    /// Why, if not by order.
    failure: Option<Failure>,
}

/// Why a worker could not begin.
#[derive(Debug)]
pub enum Failure {
    /// A system call failed.
    System(&'static str, io::Error),
    /// It could not confine itself.
    Jail(jail::Error),
}

#[derive(Debug)]
struct Shared {
    slot: Mutex<Slot>,
    answered: Condvar,
    wake: EventFd,
    /// An order waits: finish the request at hand and look.
    pending: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker thread's owner; ends the thread when dropped.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Makes the thread and waits until it has confined itself.
    pub fn spawn(
        tree: Arc<Tree>,
        server: Arc<Server<Arc<Tree>>>,
        jail: &Jail,
    ) -> Result<Worker, Failure> {
        let wake =
            EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(|e| Failure::System("eventfd", e))?;
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot::default()),
            answered: Condvar::new(),
            wake,
            pending: AtomicBool::new(false),
        });
        let (jail, theirs) = (jail.clone(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("hull-fs".into())
            .stack_size(256 << 10)
            .spawn(move || {
                let failure = run(&tree, &server, &jail, &theirs).err();
                let mut slot = theirs.lock();
                slot.gone = true;
                slot.failure = failure;
                slot.order = None;
                theirs.answered.notify_all();
            })
            .map_err(|e| Failure::System("create a thread", e))?;
        let worker = Worker { shared, thread: Some(thread) };
        worker.set(Order::Idle)?;
        Ok(worker)
    }

    /// Serves these queues from now on, or after [`Worker::resume`] if held.
    pub fn serve(&self, activation: Activation) -> Result<(), Failure> {
        self.set(Order::Serve(activation))
    }

    /// Lets go of queues and memory.
    pub fn idle(&self) -> Result<(), Failure> {
        self.set(Order::Idle)
    }

    /// Serves nothing until `resume`.
    pub fn pause(&self) -> Result<(), Failure> {
        self.set(Order::Hold(true))
    }

    /// Goes on, and looks at all queues.
    pub fn resume(&self) -> Result<(), Failure> {
        self.set(Order::Hold(false))
    }

    /// Gives an order and waits until it is followed.
    fn set(&self, order: Order) -> Result<(), Failure> {
        let mut slot = self.shared.lock();
        slot.order = Some(order);
        self.shared.pending.store(true, Ordering::Release);
        // The counter cannot overflow: one order at a time.
        let _ = self.shared.wake.write(1);
        while slot.order.is_some() && !slot.gone {
            slot = self.shared.answered.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
        match (slot.failure.take(), slot.gone) {
            (Some(failure), _) => Err(failure),
            (None, true) => {
                Err(Failure::System("order a worker", io::Error::from_raw_os_error(libc::ESRCH)))
            }
            (None, false) => Ok(()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.set(Order::Exit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    tree: &Tree,
    server: &Server<Arc<Tree>>,
    jail: &Jail,
    shared: &Shared,
) -> Result<(), Failure> {
    // A write beyond a file size limit is answered with EFBIG, not SIGXFSZ.
    crate::vcpu::signals::block_all();
    tree.prepare_thread().map_err(|e| Failure::System("ready the thread", e))?;
    jail.enter(Role::Fs).map_err(Failure::Jail)?;

    let mut active: Option<Activation> = None;
    let mut held = false;
    // Queues to look at without waiting for a kick.
    let mut look = false;
    loop {
        {
            let mut slot = shared.lock();
            if let Some(order) = slot.order.take() {
                let _ = shared.wake.read();
                shared.pending.store(false, Ordering::Release);
                match order {
                    Order::Idle => active = None,
                    Order::Serve(activation) => active = Some(activation),
                    Order::Hold(hold) => held = hold,
                    Order::Exit => return Ok(()),
                }
                // Kicks may have come before we listened.
                look = true;
                shared.answered.notify_all();
            }
        }
        let (mem, queues) = match &active {
            Some(activation) if !held => (Some(&*activation.mem), activation.queues.as_slice()),
            _ => (None, &[][..]),
        };
        let Some(mem) = mem else {
            wait(&shared.wake, &[], -1).map_err(|e| Failure::System("poll", e))?;
            continue;
        };
        let timeout = if look { 0 } else { -1 };
        let kicked = wait(&shared.wake, queues, timeout).map_err(|e| Failure::System("poll", e))?;
        let all = std::mem::take(&mut look);
        for (queue, kicked) in queues.iter().zip(kicked) {
            if kicked {
                let _ = queue.kick().read();
            }
            if kicked || all {
                look |= drain(tree, server, mem, queue, &shared.pending) == Left::Some;
            }
        }
    }
}

/// Waits for an order or a kick; which queues were kicked.
fn wait(wake: &EventFd, queues: &[ActiveQueue], timeout: i32) -> io::Result<[bool; QUEUES]> {
    let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // Negative descriptors are skipped by poll(2).
    let mut fds = [poll(-1); QUEUES + 1];
    fds[QUEUES] = poll(wake.as_raw_fd());
    for (slot, queue) in fds[..QUEUES].iter_mut().zip(queues) {
        *slot = poll(queue.kick_fd());
    }
    // SAFETY: an array with its own length.
    let n = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
    if n < 0 {
        let e = io::Error::last_os_error();
        return if e.kind() == io::ErrorKind::Interrupted { Ok([false; QUEUES]) } else { Err(e) };
    }
    Ok(std::array::from_fn(|i| fds[i].revents != 0))
}

/// Whether a queue still has something in it.
#[derive(PartialEq, Eq)]
enum Left {
    Nothing,
    Some,
}

/// Serves what is in the queue, up to a batch, so that a busy queue keeps
/// neither the other one nor an order waiting.
fn drain(
    tree: &Tree,
    server: &Server<Arc<Tree>>,
    mem: &GuestMemoryMmap,
    queue: &ActiveQueue,
    pending: &AtomicBool,
) -> Left {
    let mut rings = queue.lock();
    if !rings.ready() {
        return Left::Nothing;
    }
    let mut batch = BATCH;
    loop {
        // A ring that cannot be read is the driver's fault and its loss: the
        // queue stays silent until the device is reset.
        if rings.disable_notification(mem).is_err() {
            return Left::Nothing;
        }
        while let Some(chain) = rings.pop_descriptor_chain(mem) {
            let head = chain.head_index();
            let written = request::serve(server, tree, mem, chain);
            if rings.add_used(mem, head, written).is_err() {
                return Left::Nothing;
            }
            if rings.needs_notification(mem).unwrap_or(true) {
                // An eventfd that is full has been signalled already.
                let _ = queue.irq().used();
            }
            batch -= 1;
            if batch == 0 || pending.load(Ordering::Acquire) {
                return Left::Some;
            }
        }
        match rings.enable_notification(mem) {
            Ok(true) => {}
            Ok(false) | Err(_) => return Left::Nothing,
        }
    }
}
