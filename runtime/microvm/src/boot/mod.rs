//! What a directly booted Linux kernel finds when it starts: itself, its
//! initramfs and command line, the zero page (Documentation/arch/x86/boot.rst,
//! 64-bit protocol), and tables that describe the machine.
//!
//! Knows nothing of KVM.

pub mod acpi;
pub mod cmdline;
pub mod elf;
pub mod loading;
pub mod mptable;
pub mod pieces;
pub mod zero_page;

/// Guest physical addresses below 1 MiB that the boot uses.
pub mod layout {
    /// Global descriptor table.
    pub const GDT: u64 = 0x500;
    /// Interrupt descriptor table (empty).
    pub const IDT: u64 = 0x520;
    /// boot_params, the "zero page".
    pub const ZERO_PAGE: u64 = 0x7000;
    /// The first stack; grows down.
    pub const STACK: u64 = 0x8ff0;
    /// First of the page tables: one PML4, one PDPT, four page directories,
    /// which map the first 4 GiB to themselves.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// The command line.
    pub const CMDLINE: u64 = 0x2_0000;
    /// Bytes the command line may take with its final zero.
    pub const CMDLINE_SIZE: usize = 2048;
    /// The MP table, in the last KiB of base memory where kernels look for it.
    pub const MPTABLE: u64 = 0x9_fc00;
    /// End of what base memory offers as RAM.
    pub const BASE_MEMORY_END: u64 = 0x9_fc00;
    /// ACPI tables, RSDP first, in the BIOS area where kernels look for it.
    pub const ACPI: u64 = 0xe_0000;
    /// End of the ACPI area.
    pub const ACPI_END: u64 = 0x10_0000;
    /// Memory above 1 MiB, where kernels are loaded.
    pub const HIGH_MEMORY: u64 = 0x10_0000;
}
