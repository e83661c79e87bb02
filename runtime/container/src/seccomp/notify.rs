//! Handing over the listener of a notifying filter.
//!
//! Source: "The Container Process State" of the runtime specification: the state as JSON, with the
//! descriptors it names as `SCM_RIGHTS` of the same message, over a stream socket.

use super::{Error, Filter, Result};
use serde::Serialize;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

#[derive(Serialize)]
struct ProcessState<'a, S> {
    #[serde(rename = "ociVersion")]
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a S,
}

/// Sends the listener with the container process state to the filter's `listenerPath`. `state` is the
/// container's state document, `oci_version` its version, `pid` the filtered process as the runtime sees it.
pub fn send_listener<S: Serialize>(
    filter: &Filter,
    listener: OwnedFd,
    oci_version: &str,
    state: &S,
    pid: i32,
) -> Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let path = filter
        .listener_path
        .as_deref()
        .ok_or_else(|| Error::field("listenerPath", "is missing, and SCMP_ACT_NOTIFY needs it"))?;
    let message = ProcessState {
        oci_version,
        fds: ["seccompFd"],
        pid,
        metadata: filter.listener_metadata.as_deref(),
        state,
    };
    let failed = |what: &str| {
        let operation = format!("{what} listenerPath {}", path.display());
        move |source| Error::Io { operation, source }
    };
    let json = serde_json::to_vec(&message)
        .map_err(|error| failed("describe the process for")(error.into()))?;
    let stream =
        UnixStream::connect(path).map_err(failed("failed to connect with seccomp agent at"))?;
    let fds = [listener.as_raw_fd()];
    let mut sent = 0;
    while sent < json.len() {
        let rights = [ControlMessage::ScmRights(&fds)];
        // The descriptor goes with the first bytes, once.
        let control: &[ControlMessage<'_>] = if sent == 0 { &rights } else { &[] };
        let parts = [IoSlice::new(&json[sent..])];
        match sendmsg::<()>(stream.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(count) => sent += count,
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(failed("send to")(errno.into())),
        }
    }
    Ok(())
}
