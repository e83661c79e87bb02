//! One OCI bundle, two walls: the runtime's command line and life cycle.

pub mod check;
pub mod cli;
pub mod console;
pub mod container_wall;
pub mod error;
pub mod kernel;
pub mod lifecycle;
pub mod microvm_wall;
mod ps;
pub mod storage;
pub mod wall;

pub use error::{Error, Result};
