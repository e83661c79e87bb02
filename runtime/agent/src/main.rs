//! `hull-agent`: PID 1 of the guest.
//!
//! It makes the guest a place where the `container` crate can work ([`setup`]), calls the host
//! ([`host`]), and then carries out what it is asked ([`session`]): one process, one thread, one
//! loop. Whatever goes wrong before the host can be told is written to the kernel's log, which
//! the monitor keeps, and the guest reboots: a monitor takes that for the end.

mod host;
mod process;
mod session;
mod setup;
mod table;

use std::convert::Infallible;

fn main() {
    // What PID 1 writes to stderr is lost on a quiet console.
    std::panic::set_hook(Box::new(|panic| setup::last_words(&panic.to_string())));
    let Err(error) = run();
    setup::last_words(&error.to_string());
}

fn run() -> Result<Infallible, Error> {
    setup::guest()?;
    Ok(session::Session::open()?.run()?)
}

/// Why the agent cannot go on.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The guest could not be set up.
    #[error(transparent)]
    Setup(#[from] setup::Error),
    /// The host could not be reached, or what it said not be understood.
    #[error(transparent)]
    Host(#[from] host::Error),
}
