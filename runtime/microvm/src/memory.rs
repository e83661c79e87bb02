//! Guest memory: plain private host memory, touched only when used.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

/// Guest memory as the devices see it; cheap to clone.
pub type Memory = Arc<GuestMemoryMmap>;
