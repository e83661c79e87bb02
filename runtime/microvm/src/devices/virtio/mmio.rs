//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2).
//!
//! Registers are 32 bits wide; what the driver does out of order is ignored,
//! what it sets up wrongly makes the device ask for a reset.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, Device, DeviceError};
use super::queue::{ActiveQueue, Irq, Line};
use crate::devices::bus::lock;
use crate::jail::Jail;
use crate::memory::Memory;

const MAGIC: u32 = 0x7472_6976;
const VENDOR: u32 = u32::from_le_bytes(*b"HULL");
/// VIRTIO_F_VERSION_1.
const VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_RING_EVENT_IDX.
const EVENT_IDX: u64 = 1 << 29;
/// Offset of QueueNotify, for who listens to it without us.
pub const QUEUE_NOTIFY: u64 = 0x050;
const CONFIG: u64 = 0x100;

/// Device status bits (virtio 1.2, section 2.1).
mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

/// A queue as the transport keeps it.
#[derive(Debug)]
struct Slot {
    queue: Arc<Mutex<Queue>>,
    kick: Arc<EventFd>,
}

/// One device behind a block of registers.
#[derive(Debug)]
pub struct Transport {
    device: Box<dyn Device>,
    mem: Memory,
    slots: Vec<Slot>,
    line: Line,
    interrupt: Arc<AtomicU32>,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    active: bool,
}

/// Everything of a device and its transport that a saved machine keeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransportState {
    kind: u32,
    interrupt: u32,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    active: bool,
    queues: Vec<SavedQueue>,
    device: serde_json::Value,
}

/// virtio_queue's state is not serialisable; this is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct SavedQueue {
    max_size: u16,
    next_avail: u16,
    next_used: u16,
    event_idx: bool,
    size: u16,
    ready: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

impl From<QueueState> for SavedQueue {
    fn from(s: QueueState) -> SavedQueue {
        SavedQueue {
            max_size: s.max_size,
            next_avail: s.next_avail,
            next_used: s.next_used,
            event_idx: s.event_idx_enabled,
            size: s.size,
            ready: s.ready,
            desc_table: s.desc_table,
            avail_ring: s.avail_ring,
            used_ring: s.used_ring,
        }
    }
}

impl From<SavedQueue> for QueueState {
    fn from(s: SavedQueue) -> QueueState {
        QueueState {
            max_size: s.max_size,
            next_avail: s.next_avail,
            next_used: s.next_used,
            event_idx_enabled: s.event_idx,
            size: s.size,
            ready: s.ready,
            desc_table: s.desc_table,
            avail_ring: s.avail_ring,
            used_ring: s.used_ring,
        }
    }
}

impl Transport {
    /// Puts a device behind registers.
    pub fn new(device: Box<dyn Device>, mem: Memory, line: Line) -> Result<Transport, DeviceError> {
        let name = device.name();
        let mut slots = Vec::new();
        for &size in device.queue_sizes() {
            let queue = Queue::new(size)
                .map_err(|_| DeviceError::StateField { device: name, field: "queue size" })?;
            let kick = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(|source| {
                DeviceError::System { device: name, operation: "eventfd", source }
            })?;
            slots.push(Slot { queue: Arc::new(Mutex::new(queue)), kick: Arc::new(kick) });
        }
        Ok(Transport {
            device,
            mem,
            slots,
            line,
            interrupt: Arc::default(),
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            active: false,
        })
    }

    /// See [`Device::start`].
    pub fn start(&mut self, jail: &Jail) -> Result<(), DeviceError> {
        self.device.start(jail)
    }

    /// See [`Device::pause`].
    pub fn pause(&mut self) -> Result<(), DeviceError> {
        self.device.pause()
    }

    /// See [`Device::resume`].
    pub fn resume(&mut self) -> Result<(), DeviceError> {
        self.device.resume()
    }

    fn offered(&self) -> u64 {
        self.device.features() | VERSION_1
    }

    fn selected(&self) -> Option<&Slot> {
        self.slots.get(usize::try_from(self.queue_sel).ok()?)
    }

    /// A register or the configuration space is read.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= CONFIG {
            data.fill(0);
            self.device.read_config(offset - CONFIG, data);
            return;
        }
        data.fill(0);
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.register(offset).to_le_bytes();
        }
    }

    fn register(&self, offset: u64) -> u32 {
        match offset {
            0x000 => MAGIC,
            0x004 => 2,
            0x008 => self.device.device_type(),
            0x00c => VENDOR,
            0x010 => match self.device_features_sel {
                0 => self.offered() as u32,
                1 => (self.offered() >> 32) as u32,
                _ => 0,
            },
            0x034 => self.selected().map_or(0, |slot| u32::from(lock(&slot.queue).max_size())),
            0x044 => self.selected().map_or(0, |slot| u32::from(lock(&slot.queue).ready())),
            0x060 => self.interrupt.load(Ordering::SeqCst),
            0x070 => self.status,
            // No shared memory region has a length of all ones.
            0x0b0..=0x0bc => u32::MAX,
            // No device here changes its configuration.
            0x0fc => 0,
            _ => 0,
        }
    }

    /// A register or the configuration space is written.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= CONFIG {
            if self.status & status::DRIVER != 0 {
                self.device.write_config(offset - CONFIG, data);
            }
            return;
        }
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(bytes);
        match offset {
            0x014 => self.device_features_sel = value,
            0x020 if self.status & status::FEATURES_OK == 0 => match self.driver_features_sel {
                0 => {
                    self.driver_features = self.driver_features >> 32 << 32 | u64::from(value);
                }
                1 => {
                    self.driver_features =
                        self.driver_features & 0xffff_ffff | u64::from(value) << 32;
                }
                _ => {}
            },
            0x024 => self.driver_features_sel = value,
            0x030 => self.queue_sel = value,
            QUEUE_NOTIFY => self.notify(value),
            0x064 => {
                self.interrupt.fetch_and(!value, Ordering::SeqCst);
            }
            0x070 => self.set_status(value),
            _ => self.set_up_queue(offset, value),
        }
    }

    fn notify(&self, queue: u32) {
        if !self.active {
            return;
        }
        let slot = usize::try_from(queue).ok().and_then(|i| self.slots.get(i));
        if let Some(slot) = slot {
            // Only a full counter fails, and then the device is awake.
            let _ = slot.kick.write(1);
        }
    }

    fn set_up_queue(&mut self, offset: u64, value: u32) {
        // A queue belongs to the device once it is active.
        if self.active || self.status & status::DRIVER == 0 {
            return;
        }
        let Some(slot) = self.selected() else { return };
        let mut queue = lock(&slot.queue);
        match offset {
            // A size that is no power of two or too large leaves the size as it
            // was; what the driver then sets up is refused when it is used.
            0x038 => queue.set_size(u16::try_from(value).unwrap_or(0)),
            0x044 => queue.set_ready(value == 1),
            0x080 => queue.set_desc_table_address(Some(value), None),
            0x084 => queue.set_desc_table_address(None, Some(value)),
            0x090 => queue.set_avail_ring_address(Some(value), None),
            0x094 => queue.set_avail_ring_address(None, Some(value)),
            0x0a0 => queue.set_used_ring_address(Some(value), None),
            0x0a4 => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let added = value & !self.status;
        if added & status::ACKNOWLEDGE != 0 {
            self.status |= status::ACKNOWLEDGE;
        }
        if added & status::DRIVER != 0 && self.status & status::ACKNOWLEDGE != 0 {
            self.status |= status::DRIVER;
        }
        if added & status::FAILED != 0 {
            self.status |= status::FAILED;
        }
        if added & status::FEATURES_OK != 0 && self.status & status::DRIVER != 0 {
            let understood = self.driver_features & !self.offered() == 0;
            if understood && self.driver_features & VERSION_1 != 0 {
                self.status |= status::FEATURES_OK;
            }
        }
        if added & status::DRIVER_OK != 0
            && self.status & (status::FEATURES_OK | status::NEEDS_RESET) == status::FEATURES_OK
        {
            self.status |= status::DRIVER_OK;
            self.activate();
        }
    }

    fn activate(&mut self) {
        let name = self.device.name();
        let queues_valid = self.slots.iter().all(|slot| {
            let mut queue = lock(&slot.queue);
            queue.set_event_idx(self.driver_features & EVENT_IDX != 0);
            !queue.ready() || queue.is_valid(&*self.mem)
        });
        if !queues_valid {
            tracing::warn!("{name}: the driver set up a queue outside of memory");
            self.need_reset();
            return;
        }
        if let Err(error) = self.hand_over() {
            tracing::error!("{name}: activation: {error}");
            self.need_reset();
        }
    }

    fn hand_over(&mut self) -> Result<(), DeviceError> {
        let irq = Irq::new(Arc::clone(&self.interrupt), self.line.clone());
        let queues = self
            .slots
            .iter()
            .map(|slot| {
                ActiveQueue::new(Arc::clone(&slot.queue), Arc::clone(&slot.kick), irq.clone())
            })
            .collect();
        self.device.activate(Activation {
            mem: Memory::clone(&self.mem),
            queues,
            features: self.driver_features,
        })?;
        self.active = true;
        Ok(())
    }

    fn need_reset(&mut self) {
        self.status |= status::NEEDS_RESET;
        let irq = Irq::new(Arc::clone(&self.interrupt), self.line.clone());
        if let Err(error) = irq.config() {
            tracing::warn!("{}: interrupt: {error}", self.device.name());
        }
    }

    fn reset(&mut self) {
        if self.active {
            self.device.reset();
        }
        for slot in &self.slots {
            lock(&slot.queue).reset();
            let _ = slot.kick.read();
        }
        self.interrupt.store(0, Ordering::SeqCst);
        self.status = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.active = false;
    }

    /// Everything there is to save. The machine is paused.
    pub fn save(&self) -> Result<TransportState, DeviceError> {
        Ok(TransportState {
            kind: self.device.device_type(),
            interrupt: self.interrupt.load(Ordering::SeqCst),
            status: self.status,
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            driver_features: self.driver_features,
            queue_sel: self.queue_sel,
            active: self.active,
            queues: self.slots.iter().map(|slot| lock(&slot.queue).state().into()).collect(),
            device: self.device.save()?,
        })
    }

    /// Makes a new transport what the saved one was. The machine is paused.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), DeviceError> {
        let device = self.device.name();
        let bad = |field| DeviceError::StateField { device, field };
        if state.kind != self.device.device_type() {
            return Err(bad("device type"));
        }
        if state.driver_features & !self.offered() != 0 {
            return Err(bad("features"));
        }
        if state.queues.len() != self.slots.len() {
            return Err(bad("number of queues"));
        }
        for (slot, saved) in self.slots.iter().zip(&state.queues) {
            let mut queue = lock(&slot.queue);
            if saved.max_size != queue.max_size() {
                return Err(bad("queue size"));
            }
            *queue = Queue::try_from(QueueState::from(*saved)).map_err(|_| bad("queue"))?;
            if state.active && saved.ready && !queue.is_valid(&*self.mem) {
                return Err(bad("queue address"));
            }
        }
        self.interrupt.store(state.interrupt, Ordering::SeqCst);
        self.status = state.status;
        self.device_features_sel = state.device_features_sel;
        self.driver_features_sel = state.driver_features_sel;
        self.driver_features = state.driver_features;
        self.queue_sel = state.queue_sel;
        self.device.restore(&state.device)?;
        if state.active {
            self.hand_over()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
