//! The kernel's console: a 16550 (vm-superio) whose output goes into a
//! bounded ring. There is no input.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vm_superio::serial::NoEvents;
use vm_superio::{SerialState, Trigger};

use super::bus::lock;
use super::virtio::queue::Line;

/// How much of the log is kept.
const CAPACITY: usize = 64 << 10;

/// The last bytes of the guest kernel's log. Clones show the same log.
#[derive(Debug, Clone, Default)]
pub struct Console {
    ring: Arc<Mutex<Ring>>,
}

#[derive(Debug, Default)]
struct Ring {
    bytes: VecDeque<u8>,
    first: Option<Instant>,
    echo: bool,
}

impl Console {
    /// What is kept of the log, oldest first.
    pub fn tail(&self) -> Vec<u8> {
        let ring = lock(&self.ring);
        let (a, b) = ring.bytes.as_slices();
        [a, b].concat()
    }

    /// When the first byte came.
    pub fn first_byte(&self) -> Option<Instant> {
        lock(&self.ring).first
    }

    /// Copies everything to standard error as well.
    pub fn echo(&self) {
        lock(&self.ring).echo = true;
    }

    /// Whether `text` stands in what is kept.
    pub fn contains(&self, text: &[u8]) -> bool {
        memchr::memmem::find(&self.tail(), text).is_some()
    }

    fn push(&self, bytes: &[u8]) {
        let mut ring = lock(&self.ring);
        ring.first.get_or_insert_with(Instant::now);
        if ring.echo {
            let _ = io::Write::write_all(&mut io::stderr(), bytes);
        }
        for &byte in bytes {
            if ring.bytes.len() == CAPACITY {
                ring.bytes.pop_front();
            }
            ring.bytes.push_back(byte);
        }
    }
}

impl io::Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The registers of a saved port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedSerial {
    baud_divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

/// The port's interrupt. A line that cannot be raised loses output in user
/// space, never the kernel's log, which is polled.
#[derive(Debug)]
struct Interrupt(Line);

impl Trigger for Interrupt {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        let _ = self.0.pulse();
        Ok(())
    }
}

/// The serial port.
pub struct Serial {
    port: vm_superio::Serial<Interrupt, NoEvents, Console>,
}

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serial").finish_non_exhaustive()
    }
}

impl Serial {
    /// A port after reset.
    pub fn new(line: Line, console: Console) -> Serial {
        Serial { port: vm_superio::Serial::new(Interrupt(line), console) }
    }

    /// A register is written.
    pub fn write(&mut self, offset: u8, value: u8) {
        // The ring takes everything; only a broken line could fail.
        let _ = self.port.write(offset, value);
    }

    /// A register is read.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.port.read(offset)
    }

    /// The registers, for saving.
    pub fn save(&self) -> SavedSerial {
        let s = self.port.state();
        SavedSerial {
            baud_divisor: [s.baud_divisor_low, s.baud_divisor_high],
            interrupt_enable: s.interrupt_enable,
            interrupt_identification: s.interrupt_identification,
            line_control: s.line_control,
            line_status: s.line_status,
            modem_control: s.modem_control,
            modem_status: s.modem_status,
            scratch: s.scratch,
            in_buffer: s.in_buffer,
        }
    }

    /// A port as it was saved; `None` if it cannot have been.
    pub fn restore(state: &SavedSerial, line: Line, console: Console) -> Option<Serial> {
        let [baud_divisor_low, baud_divisor_high] = state.baud_divisor;
        let state = SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer.clone(),
        };
        let port =
            vm_superio::Serial::from_state(&state, Interrupt(line), NoEvents, console).ok()?;
        Some(Serial { port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_bytes() {
        let console = Console::default();
        console.push(&vec![b'x'; CAPACITY]);
        console.push(b"Kernel panic");
        let tail = console.tail();
        assert_eq!(tail.len(), CAPACITY);
        assert!(tail.ends_with(b"xKernel panic"));
        assert!(console.contains(b"panic"));
        assert!(console.first_byte().is_some());
    }

    #[test]
    fn what_the_guest_writes_is_in_the_log() {
        let console = Console::default();
        let mut serial = Serial::new(Line::none(), console.clone());
        for byte in b"hello" {
            serial.write(0, *byte);
        }
        assert_eq!(console.tail(), b"hello");
        // Transmitter empty.
        assert_eq!(serial.read(5) & 0x60, 0x60);
    }
}
