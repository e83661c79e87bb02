//! One OCI bundle, two walls: the runtime's command line and life cycle.
