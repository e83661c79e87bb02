//! PID 1 of the guest, and the link between it and the host.
//!
//! The library half is what both ends share: [`link`] is the message set, [`pump`]
//! carries a stream between two descriptors. The binary half is the agent itself.

pub mod link;
pub mod pump;
