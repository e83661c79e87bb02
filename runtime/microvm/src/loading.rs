//! Guest memory and kernel, made ready in a thread of their own while the
//! caller does everything else.

use std::fs::File;

use crate::config::{Config, InitrdPart};

/// A kernel on its way into guest memory.
#[derive(Debug)]
pub struct Loading;

impl Loading {
    /// Begins: maps the memory and reads kernel and initramfs into it.
    pub fn start(_kernel: File, _initrd: Vec<InitrdPart>, _config: &Config) -> Loading {
        unimplemented!()
    }
}
