//! Where port and memory accesses of the guest go.
//!
//! The map is small and fixed, so it is a match and not a tree. What nothing
//! answers to reads as all ones, as on a bus without a device.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cmos::Cmos;
use super::ports;
use super::serial::Serial;
use super::virtio::mmio::Transport;
use crate::boot::acpi::SLEEP_TYPE_OFF;
use crate::memory::{VIRTIO_MMIO_BASE, VIRTIO_MMIO_STRIDE};

/// What the guest asked of the machine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Nothing.
    None,
    /// Power off or reboot: both end a machine without firmware.
    Shutdown,
}

/// All devices that answer to addresses.
#[derive(Debug)]
pub struct Bus {
    /// The kernel's console.
    pub serial: Mutex<Serial>,
    /// The clock chip.
    pub cmos: Mutex<Cmos>,
    /// Virtio devices, by register block.
    pub virtio: Vec<Mutex<Transport>>,
}

/// Locks; a thread that panicked has ended the machine anyway.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bus {
    /// The guest writes to a port.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Request {
        let Some(&value) = data.first() else {
            return Request::None;
        };
        match port {
            ports::SERIAL..0x400 => lock(&self.serial).write((port - ports::SERIAL) as u8, value),
            0x70 | 0x71 => lock(&self.cmos).write((port - ports::CMOS) as u8, value),
            ports::I8042_COMMAND if value == ports::I8042_RESET => return Request::Shutdown,
            // SLP_TYP in bits 2 to 4, SLP_EN in bit 5.
            ports::SLEEP_CONTROL if value == SLEEP_TYPE_OFF << 2 | 1 << 5 => {
                return Request::Shutdown;
            }
            _ => {}
        }
        Request::None
    }

    /// The guest reads from a port.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(value) = data.first_mut() else {
            return;
        };
        match port {
            ports::SERIAL..0x400 => *value = lock(&self.serial).read((port - ports::SERIAL) as u8),
            0x70 | 0x71 => *value = lock(&self.cmos).read((port - ports::CMOS) as u8),
            // Timer 2's output is high: a kernel that waits for it goes on.
            ports::SYSTEM_B => *value = 0x20,
            // Neither buffer of a keyboard controller is full.
            ports::I8042_COMMAND | ports::I8042_DATA | ports::SLEEP_STATUS => *value = 0,
            _ => {}
        }
    }

    /// The guest writes to memory that is none.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((transport, offset)) = self.virtio_at(address) {
            lock(transport).write(offset, data);
        }
    }

    /// The guest reads from memory that is none.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        match self.virtio_at(address) {
            Some((transport, offset)) => lock(transport).read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn virtio_at(&self, address: u64) -> Option<(&Mutex<Transport>, u64)> {
        let offset = address.checked_sub(VIRTIO_MMIO_BASE)?;
        let index = usize::try_from(offset / VIRTIO_MMIO_STRIDE).ok()?;
        Some((self.virtio.get(index)?, offset % VIRTIO_MMIO_STRIDE))
    }
}
