//! PID 1 of the guest, and the link between it and the host.
