//! The kernel's command line: what this machine is known not to have need not
//! be looked for, and what is known of it need not be measured.
//!
//! Source: Documentation/admin-guide/kernel-parameters.txt.

use super::layout;
use crate::memory::{VIRTIO_MMIO_BASE, VIRTIO_MMIO_STRIDE};

/// What every kernel is told.
///
/// * `reboot=t panic=-1`: the end is a triple fault, at once.
/// * `pci=off`, `pci_arch_init`: there is no bus to look for.
/// * `noreplace-smp`: a kernel that sees one processor would otherwise rewrite
///   thousands of its lock prefixes one by one, each through a mapping of its
///   own: four fifths of a whole boot where that costs exits.
/// * `no_timer_check tsc=reliable`: there is no PIT to measure against.
/// * `rcupdate.rcu_expedited=1`: namespaces and mounts come and go at once.
/// * `initcall_blacklist`: a keyboard controller that is waited for, a clock
///   chip beside kvm-clock, and an energy meter nobody may read.
/// * `loop.max_loop=0 brd.rd_nr=0`: loop devices are made when asked for.
const BASE: &str = "console=ttyS0 8250.nr_uarts=1 reboot=t panic=-1 pci=off noreplace-smp \
    no_timer_check tsc=reliable random.trust_cpu=on rcupdate.rcu_expedited=1 \
    initcall_blacklist=i8042_init,cmos_init,rapl_pmu_init,pci_arch_init loop.max_loop=0 brd.rd_nr=0 \
    cryptomgr.notests";

/// The command line cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CmdlineError {
    /// Longer than kernels read.
    #[error("kernel command line of {0} bytes: at most {max} fit", max = layout::CMDLINE_SIZE - 1)]
    TooLong(usize),
    /// Not printable ASCII.
    #[error("kernel command line: byte {0:#04x} cannot be part of it")]
    BadByte(u8),
}

/// What the command line is made from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// ACPI tables are to be used; otherwise the MP table and `virtio_mmio.device=`.
    pub acpi: bool,
    /// Everything is logged.
    pub debug: bool,
    /// Interrupts of the virtio devices, in order of their register blocks.
    pub devices: &'a [u32],
    /// The user's additions; they come last, so that they win.
    pub extra: &'a str,
}

/// Builds the command line.
pub fn build(inputs: &Inputs<'_>) -> Result<String, CmdlineError> {
    let mut line = String::from(BASE);
    line.push_str(if inputs.debug { " ignore_loglevel printk.time=1" } else { " quiet" });
    if !inputs.acpi {
        line.push_str(" acpi=off");
        for (index, irq) in inputs.devices.iter().enumerate() {
            let base = VIRTIO_MMIO_BASE + index as u64 * VIRTIO_MMIO_STRIDE;
            line.push_str(&format!(
                " virtio_mmio.device={:#x}@{base:#x}:{irq}",
                VIRTIO_MMIO_STRIDE
            ));
        }
    }
    let extra = inputs.extra.trim();
    if !extra.is_empty() {
        line.push(' ');
        line.push_str(extra);
    }
    if let Some(bad) = line.bytes().find(|b| !(b' '..=b'~').contains(b)) {
        return Err(CmdlineError::BadByte(bad));
    }
    if line.len() >= layout::CMDLINE_SIZE {
        return Err(CmdlineError::TooLong(line.len()));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_announced_only_without_acpi() {
        let mut inputs = Inputs { acpi: false, debug: false, devices: &[5, 6], extra: " a=b " };
        let line = build(&inputs).unwrap();
        assert!(line.contains("virtio_mmio.device=0x1000@0xd0000000:5"));
        assert!(line.contains("virtio_mmio.device=0x1000@0xd0001000:6"));
        assert!(line.ends_with(" a=b"));
        inputs.acpi = true;
        let line = build(&inputs).unwrap();
        assert!(!line.contains("virtio_mmio") && !line.contains("acpi=off"));
    }

    #[test]
    fn additions_that_do_not_fit_are_refused() {
        let with = |extra: &str| build(&Inputs { acpi: false, debug: false, devices: &[], extra });
        assert!(matches!(with(&"x".repeat(layout::CMDLINE_SIZE)), Err(CmdlineError::TooLong(_))));
        assert!(matches!(with("a\nb"), Err(CmdlineError::BadByte(b'\n'))));
        assert!(matches!(with("a\0b"), Err(CmdlineError::BadByte(0))));
    }
}
