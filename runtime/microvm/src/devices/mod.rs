//! The devices of the machine, and the bus they hang on.

pub mod bus;
pub mod cmos;
pub mod event_loop;
pub mod serial;
pub mod virtio;

/// I/O ports and interrupts that are not virtio's.
pub mod ports {
    /// The serial port.
    pub const SERIAL: u16 = 0x3f8;
    /// Its interrupt.
    pub const SERIAL_IRQ: u32 = 4;
    /// The clock chip: index, then data.
    pub const CMOS: u16 = 0x70;
    /// The keyboard controller's data.
    pub const I8042_DATA: u16 = 0x60;
    /// The keyboard controller's command port.
    pub const I8042_COMMAND: u16 = 0x64;
    /// The command that resets the machine.
    pub const I8042_RESET: u8 = 0xfe;
    /// System control port B: timer gate and speaker.
    pub const SYSTEM_B: u16 = 0x61;
    /// ACPI sleep control register: written to power off.
    pub const SLEEP_CONTROL: u16 = 0x600;
    /// ACPI sleep status register.
    pub const SLEEP_STATUS: u16 = 0x601;
}
