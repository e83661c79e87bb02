//! The thread of one processor: in the guest until something needs the host.
//!
//! A thread holds its processor's descriptor only while it runs; when it is
//! parked, the machine's owner may look at it and change it. It parks only
//! after KVM_RUN returned EINTR, for then an access the guest had under way
//! has been completed.

use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{VcpuError, signals};
use crate::devices::bus::{Bus, Request, lock};
use crate::devices::serial::Console;
use crate::devices::virtio::vsock::Connector;
use crate::jail::{Jail, Role};
use crate::vm::control::{Control, FIRST_RUN, Want};
use crate::vm::{Error, Outcome};

/// KVM_SYSTEM_EVENT_*.
const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
const SYSTEM_EVENT_RESET: u32 = 2;
const SYSTEM_EVENT_CRASH: u32 = 3;
/// What a panicking Linux says first.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// One processor, shared by its thread and the machine's owner.
#[derive(Debug)]
pub struct Vcpu {
    id: u8,
    fd: Mutex<VcpuFd>,
    /// `kvm_run.immediate_exit`, in the mapping that `fd` owns.
    immediate_exit: ImmediateExit,
    tid: AtomicI32,
}

/// A byte in a mapping shared with the kernel.
#[derive(Debug, Clone, Copy)]
struct ImmediateExit(*const AtomicU8);

// SAFETY: it points to one byte in a mapping that lives as long as the Vcpu
// that holds both, and the byte is only accessed atomically.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    fn set(self, value: u8) {
        // SAFETY: see the impl of Send; callers hold the Vcpu.
        unsafe { &*self.0 }.store(value, Ordering::SeqCst);
    }
}

impl Vcpu {
    /// Wraps a new processor.
    pub fn new(id: u8, mut fd: VcpuFd) -> Vcpu {
        let immediate_exit = std::ptr::addr_of_mut!(fd.get_kvm_run().immediate_exit);
        Vcpu {
            id,
            fd: Mutex::new(fd),
            immediate_exit: ImmediateExit(immediate_exit.cast()),
            tid: AtomicI32::new(0),
        }
    }

    /// Its number.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// Its descriptor; waits until the thread is parked.
    pub fn fd(&self) -> std::sync::MutexGuard<'_, VcpuFd> {
        lock(&self.fd)
    }

    /// Takes it out of the guest, so that it sees what the machine wants.
    pub fn kick(&self) {
        self.immediate_exit.set(1);
        let tid = self.tid.load(Ordering::SeqCst);
        if tid != 0
            && let Err(error) = signals::kick(tid)
        {
            tracing::error!("vCPU {}: kick: {error}", self.id);
        }
    }
}

/// What the thread needs.
#[derive(Debug)]
pub struct Context {
    /// Its processor.
    pub vcpu: Arc<Vcpu>,
    /// Where accesses go.
    pub bus: Arc<Bus>,
    /// What the machine wants.
    pub control: Arc<Control>,
    /// The kernel's log, to tell a panic from a reset.
    pub console: Console,
    /// The guest's connections, which end with it.
    pub connector: Option<Connector>,
}

impl Context {
    /// The thread's whole life.
    pub fn run(self, jail: &Jail) {
        signals::block_all_but_kick();
        // SAFETY: gettid has no conditions.
        let tid = unsafe { libc::gettid() };
        self.vcpu.tid.store(tid, Ordering::SeqCst);
        match jail.enter(Role::Vcpu) {
            Ok(()) => self.live(),
            Err(error) => self.control.end(Outcome::Failed(Error::Jail(error))),
        }
        self.vcpu.tid.store(0, Ordering::SeqCst);
        self.control.leave();
    }

    fn live(&self) {
        while self.control.park() == Want::Run {
            if self.vcpu.id == 0 {
                self.control.phase(FIRST_RUN);
            }
            if let Some(outcome) = self.stay_in_guest() {
                self.control.end(outcome);
                if let Some(connector) = &self.connector {
                    connector.close();
                }
                return;
            }
        }
    }

    /// Runs until the machine wants something else (None) or ends.
    fn stay_in_guest(&self) -> Option<Outcome> {
        let mut fd = self.vcpu.fd();
        loop {
            match fd.run() {
                Ok(VcpuExit::IoOut(port, data)) => {
                    if self.bus.port_write(port, data) == Request::Shutdown {
                        return Some(Outcome::Shutdown);
                    }
                }
                Ok(VcpuExit::IoIn(port, data)) => self.bus.port_read(port, data),
                Ok(VcpuExit::MmioRead(address, data)) => self.bus.mmio_read(address, data),
                Ok(VcpuExit::MmioWrite(address, data)) => self.bus.mmio_write(address, data),
                Ok(VcpuExit::Intr) => {}
                Ok(VcpuExit::Shutdown) => return Some(self.reset_or_panic()),
                Ok(VcpuExit::SystemEvent(kind, _)) => match kind {
                    SYSTEM_EVENT_SHUTDOWN => return Some(Outcome::Shutdown),
                    SYSTEM_EVENT_RESET => return Some(self.reset_or_panic()),
                    SYSTEM_EVENT_CRASH => return Some(Outcome::Panicked),
                    _ => {
                        return Some(failed(VcpuError::UnexpectedExit {
                            id: self.vcpu.id,
                            exit: format!("system event {kind}"),
                        }));
                    }
                },
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    return Some(failed(VcpuError::FailEntry { id: self.vcpu.id, reason }));
                }
                Ok(VcpuExit::InternalError) => return Some(failed(self.internal_error(&mut fd))),
                Ok(other) => {
                    return Some(failed(VcpuError::UnexpectedExit {
                        id: self.vcpu.id,
                        exit: format!("{other:?}"),
                    }));
                }
                Err(error) => match error.errno() {
                    libc::EINTR => {
                        self.vcpu.immediate_exit.set(0);
                        if self.control.wanted() != Want::Run {
                            return None;
                        }
                    }
                    libc::EAGAIN => {}
                    _ => {
                        return Some(failed(VcpuError::Ioctl {
                            id: self.vcpu.id,
                            operation: "KVM_RUN",
                            source: error,
                        }));
                    }
                },
            }
        }
    }

    /// A triple fault is how `reboot=t` resets, after a panic as well.
    fn reset_or_panic(&self) -> Outcome {
        if self.console.contains(PANIC) { Outcome::Panicked } else { Outcome::Reset }
    }

    fn internal_error(&self, fd: &mut VcpuFd) -> VcpuError {
        let rip = fd.get_regs().map_or(0, |regs| regs.rip);
        let cr2 = fd.get_sregs().map_or(0, |sregs| sregs.cr2);
        // SAFETY: after KVM_EXIT_INTERNAL_ERROR the union holds `internal`.
        let suberror = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        VcpuError::Internal { id: self.vcpu.id, suberror, rip, cr2 }
    }
}

fn failed(error: VcpuError) -> Outcome {
    Outcome::Failed(Error::Vcpu(error))
}
