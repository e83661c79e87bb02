//! The device as the transport sees it: configuration space and life cycle.

use std::io;
use std::sync::Arc;

use fuse_backend_rs::api::server::Server;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;

use super::Config;
use super::inode::StateError;
use super::sys;
use super::tree::Tree;
use super::worker::{Failure, QUEUES, Worker};
use crate::devices::virtio::{Activation, Device, DeviceError};
use crate::jail::Jail;

/// Device type "file system device".
const TYPE_FS: u32 = 26;

/// Bytes of the tag in the configuration space.
const TAG_LEN: usize = 36;

/// The high priority queue (FORGET, INTERRUPT) and one request queue. The
/// guest cuts its requests to fit the latter: 1 MiB wants 256 pages and more.
const QUEUE_SIZES: [u16; QUEUES] = [128, 512];

/// The most descriptors a guest may make us hold, and what is left to the
/// rest of the process where it may have fewer.
const DESCRIPTORS_MAX: usize = 200_000;
const DESCRIPTORS_OTHER: usize = 256;

const NAME: &str = "virtio-fs";

/// A virtio-fs device.
#[derive(Debug)]
pub struct Fs {
    config_space: [u8; TAG_LEN + 4],
    tree: Arc<Tree>,
    worker: Option<Worker>,
}

fn system(operation: &'static str) -> impl FnOnce(io::Error) -> DeviceError {
    move |source| DeviceError::System { device: NAME, operation, source }
}

fn failed(failure: Failure) -> DeviceError {
    match failure {
        Failure::System(operation, source) => system(operation)(source),
        Failure::Jail(source) => DeviceError::Jail { device: NAME, source },
    }
}

impl Fs {
    /// A device for this tree. `/proc` must be there, for the last time.
    pub fn new(config: Config) -> Result<Fs, DeviceError> {
        let tag = config.tag.as_bytes();
        if tag.is_empty() || tag.len() > TAG_LEN || tag.contains(&0) {
            return Err(system("use the tag")(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let mut config_space = [0; TAG_LEN + 4];
        config_space[..tag.len()].copy_from_slice(tag);
        // num_request_queues
        config_space[TAG_LEN..].copy_from_slice(&1u32.to_le_bytes());
        let limit = sys::raise_file_limit().map_err(system("raise the limit of open files"))?;
        let descriptors = usize::try_from(limit).unwrap_or(usize::MAX).min(DESCRIPTORS_MAX);
        let tree = Tree::new(config.root, descriptors.saturating_sub(DESCRIPTORS_OTHER))
            .map_err(system("open the tree"))?;
        Ok(Fs { config_space, tree: Arc::new(tree), worker: None })
    }

    fn worker(&self) -> Result<&Worker, DeviceError> {
        self.worker.as_ref().ok_or_else(|| {
            system("use a device before its start")(io::Error::from_raw_os_error(libc::ENXIO))
        })
    }
}

impl Device for Fs {
    fn device_type(&self) -> u32 {
        TYPE_FS
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(space) = self.config_space.get(from..) {
            let n = space.len().min(data.len());
            data[..n].copy_from_slice(&space[..n]);
        }
    }

    fn start(&mut self, jail: &Jail) -> Result<(), DeviceError> {
        let server = Arc::new(Server::new(self.tree.clone()));
        let worker = Worker::spawn(self.tree.clone(), server, jail).map_err(failed)?;
        self.worker = Some(worker);
        Ok(())
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let event_idx = activation.features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        for queue in &activation.queues {
            queue.lock().set_event_idx(event_idx);
        }
        self.worker()?.serve(activation).map_err(failed)
    }

    fn reset(&mut self) {
        if let Some(worker) = &self.worker {
            // A worker that is gone serves nothing either.
            let _ = worker.idle();
        }
        self.tree.forget_all();
    }

    fn pause(&mut self) -> Result<(), DeviceError> {
        self.worker()?.pause().map_err(failed)
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        self.worker()?.resume().map_err(failed)
    }

    fn save(&self) -> Result<serde_json::Value, DeviceError> {
        let saved = self.tree.save().map_err(state_error)?;
        serde_json::to_value(saved).map_err(bad_state)
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), DeviceError> {
        let saved = serde_json::from_value(state.clone()).map_err(bad_state)?;
        self.tree.restore(saved).map_err(state_error)?;
        self.worker()?.pause().map_err(failed)
    }
}

fn bad_state(source: serde_json::Error) -> DeviceError {
    DeviceError::State { device: NAME, source }
}

fn state_error(error: StateError) -> DeviceError {
    let field = match error {
        StateError::NoPlace => "inode: a file in use has no name any more",
        StateError::Missing => "inode: a file in use is not in this tree",
        StateError::Kind => "inode: a file in use is of another kind in this tree",
        StateError::Malformed => "inode: contradicts itself",
    };
    DeviceError::StateField { device: NAME, field }
}
