//! `linux.netDevices`: host network devices moved into the container's network namespace.
//!
//! Sources: "Network Devices" of the runtime specification, `rtnetlink(7)`.

use oci::spec::LinuxNetDevice;
use std::collections::HashMap;
use std::os::fd::BorrowedFd;

/// A device could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A netlink exchange failed.
    #[error("linux.netDevices.{device}: {operation}: {source}")]
    Netlink {
        /// Name on the host.
        device: String,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Moves every device into the network namespace `netns`, with its addresses, renamed as asked.
/// Called in the runtime's network namespace.
pub fn move_all(
    _devices: &HashMap<String, LinuxNetDevice>,
    _netns: BorrowedFd<'_>,
) -> Result<(), Error> {
    unimplemented!()
}
