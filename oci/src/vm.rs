//! The `vm` object of `config.json` (config-vm.md).
//!
//! A reading of our own: oci-spec's lacks `hwConfig` and demands `kernel`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Configuration for a container in a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vm {
    /// The hypervisor that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<Hypervisor>,
    /// The guest's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// The guest's root image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// The guest's hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw_config: Option<HwConfig>,
}

/// `vm.hypervisor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hypervisor {
    /// Path of the hypervisor's binary.
    pub path: PathBuf,
    /// Parameters for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Vec<String>>,
}

/// `vm.kernel`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Path of the kernel.
    pub path: PathBuf,
    /// Its command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Vec<String>>,
    /// Path of an initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
}

/// `vm.image`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Path of the image.
    pub path: PathBuf,
    /// `raw`, `qcow2`, `vdi`, `vmdk` or `vhd`.
    pub format: String,
}

/// `vm.hwConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HwConfig {
    /// Path of a device tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<PathBuf>,
    /// How many virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Most memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Nodes of the host's device tree to hand on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtdevs: Option<Vec<String>>,
    /// I/O memory the guest may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iomems: Option<Vec<IoMems>>,
    /// Interrupts of the host the guest may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irqs: Option<Vec<u32>>,
}

/// One entry of `vm.hwConfig.iomems`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoMems {
    /// First guest frame.
    #[serde(rename = "firstGFN", default, skip_serializing_if = "Option::is_none")]
    pub first_gfn: Option<u64>,
    /// First machine frame.
    #[serde(rename = "firstMFN")]
    pub first_mfn: u64,
    /// How many frames.
    #[serde(rename = "nrMFNs")]
    pub nr_mfns: u64,
}
