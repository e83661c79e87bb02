//! The devices of the machine, and the buses they hang on.

pub mod virtio;
