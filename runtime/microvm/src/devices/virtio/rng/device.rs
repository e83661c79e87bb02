//! The device: each buffer the driver offers is filled by getrandom(2).

use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;
use vm_memory::Bytes;
use vmm_sys_util::epoll::EventSet;

use crate::devices::bus::lock;
use crate::devices::event_loop::{EventLoop, Handler, Token};
use crate::devices::virtio::{Activation, ActiveQueue, Device, DeviceError};
use crate::memory::Memory;

const NAME: &str = "virtio-rng";
const TYPE: u32 = 4;
const QUEUE_SIZES: [u16; 1] = [16];
/// What one buffer gets at most; the driver asks for 64 bytes or so, and takes
/// less than it asked for.
const MOST: usize = 256;

/// The device.
#[derive(Debug)]
pub struct Rng {
    events: EventLoop,
    active: Option<(Arc<Active>, Token)>,
}

#[derive(Debug)]
struct Active {
    mem: Memory,
    queue: ActiveQueue,
    /// Taken away on reset: a late event finds nothing to do.
    live: Mutex<bool>,
}

impl Rng {
    /// A device served by `events`.
    pub fn new(events: EventLoop) -> Rng {
        Rng { events, active: None }
    }
}

impl Device for Rng {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
        let Some(queue) = activation.queues.pop() else {
            return Ok(());
        };
        let fd = queue.kick_fd();
        let active = Arc::new(Active { mem: activation.mem, queue, live: Mutex::new(true) });
        let token = self.events.add(fd, EventSet::IN, active.clone(), 0).map_err(|source| {
            DeviceError::System { device: NAME, operation: "epoll_ctl", source }
        })?;
        self.active = Some((active, token));
        Ok(())
    }

    fn reset(&mut self) {
        if let Some((active, token)) = self.active.take() {
            self.events.remove(token, active.queue.kick_fd());
            *lock(&active.live) = false;
        }
    }

    fn pause(&mut self) -> Result<(), DeviceError> {
        // The loop that serves it is held.
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        if let Some((active, _)) = &self.active {
            // Only a full counter fails, and then the loop is woken anyway.
            let _ = active.queue.kick().write(1);
        }
        Ok(())
    }

    fn save(&self) -> Result<serde_json::Value, DeviceError> {
        Ok(serde_json::Value::Null)
    }

    fn restore(&mut self, _state: &serde_json::Value) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl Handler for Active {
    fn ready(&self, _tag: u64, _events: EventSet) {
        let _ = self.queue.kick().read();
        let live = lock(&self.live);
        if *live {
            self.serve();
        }
    }
}

impl Active {
    fn serve(&self) {
        let mut queue = self.queue.lock();
        let mut used = false;
        while let Some(chain) = queue.pop_descriptor_chain(&*self.mem) {
            let head = chain.head_index();
            let mut filled = 0;
            for descriptor in chain.writable() {
                let mut bytes = [0; MOST];
                let len = (descriptor.len() as usize).min(MOST - filled as usize);
                let bytes = &mut bytes[..len];
                if len == 0 || !random(bytes) {
                    break;
                }
                if self.mem.write_slice(bytes, descriptor.addr()).is_err() {
                    tracing::warn!("{NAME}: the driver offers a buffer outside of memory");
                    break;
                }
                filled += len as u32;
            }
            if queue.add_used(&*self.mem, head, filled).is_err() {
                tracing::warn!("{NAME}: the used ring is out of memory or the index out of range");
                return;
            }
            used = true;
        }
        if used
            && queue.needs_notification(&*self.mem).unwrap_or(true)
            && let Err(error) = self.queue.irq().used()
        {
            tracing::warn!("{NAME}: interrupt: {error}");
        }
    }
}

fn random(bytes: &mut [u8]) -> bool {
    // SAFETY: the pointer and length are those of a slice this function may write.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    n == bytes.len() as isize
}
