//! Loading, validating and saving the documents of the OCI runtime specification.

pub use oci_spec::runtime as spec;
