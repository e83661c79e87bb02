//! The merge itself.

use crate::{HullToml, Microvm, SizeError, parse_size};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The two walls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WallKind {
    /// Namespaces and cgroups on the host's kernel.
    Container,
    /// A kernel of its own on KVM.
    Microvm,
}

/// What the command line said.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--isolation`.
    pub isolation: Option<WallKind>,
}

/// All that the decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The command line.
    pub flags: &'a Flags,
    /// The name hull was called by.
    pub argv0: Option<&'a OsStr>,
    /// The bundle's configuration.
    pub config: &'a oci::Config,
    /// `hull.toml`, where there is one.
    pub file: Option<&'a HullToml>,
}

/// What chose a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--isolation`.
    Flag,
    /// An annotation.
    Annotation,
    /// The `vm` object of `config.json`.
    Vm,
    /// The name hull was called by.
    Argv0,
    /// `hull.toml`.
    File,
    /// Nothing did.
    Default,
}

/// The annotations that hull reads.
pub struct Annotation;

impl Annotation {
    /// `container` or `microvm`.
    pub const ISOLATION: &'static str = "run.hull.isolation";
    /// Number of virtual CPUs.
    pub const VCPUS: &'static str = "run.hull.vcpus";
    /// Guest memory, as in `512M`.
    pub const MEMORY: &'static str = "run.hull.memory";
    /// Path of a guest kernel.
    pub const KERNEL: &'static str = "run.hull.kernel";
    /// More of the kernel's command line, separated by white space.
    pub const KERNEL_PARAMETERS: &'static str = "run.hull.kernel_parameters";
    /// Path of an initial RAM disk.
    pub const INITRD: &'static str = "run.hull.initrd";
}

/// The size of a microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmSize {
    /// Virtual CPUs, 1 to [`crate::MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in bytes, a multiple of 2 MiB.
    pub memory: u64,
}

/// Which kernel a microVM boots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelChoice {
    /// A kernel of the user's own; otherwise the host's newest.
    pub path: Option<PathBuf>,
    /// More of its command line.
    pub parameters: Vec<String>,
    /// An initial RAM disk of the user's own; only with `path`.
    pub initrd: Option<PathBuf>,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which wall.
    pub wall: WallKind,
    /// What chose the wall.
    pub source: Source,
    /// The size, should it be a microVM.
    pub vm: VmSize,
    /// The kernel, should it be a microVM.
    pub kernel: KernelChoice,
    /// How long the guest may take until its agent answers.
    pub boot_timeout: Duration,
}

/// Why no decision could be made; each names what said the refused thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `hull.toml` is not what it should be.
    #[error("hull.toml: {message}")]
    File {
        /// What the parser says, with line and column.
        message: String,
    },
    /// A wall that does not exist.
    #[error("{field}: {value:?} is not an isolation (container and microvm are)")]
    Isolation {
        /// Who said so.
        field: &'static str,
        /// What.
        value: String,
    },
    /// A number of CPUs that a microVM cannot have.
    #[error("{field}: {value:?} is not a number of virtual CPUs (1 to {})", crate::MAX_VCPUS)]
    Vcpus {
        /// Who said so.
        field: &'static str,
        /// What.
        value: String,
    },
    /// Something that is no size.
    #[error("{field}: {source}")]
    Size {
        /// Who said so.
        field: &'static str,
        /// Why it is none.
        source: SizeError,
    },
    /// Memory that no guest comes up in.
    #[error(
        "{field}: {bytes} bytes of memory are too few for a microVM (at least {})",
        crate::MIN_MEMORY
    )]
    MemoryTooSmall {
        /// Who said so.
        field: &'static str,
        /// How many.
        bytes: u64,
    },
    /// Memory beyond what an address space holds.
    #[error(
        "{field}: {bytes} bytes of memory are too many for a microVM (at most {})",
        crate::MAX_MEMORY
    )]
    MemoryTooLarge {
        /// Who said so.
        field: &'static str,
        /// How many.
        bytes: u64,
    },
    /// A path that depends on where hull was started.
    #[error("{field}: {path:?} must be an absolute path")]
    NotAbsolute {
        /// Who said so.
        field: &'static str,
        /// What.
        path: PathBuf,
    },
    /// A file that only goes with another.
    #[error(
        "{field} needs a kernel path beside it: hull makes the initramfs of the host's kernels itself"
    )]
    InitrdWithoutKernel {
        /// Who said so.
        field: &'static str,
    },
    /// A field of the `vm` object that hull cannot honour.
    #[error("{field} is not supported: {why}")]
    Unsupported {
        /// Which.
        field: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A parameter of `vm.hypervisor.parameters` that hull does not know.
    #[error(
        "vm.hypervisor.parameters: {0:?} is not known (vcpus=N, memory=SIZE and boot_timeout=SECONDS are)"
    )]
    Parameter(String),
    /// A kernel parameter that hull sets itself, or that would end the command line.
    #[error("{field}: the kernel parameter {parameter:?} {why}")]
    KernelParameter {
        /// Who said so.
        field: &'static str,
        /// Which.
        parameter: String,
        /// Why not.
        why: &'static str,
    },
    /// A time that is none.
    #[error("{field}: {value:?} is not a number of seconds (1 to 3600)")]
    Timeout {
        /// Who said so.
        field: &'static str,
        /// What.
        value: String,
    },
}

impl FromStr for WallKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "container" => Ok(WallKind::Container),
            "microvm" => Ok(WallKind::Microvm),
            _ => Err(()),
        }
    }
}

impl fmt::Display for WallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            WallKind::Container => "container",
            WallKind::Microvm => "microvm",
        })
    }
}

/// Makes the decision.
pub fn decide(inputs: &Inputs<'_>) -> Result<Decision, Error> {
    let annotations = Annotations(inputs.config.spec.annotations().as_ref());
    let vm = inputs.config.vm.as_ref();
    let (wall, source) = wall(inputs, &annotations)?;
    if wall == WallKind::Container && vm.is_none() && !annotations.any() {
        // The common case pays for nothing of what only a microVM asks.
        return Ok(Decision {
            wall,
            source,
            vm: VmSize { vcpus: 1, memory: crate::DEFAULT_MEMORY },
            kernel: KernelChoice::default(),
            boot_timeout: crate::DEFAULT_BOOT_TIMEOUT,
        });
    }
    let parameters = HypervisorParameters::parse(vm)?;
    let file = inputs.file.map(|file| &file.microvm);
    if wall == WallKind::Microvm {
        refuse_unsupported(vm)?;
    }
    Ok(Decision {
        wall,
        source,
        vm: VmSize {
            vcpus: vcpus(inputs.config, &annotations, &parameters, file)?,
            memory: memory(inputs.config, &annotations, &parameters, file)?,
        },
        kernel: kernel(vm, &annotations, file)?,
        boot_timeout: boot_timeout(&parameters, file)?,
    })
}

fn wall(inputs: &Inputs<'_>, annotations: &Annotations<'_>) -> Result<(WallKind, Source), Error> {
    let annotated = annotations
        .get(Annotation::ISOLATION)
        .map(|value| {
            value.parse().map_err(|()| Error::Isolation {
                field: Annotation::ISOLATION,
                value: value.to_owned(),
            })
        })
        .transpose()?;
    if let Some(wall) = inputs.flags.isolation {
        return Ok((wall, Source::Flag));
    }
    if let Some(wall) = annotated {
        return Ok((wall, Source::Annotation));
    }
    if inputs.config.vm.is_some() {
        return Ok((WallKind::Microvm, Source::Vm));
    }
    if inputs.argv0.is_some_and(|name| Path::new(name).file_name() == Some(OsStr::new("hull-vm"))) {
        return Ok((WallKind::Microvm, Source::Argv0));
    }
    match inputs.file.and_then(|file| file.isolation) {
        Some(wall) => Ok((wall, Source::File)),
        None => Ok((WallKind::Container, Source::Default)),
    }
}

/// The annotations, which may be absent.
struct Annotations<'a>(Option<&'a std::collections::HashMap<String, String>>);

impl<'a> Annotations<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0?.get(name).map(String::as_str)
    }

    fn any(&self) -> bool {
        self.0.is_some_and(|all| all.keys().any(|key| key.starts_with("run.hull.")))
    }
}

/// What `vm.hypervisor.parameters` says.
#[derive(Default)]
struct HypervisorParameters<'a> {
    vcpus: Option<&'a str>,
    memory: Option<&'a str>,
    boot_timeout: Option<&'a str>,
}

const PARAMETERS: &str = "vm.hypervisor.parameters";

impl<'a> HypervisorParameters<'a> {
    fn parse(vm: Option<&'a oci::Vm>) -> Result<Self, Error> {
        let mut parsed = Self::default();
        let given = vm
            .and_then(|vm| vm.hypervisor.as_ref())
            .and_then(|hypervisor| hypervisor.parameters.as_deref());
        for parameter in given.unwrap_or_default() {
            match parameter.trim_start_matches('-').split_once('=') {
                Some(("vcpus", value)) => parsed.vcpus = Some(value),
                Some(("memory", value)) => parsed.memory = Some(value),
                Some(("boot_timeout", value)) => parsed.boot_timeout = Some(value),
                _ => return Err(Error::Parameter(parameter.clone())),
            }
        }
        Ok(parsed)
    }
}

fn refuse_unsupported(vm: Option<&oci::Vm>) -> Result<(), Error> {
    let Some(vm) = vm else { return Ok(()) };
    if let Some(hypervisor) = &vm.hypervisor {
        let name = hypervisor.path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if !name.starts_with("hull") {
            let why = "hull is its own virtual machine monitor (leave it out, or name hull)";
            return Err(Error::Unsupported { field: "vm.hypervisor.path", why });
        }
    }
    if vm.image.is_some() {
        let why = "the guest's root file system is the bundle's root.path";
        return Err(Error::Unsupported { field: "vm.image", why });
    }
    if let Some(hardware) = &vm.hw_config {
        let why = "there are no device trees on this architecture";
        if hardware.device_tree.is_some() {
            return Err(Error::Unsupported { field: "vm.hwConfig.deviceTree", why });
        }
        if hardware.dtdevs.as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(Error::Unsupported { field: "vm.hwConfig.dtdevs", why });
        }
        let why = "no device of the host is handed to a guest";
        if hardware.iomems.as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(Error::Unsupported { field: "vm.hwConfig.iomems", why });
        }
        if hardware.irqs.as_ref().is_some_and(|list| !list.is_empty()) {
            return Err(Error::Unsupported { field: "vm.hwConfig.irqs", why });
        }
    }
    Ok(())
}

fn vcpus(
    config: &oci::Config,
    annotations: &Annotations<'_>,
    parameters: &HypervisorParameters<'_>,
    file: Option<&Microvm>,
) -> Result<u8, Error> {
    let checked = |field, value: &str| match value.trim().parse::<u8>() {
        Ok(number) if (1..=crate::MAX_VCPUS).contains(&number) => Ok(number),
        _ => Err(Error::Vcpus { field, value: value.to_owned() }),
    };
    if let Some(value) = annotations.get(Annotation::VCPUS) {
        return checked(Annotation::VCPUS, value);
    }
    let hardware = config.vm.as_ref().and_then(|vm| vm.hw_config.as_ref());
    if let Some(value) = hardware.and_then(|hardware| hardware.vcpus) {
        return checked("vm.hwConfig.vcpus", &value.to_string());
    }
    if let Some(value) = parameters.vcpus {
        return checked(PARAMETERS, value);
    }
    if let Some(value) = file.and_then(|file| file.vcpus) {
        return checked("hull.toml: microvm.vcpus", &value.to_string());
    }
    let cpu = resources(config).and_then(|resources| resources.cpu().as_ref());
    let quota = cpu.and_then(|cpu| cpu.quota()).filter(|&quota| quota > 0);
    let period = cpu.and_then(|cpu| cpu.period()).filter(|&period| period > 0).unwrap_or(100_000);
    Ok(match quota {
        Some(quota) => (quota as u64).div_ceil(period).clamp(1, crate::MAX_VCPUS.into()) as u8,
        None => 1,
    })
}

fn memory(
    config: &oci::Config,
    annotations: &Annotations<'_>,
    parameters: &HypervisorParameters<'_>,
    file: Option<&Microvm>,
) -> Result<u64, Error> {
    let checked = |field, bytes: u64| match bytes {
        _ if bytes < crate::MIN_MEMORY => Err(Error::MemoryTooSmall { field, bytes }),
        _ if bytes > crate::MAX_MEMORY => Err(Error::MemoryTooLarge { field, bytes }),
        // Whole large pages: guest memory is mapped in them where the host has some.
        _ => Ok(bytes.next_multiple_of(2 << 20)),
    };
    let sized = |field, text: &str| {
        checked(field, parse_size(text).map_err(|source| Error::Size { field, source })?)
    };
    if let Some(text) = annotations.get(Annotation::MEMORY) {
        return sized(Annotation::MEMORY, text);
    }
    let hardware = config.vm.as_ref().and_then(|vm| vm.hw_config.as_ref());
    if let Some(bytes) = hardware.and_then(|hardware| hardware.memory) {
        return checked("vm.hwConfig.memory", bytes);
    }
    if let Some(text) = parameters.memory {
        return sized(PARAMETERS, text);
    }
    if let Some(text) = file.and_then(|file| file.memory.as_deref()) {
        return sized("hull.toml: microvm.memory", text);
    }
    let limit = resources(config)
        .and_then(|resources| resources.memory().as_ref())
        .and_then(|memory| memory.limit())
        .filter(|&limit| limit > 0);
    Ok(match limit {
        Some(limit) => (limit as u64)
            .saturating_add(crate::MEMORY_OVERHEAD)
            .clamp(crate::MIN_MEMORY, crate::MAX_MEMORY)
            .next_multiple_of(2 << 20),
        None => crate::DEFAULT_MEMORY,
    })
}

fn resources(config: &oci::Config) -> Option<&oci::spec::LinuxResources> {
    config.spec.linux().as_ref()?.resources().as_ref()
}

fn kernel(
    vm: Option<&oci::Vm>,
    annotations: &Annotations<'_>,
    file: Option<&Microvm>,
) -> Result<KernelChoice, Error> {
    let absolute = |field, path: PathBuf| {
        if path.is_absolute() { Ok(path) } else { Err(Error::NotAbsolute { field, path }) }
    };
    let object = vm.and_then(|vm| vm.kernel.as_ref());
    // Strongest first; an initial RAM disk goes with the kernel of its own source, or with a
    // kernel of a weaker one: never the other way round.
    let sources = [
        (
            Annotation::KERNEL,
            annotations.get(Annotation::KERNEL).map(PathBuf::from),
            Annotation::INITRD,
            annotations.get(Annotation::INITRD).map(PathBuf::from),
        ),
        (
            "vm.kernel.path",
            object.map(|kernel| kernel.path.clone()),
            "vm.kernel.initrd",
            object.and_then(|kernel| kernel.initrd.clone()),
        ),
        (
            "hull.toml: microvm.kernel",
            file.and_then(|file| file.kernel.clone()),
            "hull.toml: microvm.initrd",
            file.and_then(|file| file.initrd.clone()),
        ),
    ];
    let mut choice = KernelChoice::default();
    let mut initrd_field = "";
    for (kernel_field, path, field, initrd) in sources {
        if let Some(initrd) = initrd.filter(|_| choice.initrd.is_none()) {
            choice.initrd = Some(absolute(field, initrd)?);
            initrd_field = field;
        }
        if let Some(path) = path {
            choice.path = Some(absolute(kernel_field, path)?);
            break;
        }
    }
    if choice.initrd.is_some() && choice.path.is_none() {
        return Err(Error::InitrdWithoutKernel { field: initrd_field });
    }
    let (field, parameters) = if let Some(text) = annotations.get(Annotation::KERNEL_PARAMETERS) {
        let words = text.split_ascii_whitespace().map(str::to_owned).collect();
        (Annotation::KERNEL_PARAMETERS, words)
    } else if let Some(list) = object.and_then(|kernel| kernel.parameters.clone()) {
        ("vm.kernel.parameters", list)
    } else {
        let list = file.and_then(|file| file.kernel_parameters.clone()).unwrap_or_default();
        ("hull.toml: microvm.kernel_parameters", list)
    };
    for parameter in &parameters {
        check_parameter(field, parameter)?;
    }
    choice.parameters = parameters;
    Ok(choice)
}

fn check_parameter(field: &'static str, parameter: &str) -> Result<(), Error> {
    let name = parameter.split('=').next().unwrap_or_default().trim();
    let why = match name {
        "init" | "rdinit" => "would put another program in the agent's place",
        "virtio_mmio.device" => "would place a device that is not there",
        "--" => "would end the kernel's parameters",
        _ if parameter.bytes().any(|byte| byte < 0x20 || byte == 0x7f) => {
            "holds a control character"
        }
        _ => return Ok(()),
    };
    Err(Error::KernelParameter { field, parameter: parameter.to_owned(), why })
}

fn boot_timeout(
    parameters: &HypervisorParameters<'_>,
    file: Option<&Microvm>,
) -> Result<Duration, Error> {
    let checked = |field, value: &str| match value.trim().parse::<u64>() {
        Ok(seconds) if (1..=3600).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::Timeout { field, value: value.to_owned() }),
    };
    if let Some(value) = parameters.boot_timeout {
        return checked(PARAMETERS, value);
    }
    match file.and_then(|file| file.boot_timeout) {
        Some(value) => checked("hull.toml: microvm.boot_timeout", &value.to_string()),
        None => Ok(crate::DEFAULT_BOOT_TIMEOUT),
    }
}

#[cfg(test)]
mod tests;
