//! Loading, validating and saving the documents of the OCI runtime specification.
//!
//! Holds `config.json`, the state document, and the template that `spec` prints.
//! It knows what a document may say, never how anything is run. Follows
//! runtime-spec 1.3 (`config.md`, `config-linux.md`, `config-vm.md`, `runtime.md`).

mod error;
mod parse;
mod state;
mod template;
mod validate;
mod vm;

pub use error::{Error, Problem, words};
pub use oci_spec::runtime as spec;
pub use parse::{
    Config, load, load_trusted, load_with_text, parse, parse_process, parse_resources,
};
pub use state::{State, Status};
pub use template::{For, template};
pub use validate::{validate, validate_process};
pub use vm::{HwConfig, Hypervisor, Image, IoMems, Kernel, Vm};

/// The newest version of the runtime specification that is honoured.
pub const SPEC_VERSION: &str = "1.3.0";

/// The oldest version of the runtime specification that is honoured.
pub const SPEC_VERSION_MIN: &str = "1.0.0";
