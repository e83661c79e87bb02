//! One OCI bundle, two walls: the runtime's command line and life cycle.

pub mod check;
pub mod kernel;
