//! The least ACPI a stock kernel needs (ACPI 6.5, hardware-reduced model):
//! processors and interrupt controller (MADT), the virtio devices and the
//! serial port (DSDT), power-off and reset (FADT). Everything a PC would have
//! beside that is said to be absent, so that it is not looked for.

use acpi_tables::aml;
use acpi_tables::{Aml, AmlSink};

use super::layout;
use super::mptable::checksum;
use crate::devices::ports;
use crate::memory::{IOAPIC_BASE, LAPIC_BASE, VIRTIO_MMIO_BASE, VIRTIO_MMIO_STRIDE};

/// The sleep type that `\_S5` names and the power-off port understands.
pub const SLEEP_TYPE_OFF: u8 = 5;

const HEADER: usize = 36;
/// Bytes of a FADT of revision 6.
const FADT_SIZE: usize = 276;

/// Flags of the FADT (table 5.10): write-back invalidate works, no power or
/// sleep button, reset register, hardware-reduced.
const FADT_FLAGS: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 20;
/// Boot architecture flags (table 5.11): no VGA, no MSI, no PCIe ASPM, no
/// CMOS clock; bit 1 (8042) clear: no keyboard controller.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5;

/// The tables do not fit where they belong.
#[derive(Debug, thiserror::Error)]
#[error("ACPI tables of {0} bytes do not fit")]
pub struct TooLarge(usize);

/// Builds all tables as one block, to be put at [`layout::ACPI`], where its
/// first bytes are the root pointer.
pub fn build(vcpus: u8, devices: &[u32]) -> Result<Vec<u8>, TooLarge> {
    let mut block = vec![0; 64];
    let dsdt = append(&mut block, dsdt(devices));
    let fadt = append(&mut block, fadt(dsdt));
    let madt = append(&mut block, madt(vcpus));
    let mut entries = Vec::new();
    entries.extend(fadt.to_le_bytes());
    entries.extend(madt.to_le_bytes());
    let xsdt = append(&mut block, table(b"XSDT", 1, &entries));

    let mut root = Vec::with_capacity(36);
    root.extend(b"RSD PTR \0HULL  \x02");
    root.extend([0; 4]);
    root.extend(36_u32.to_le_bytes());
    root.extend(xsdt.to_le_bytes());
    root.extend([0; 4]);
    root[8] = checksum(root[..20].iter());
    root[32] = checksum(root.iter());
    block[..36].copy_from_slice(&root);

    if block.len() as u64 > layout::ACPI_END - layout::ACPI {
        return Err(TooLarge(block.len()));
    }
    Ok(block)
}

fn append(block: &mut Vec<u8>, table: Vec<u8>) -> u64 {
    block.resize(block.len().next_multiple_of(16), 0);
    let at = layout::ACPI + block.len() as u64;
    block.extend(table);
    at
}

fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Vec::with_capacity(HEADER + body.len());
    table.extend(signature);
    table.extend(((HEADER + body.len()) as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(b"HULL  MICROVM ");
    table.extend(1_u32.to_le_bytes());
    table.extend(b"HULL");
    table.extend(1_u32.to_le_bytes());
    table.extend(body);
    table[9] = checksum(table.iter());
    table
}

fn madt(vcpus: u8) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(LAPIC_BASE.to_le_bytes());
    body.extend([0; 4]);
    for id in 0..vcpus {
        body.extend([0, 8, id, id, 1, 0, 0, 0]);
    }
    body.extend([1, 12, 0, 0]);
    body.extend(IOAPIC_BASE.to_le_bytes());
    body.extend([0; 4]);
    table(b"APIC", 6, &body)
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = vec![0; FADT_SIZE - HEADER];
    let mut put = |at: usize, bytes: &[u8]| {
        fadt[at - HEADER..at - HEADER + bytes.len()].copy_from_slice(bytes);
    };
    put(40, &(dsdt as u32).to_le_bytes());
    put(109, &BOOT_ARCH.to_le_bytes());
    put(112, &FADT_FLAGS.to_le_bytes());
    put(116, &io_register(ports::I8042_COMMAND));
    put(128, &[ports::I8042_RESET]);
    // Minor version of ACPI 6.5.
    put(131, &[5]);
    put(140, &dsdt.to_le_bytes());
    put(244, &io_register(ports::SLEEP_CONTROL));
    put(256, &io_register(ports::SLEEP_STATUS));
    put(268, b"HULL    ");
    table(b"FACP", 6, &fadt)
}

/// A generic address structure for one byte of I/O space.
fn io_register(port: u16) -> [u8; 12] {
    let mut register = [0; 12];
    register[..4].copy_from_slice(&[1, 8, 0, 1]);
    register[4..6].copy_from_slice(&port.to_le_bytes());
    register
}

/// One virtio device: its register block and its interrupt.
struct VirtioMmio {
    index: usize,
    irq: u32,
}

impl Aml for VirtioMmio {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let base = VIRTIO_MMIO_BASE + self.index as u64 * VIRTIO_MMIO_STRIDE;
        aml::Device::new(
            format!("V{:03}", self.index).as_str().into(),
            vec![
                &aml::Name::new("_HID".into(), &"LNRO0005"),
                &aml::Name::new("_UID".into(), &self.index),
                &aml::Name::new("_CCA".into(), &aml::ONE),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![
                        &aml::Memory32Fixed::new(true, base as u32, VIRTIO_MMIO_STRIDE as u32),
                        &aml::Interrupt::new(true, true, false, false, self.irq),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

fn dsdt(devices: &[u32]) -> Vec<u8> {
    let virtio: Vec<VirtioMmio> =
        devices.iter().enumerate().map(|(index, &irq)| VirtioMmio { index, irq }).collect();
    let serial_id = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501"));
    let serial_resources = aml::Name::new(
        "_CRS".into(),
        &aml::ResourceTemplate::new(vec![
            &aml::IO::new(ports::SERIAL, ports::SERIAL, 1, 8),
            &aml::Interrupt::new(true, true, false, false, ports::SERIAL_IRQ),
        ]),
    );
    let serial_uid = aml::Name::new("_UID".into(), &aml::ZERO);
    let serial = aml::Device::new("COM1".into(), vec![&serial_id, &serial_uid, &serial_resources]);
    let mut bus: Vec<&dyn Aml> = vec![&serial];
    bus.extend(virtio.iter().map(|device| device as &dyn Aml));

    let mut body = Vec::new();
    aml::Scope::new("\\_SB_".into(), bus).to_aml_bytes(&mut body);
    aml::Name::new("\\_S5_".into(), &aml::Package::new(vec![&SLEEP_TYPE_OFF, &0_u8, &0_u8, &0_u8]))
        .to_aml_bytes(&mut body);
    table(b"DSDT", 2, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table_at(block: &[u8], address: u64) -> &[u8] {
        let at = (address - layout::ACPI) as usize;
        let length = u32::from_le_bytes(block[at + 4..at + 8].try_into().unwrap()) as usize;
        &block[at..at + length]
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn every_table_is_reached_from_the_root_and_sums_to_zero() {
        let block = build(2, &[5, 6]).unwrap();
        assert_eq!(&block[..8], b"RSD PTR ");
        assert_eq!(checksum(block[..20].iter()), 0);
        assert_eq!(checksum(block[..36].iter()), 0);
        let xsdt = table_at(&block, u64_at(&block, 24));
        assert_eq!(&xsdt[..4], b"XSDT");
        let fadt = table_at(&block, u64_at(xsdt, 36));
        assert_eq!(&fadt[..4], b"FACP");
        assert_eq!(fadt.len(), FADT_SIZE);
        let madt = table_at(&block, u64_at(xsdt, 44));
        assert_eq!(&madt[..4], b"APIC");
        let dsdt = table_at(&block, u64_at(fadt, 140));
        assert_eq!(&dsdt[..4], b"DSDT");
        for table in [xsdt, fadt, madt, dsdt] {
            assert_eq!(checksum(table.iter()), 0);
        }
        let count = |what: &[u8]| dsdt.windows(what.len()).filter(|w| *w == what).count();
        assert_eq!(count(b"LNRO0005"), 2);
        assert_eq!(count(b"V001"), 1);
    }

    #[test]
    fn the_largest_machine_fits() {
        let devices: Vec<u32> = (5..24).collect();
        build(crate::config::MAX_VCPUS, &devices).unwrap();
    }
}
