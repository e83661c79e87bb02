//! Loading, validating and saving the documents of the OCI runtime specification.
