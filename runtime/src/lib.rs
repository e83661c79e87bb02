//! One OCI bundle, two walls: the runtime's command line and life cycle.

pub mod check;
pub mod container_wall;
pub mod error;
pub mod kernel;
mod ps;
pub mod wall;

pub use error::{Error, Result};
