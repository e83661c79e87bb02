//! Building and starting. Everything that does not need the kernel in memory
//! is done while it is being read.

use std::sync::Arc;

use kvm_ioctls::VmFd;
use vm_memory::{Bytes, GuestAddress};

use super::control::Control;
use super::handle::{Handle, Threads};
use super::kvm::{self, VIRTIO_IRQS};
use super::{Error, Outcome};
use crate::boot::cmdline::{self, Inputs};
use crate::boot::loading::{Loaded, Loading};
use crate::boot::{acpi, layout, mptable, zero_page};
use crate::config::{Config, Devices, MAX_VCPUS};
use crate::devices::bus::{Bus, lock};
use crate::devices::cmos::Cmos;
use crate::devices::event_loop::EventLoop;
use crate::devices::ports;
use crate::devices::serial::{Console, Serial};
use crate::devices::virtio::mmio::{Transport, TransportState};
use crate::devices::virtio::vsock::{Connector, Vsock};
use crate::devices::virtio::{Device, Line, fs, rng::Rng};
use crate::jail::Jail;
use crate::memory::{self, Memory};
use crate::vcpu::run::{Context, Vcpu};
use crate::vcpu::{cpuid, regs};

/// A machine that has not been started.
#[derive(Debug)]
pub struct Vm {
    pub(crate) parts: Parts,
    /// What the devices are to become again, once they have their threads.
    pub(crate) saved: Option<Vec<TransportState>>,
}

/// What a machine is made of, running or not.
#[derive(Debug)]
pub(crate) struct Parts {
    pub vm: Arc<VmFd>,
    /// Supported MSRs are asked for only when a state is saved.
    pub kvm: kvm_ioctls::Kvm,
    pub memory: Memory,
    pub bus: Arc<Bus>,
    pub events: EventLoop,
    pub console: Console,
    pub connector: Option<Connector>,
    pub control: Arc<Control>,
}

impl Vm {
    /// Makes the machine; the loading may still be under way.
    pub fn build(config: &Config, loading: Loading, devices: Devices) -> Result<Vm, Error> {
        if config.vcpus == 0 || config.vcpus > MAX_VCPUS {
            return Err(Error::Vcpus(config.vcpus));
        }
        let control = new_control()?;
        control.phase_at("start", loading.started());
        let (opening, filling) = loading.parts()?;
        let memory = filling.memory();
        let (kvm_fd, vm) = opening.finish()?;
        let vm = Arc::new(vm);
        kvm::set_memory(&vm, &memory)?;
        control.phase("machine made");
        let vcpus = create_vcpus(&kvm_fd, &vm, config.vcpus)?;
        control.phase("vCPUs made");
        let parts = assemble(kvm_fd, vm, memory, devices, control)?;
        parts.control.phase("devices made");

        let loaded = filling.finish()?;
        parts.control.phase_at("kernel loaded", loaded.done);
        parts.write_boot(config, &loaded)?;
        let boot = vcpus.first().ok_or(Error::Vcpus(0))?;
        regs::set_up_boot(&boot.fd(), loaded.entry)?;
        parts.control.set_vcpus(vcpus);
        Ok(Vm { parts, saved: None })
    }

    /// Starts device threads and vCPUs; each confines itself as `jail` says.
    pub fn start(self, jail: &Jail) -> Result<Handle, Error> {
        let handle = self.start_paused(jail)?;
        handle.resume()?;
        Ok(handle)
    }

    /// Brings up all threads; the processors wait for `resume`.
    pub fn start_paused(self, jail: &Jail) -> Result<Handle, Error> {
        let Vm { parts, saved } = self;
        let mut threads = Threads::default();
        for transport in &parts.bus.virtio {
            lock(transport).start(jail)?;
        }
        for (transport, state) in parts.bus.virtio.iter().zip(saved.iter().flatten()) {
            lock(transport).restore(state)?;
        }
        let events = parts
            .events
            .start(jail)
            .map_err(|source| Error::System { operation: "thread hull-devices", source })?;
        threads.push(events);
        crate::vcpu::signals::install();
        let handle = Handle::new(parts, threads);
        let parts = handle.parts();
        for vcpu in parts.control.vcpus() {
            let context = Context {
                vcpu: Arc::clone(vcpu),
                bus: Arc::clone(&parts.bus),
                control: Arc::clone(&parts.control),
                console: parts.console.clone(),
                connector: parts.connector.clone(),
            };
            let jail = jail.clone();
            let thread = std::thread::Builder::new()
                .name(format!("hull-vcpu{}", vcpu.id()))
                .stack_size(256 << 10)
                .spawn(move || context.run(&jail))
                .map_err(|source| Error::System { operation: "thread of a vCPU", source })?;
            handle.adopt(thread);
        }
        parts.control.wait_parked();
        match parts.control.ended() {
            true => Err(match parts.control.wait() {
                Outcome::Failed(error) => error,
                _ => Error::Ended,
            }),
            false => Ok(handle),
        }
    }
}

pub(crate) fn new_control() -> Result<Arc<Control>, Error> {
    Control::new().map(Arc::new).map_err(|source| Error::System { operation: "eventfd", source })
}

/// Makes processors with their CPUID and MSRs.
fn create_vcpus(kvm_fd: &kvm_ioctls::Kvm, vm: &VmFd, count: u8) -> Result<Vec<Arc<Vcpu>>, Error> {
    let (supported, host) = kvm::supported_cpuid(kvm_fd)?;
    let mut vcpus = bare_vcpus(vm, count)?;
    for vcpu in &mut vcpus {
        let id = vcpu.id();
        let cpuid = cpuid::for_vcpu(&supported, host, id, count);
        let fd = vcpu.fd();
        fd.set_cpuid2(&cpuid).map_err(crate::vcpu::ioctl(id, "KVM_SET_CPUID2"))?;
        regs::set_up_msrs(&fd, id)?;
    }
    Ok(vcpus)
}

/// Makes processors as KVM resets them.
pub(crate) fn bare_vcpus(vm: &VmFd, count: u8) -> Result<Vec<Arc<Vcpu>>, Error> {
    (0..count)
        .map(|id| {
            let fd = vm.create_vcpu(u64::from(id)).map_err(kvm::kvm("KVM_CREATE_VCPU"))?;
            Ok(Arc::new(Vcpu::new(id, fd)))
        })
        .collect()
}

/// Makes the devices and puts them on the bus. The order of the virtio
/// devices is that of [`Devices`]: what a saved machine relies on.
pub(crate) fn assemble(
    kvm: kvm_ioctls::Kvm,
    vm: Arc<VmFd>,
    memory: Memory,
    devices: Devices,
    control: Arc<Control>,
) -> Result<Parts, Error> {
    let events = EventLoop::new().map_err(|source| Error::System { operation: "epoll", source })?;
    let mut connector = None;
    let mut list: Vec<Box<dyn Device>> = Vec::new();
    if devices.vsock {
        let vsock = Vsock::new(events.clone());
        connector = Some(vsock.connector());
        list.push(Box::new(vsock));
    }
    for config in devices.fs {
        list.push(Box::new(fs::Fs::new(config)?));
    }
    if devices.rng {
        list.push(Box::new(Rng::new(events.clone())));
    }
    if list.len() > VIRTIO_IRQS.len() {
        return Err(Error::TooManyDevices(list.len()));
    }
    let console = Console::default();
    let serial = Serial::new(serial_line(&vm), console.clone());
    let mut virtio = Vec::with_capacity(list.len());
    for (device, &irq) in list.into_iter().zip(&VIRTIO_IRQS) {
        let line = Line::Pin(Arc::clone(&vm), irq);
        virtio.push(std::sync::Mutex::new(Transport::new(device, Memory::clone(&memory), line)?));
    }
    let bus = Bus {
        serial: std::sync::Mutex::new(serial),
        cmos: std::sync::Mutex::new(Cmos::default()),
        virtio,
    };
    Ok(Parts { vm, kvm, memory, bus: Arc::new(bus), events, console, connector, control })
}

/// The serial port's interrupt.
pub(crate) fn serial_line(vm: &Arc<VmFd>) -> Line {
    Line::Pin(Arc::clone(vm), ports::SERIAL_IRQ)
}

impl Parts {
    /// Writes everything the kernel reads when it starts.
    fn write_boot(&self, config: &Config, loaded: &Loaded) -> Result<(), Error> {
        let irqs = &VIRTIO_IRQS[..self.bus.virtio.len()];
        let line = cmdline::build(&Inputs {
            acpi: loaded.acpi,
            debug: config.debug,
            devices: irqs,
            extra: &config.cmdline,
        })?;
        tracing::debug!("kernel command line: {line}");
        let page = zero_page::build(&zero_page::Inputs {
            memory: &memory::ranges(config.memory)
                .map_err(crate::boot::loading::LoadError::from)?,
            initrd: loaded.initrd.clone(),
            cmdline_len: line.len(),
            acpi: loaded.acpi,
        });
        self.write("zero page", layout::ZERO_PAGE, &page)?;
        let mut line = line.into_bytes();
        line.push(0);
        self.write("command line", layout::CMDLINE, &line)?;
        if loaded.acpi {
            let tables = acpi::build(config.vcpus, irqs)?;
            self.write("ACPI tables", layout::ACPI, &tables)?;
        }
        // Kernels look for it before they have read the ACPI tables, and search all
        // of base memory and the BIOS area if it is not where they look first.
        let table = mptable::build(layout::MPTABLE, config.vcpus);
        self.write("MP table", layout::MPTABLE, &table)?;
        regs::write_tables(&self.memory)
            .map_err(|source| Error::Write { what: "page tables", source })
    }

    fn write(&self, what: &'static str, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.memory
            .write_slice(bytes, GuestAddress(at))
            .map_err(|source| Error::Write { what, source })
    }
}
