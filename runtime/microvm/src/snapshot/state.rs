//! Everything of a machine but its memory.

use std::io::{BufReader, BufWriter, Write};
use std::sync::Arc;

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE};
use kvm_bindings::{kvm_clock_data, kvm_irqchip};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::{Files, SnapshotError};
use crate::config::{Devices, MAX_VCPUS};
use crate::devices::bus::lock;
use crate::devices::cmos::Cmos;
use crate::devices::serial::{SavedSerial, Serial};
use crate::devices::virtio::mmio::TransportState;
use crate::memory;
use crate::vcpu::state::VcpuState;
use crate::vm::build::{Parts, assemble, bare_vcpus, new_control, serial_line};
use crate::vm::{Error, Handle, Vm, kvm};

/// Changed whenever what is saved changes its meaning.
const VERSION: u32 = 1;

/// A saved machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    version: u32,
    memory: u64,
    vcpus: Vec<VcpuState>,
    irqchips: Vec<kvm_irqchip>,
    clock: kvm_clock_data,
    serial: SavedSerial,
    cmos: u8,
    devices: Vec<TransportState>,
}

impl Handle {
    /// Saves the paused machine into two empty files.
    pub fn save(&self, files: &Files) -> Result<(), Error> {
        if !self.is_paused() {
            return Err(SnapshotError::NotPaused.into());
        }
        let parts = self.parts();
        let state = State::of(parts)?;
        let mut writer = BufWriter::new(&files.state);
        serde_json::to_writer(&mut writer, &state).map_err(SnapshotError::State)?;
        writer.flush().map_err(|e| SnapshotError::State(serde_json::Error::io(e)))?;
        super::memory::save(&parts.memory, &files.memory)?;
        Ok(())
    }
}

impl Vm {
    /// A machine that goes on where the saved one was, with devices like those
    /// it had.
    pub fn restore(files: Files, devices: Devices) -> Result<Vm, Error> {
        let state: State =
            serde_json::from_reader(BufReader::new(&files.state)).map_err(SnapshotError::State)?;
        state.check(&files)?;
        let control = new_control()?;
        control.phase("start");
        let memory = memory::map_saved(state.memory, files.memory)
            .map_err(crate::boot::loading::LoadError::from)?;
        let kvm_fd = kvm::open()?;
        let vm = Arc::new(kvm::create(&kvm_fd)?);
        kvm::set_memory(&vm, &memory)?;
        let vcpus = bare_vcpus(&vm, state.vcpus.len() as u8)?;
        let parts = assemble(kvm_fd, vm, memory, devices, control)?;
        if parts.bus.virtio.len() != state.devices.len() {
            return Err(SnapshotError::Devices {
                have: state.devices.len(),
                want: parts.bus.virtio.len(),
            }
            .into());
        }
        state.restore_platform(&parts)?;
        for (vcpu, saved) in vcpus.iter().zip(&state.vcpus) {
            crate::vcpu::state::restore(&vcpu.fd(), vcpu.id(), saved)?;
        }
        parts.control.set_vcpus(vcpus);
        parts.control.phase("state restored");
        Ok(Vm { parts, saved: Some(state.devices) })
    }
}

impl State {
    fn of(parts: &Parts) -> Result<State, Error> {
        let msrs = parts.kvm.get_msr_index_list().map_err(kvm::kvm("KVM_GET_MSR_INDEX_LIST"))?;
        let vcpus = parts
            .control
            .vcpus()
            .iter()
            .map(|vcpu| crate::vcpu::state::save(&vcpu.fd(), vcpu.id(), msrs.as_slice()))
            .collect::<Result<_, _>>()?;
        let mut clock = parts.vm.get_clock().map_err(kvm::kvm("KVM_GET_CLOCK"))?;
        // Flags tell how it was read; set again, they would be requests.
        clock.flags = 0;
        let devices = parts
            .bus
            .virtio
            .iter()
            .map(|transport| lock(transport).save())
            .collect::<Result<_, _>>()?;
        Ok(State {
            version: VERSION,
            memory: memory::size(&parts.memory),
            vcpus,
            irqchips: irqchips(&parts.vm)?,
            clock,
            serial: lock(&parts.bus.serial).save(),
            cmos: lock(&parts.bus.cmos).index(),
            devices,
        })
    }

    /// Refuses what no machine of ours can have been.
    fn check(&self, files: &Files) -> Result<(), SnapshotError> {
        if self.version != VERSION {
            return Err(SnapshotError::Version { have: self.version, want: VERSION });
        }
        if self.vcpus.is_empty() || self.vcpus.len() > usize::from(MAX_VCPUS) {
            return Err(SnapshotError::Field("number of vCPUs"));
        }
        if memory::ranges(self.memory).is_err() {
            return Err(SnapshotError::Field("memory size"));
        }
        let have = files
            .memory
            .metadata()
            .map_err(|source| SnapshotError::Memory { operation: "fstat", source })?
            .len();
        // A file cut short would end the process by a fault, not by an error.
        if have != self.memory {
            return Err(SnapshotError::MemorySize { have, want: self.memory });
        }
        Ok(())
    }

    fn restore_platform(&self, parts: &Parts) -> Result<(), Error> {
        for chip in &self.irqchips {
            parts.vm.set_irqchip(chip).map_err(kvm::kvm("KVM_SET_IRQCHIP"))?;
        }
        parts.vm.set_clock(&self.clock).map_err(kvm::kvm("KVM_SET_CLOCK"))?;
        let serial = Serial::restore(&self.serial, serial_line(&parts.vm), parts.console.clone())
            .ok_or(SnapshotError::Field("serial port"))?;
        *lock(&parts.bus.serial) = serial;
        *lock(&parts.bus.cmos) = Cmos::with_index(self.cmos);
        Ok(())
    }
}

fn irqchips(vm: &VmFd) -> Result<Vec<kvm_irqchip>, Error> {
    [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC]
        .into_iter()
        .map(|chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip).map_err(kvm::kvm("KVM_GET_IRQCHIP"))?;
            Ok(chip)
        })
        .collect()
}
