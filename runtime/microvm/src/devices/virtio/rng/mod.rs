//! virtio-rng (virtio 1.2, section 5.4): the host's entropy for the guest.

mod device;

pub use device::Rng;
