//! What the transport asks for.

use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::GUEST_CID;
use super::connector::Connector;
use super::muxer::{Entry, Queues, Shared, TAG_EVENT, TAG_RX, TAG_TX};
use crate::devices::event_loop::EventLoop;
use crate::devices::virtio::{Activation, Device, DeviceError};

const NAME: &str = "virtio-vsock";
const TYPE: u32 = 19;
/// Receive, transmit, event. The driver keeps the receive queue filled with
/// 4 KiB buffers: its size is guest memory.
const QUEUE_SIZES: [u16; 3] = [64, 64, 4];
/// VIRTIO_F_RING_EVENT_IDX.
const EVENT_IDX: u64 = 1 << 29;

/// The device.
#[derive(Debug)]
pub struct Vsock {
    shared: Arc<Shared>,
}

impl Vsock {
    /// A device served by `events`.
    pub fn new(events: EventLoop) -> Vsock {
        Vsock { shared: Arc::new(Shared::new(events)) }
    }

    /// The owner's side.
    pub fn connector(&self) -> Connector {
        Connector::new(Arc::clone(&self.shared))
    }
}

impl Device for Vsock {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn features(&self) -> u64 {
        EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = GUEST_CID.to_le_bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(rest) = config.get(start..) {
            let n = rest.len().min(data.len());
            data[..n].copy_from_slice(&rest[..n]);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let Ok([rx, tx, event]) = <[_; 3]>::try_from(activation.queues) else {
            return Ok(());
        };
        let mut tokens = Vec::with_capacity(3);
        for (queue, tag) in [(&rx, TAG_RX), (&tx, TAG_TX), (&event, TAG_EVENT)] {
            let fd = queue.kick_fd();
            let entry = Arc::new(Entry(Arc::clone(&self.shared)));
            let token =
                self.shared.events().add(fd, EventSet::IN, entry, tag).map_err(|source| {
                    DeviceError::System { device: NAME, operation: "epoll_ctl", source }
                })?;
            tokens.push((token, fd));
        }
        self.shared.activate(Queues { mem: activation.mem, rx, tx, event, tokens });
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(queues) = self.shared.reset() {
            for (token, fd) in &queues.tokens {
                self.shared.events().remove(*token, *fd);
            }
        }
    }

    fn pause(&mut self) -> Result<(), DeviceError> {
        // The loop is held; threads of the owner's that connect are held by this.
        self.shared.pause();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.shared.resume();
        Ok(())
    }

    fn save(&self) -> Result<serde_json::Value, DeviceError> {
        // Connections have no meaning in another process: they are reset.
        Ok(serde_json::Value::Null)
    }

    fn restore(&mut self, _state: &serde_json::Value) -> Result<(), DeviceError> {
        self.shared.pause();
        self.shared.announce_reset();
        Ok(())
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.reset();
        self.shared.close();
    }
}
