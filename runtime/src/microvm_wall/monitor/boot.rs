//! How far a boot has come, and what to say when it goes no further.

use std::fmt;

/// The parts of a boot, in order; each is over when the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The kernel's image is read into guest memory.
    KernelLoading,
    /// The first vCPU enters the guest; nothing has been heard of it yet.
    FirstEntry,
    /// The kernel has written to its console.
    Kernel,
    /// The kernel has started the agent.
    Agent,
    /// The agent has called and sets the container up.
    ContainerSetup,
}

impl Phase {
    /// How far a guest has come that has not called yet, going by its console.
    pub fn of_console(console: &[u8]) -> Self {
        let says = |text: &[u8]| console.windows(text.len()).any(|window| window == text);
        if console.is_empty() {
            Self::FirstEntry
        } else if says(b"hull-agent:") || says(b"Run /init as init process") {
            Self::Agent
        } else {
            Self::Kernel
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KernelLoading => "kernel loading",
            Self::FirstEntry => "first entry",
            Self::Kernel => "kernel",
            Self::Agent => "agent",
            Self::ContainerSetup => "container set-up",
        })
    }
}

/// A microVM that did not come to be.
#[derive(Debug)]
pub struct Failure {
    /// In which part of the boot, if it was a boot by then.
    pub phase: Option<Phase>,
    /// What happened.
    pub cause: String,
    /// The console, where it may tell more.
    pub console: Vec<u8>,
}

impl Failure {
    /// Something on the host went wrong before there was a guest.
    pub fn host(cause: impl fmt::Display) -> Self {
        Self { phase: None, cause: cause.to_string(), console: Vec::new() }
    }

    /// A part of the boot went wrong.
    pub fn boot(phase: Phase, cause: impl fmt::Display) -> Self {
        Self { phase: Some(phase), cause: cause.to_string(), console: Vec::new() }
    }

    /// With what the guest's console showed.
    pub fn with_console(mut self, console: Vec<u8>) -> Self {
        self.console = console;
        self
    }
}

/// How many lines of the console an error shows.
const LINES: usize = 25;

/// The last lines of a console, made safe for a terminal: what a guest writes is not to move
/// the reader's cursor.
pub fn tail(console: &[u8]) -> String {
    let text = String::from_utf8_lossy(console);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut tail = String::new();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        tail.push_str("\n  | ");
        tail.extend(line.chars().filter(|c| !c.is_control()));
    }
    tail
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(phase) = self.phase {
            write!(f, "microVM: {phase}: ")?;
        }
        f.write_str(&self.cause)?;
        if !self.console.is_empty() {
            write!(f, "\nthe guest's console ended with:{}", tail(&self.console))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_tells_how_far_a_guest_came() {
        assert_eq!(Phase::of_console(b""), Phase::FirstEntry);
        assert_eq!(Phase::of_console(b"[0.0] Linux version"), Phase::Kernel);
        assert_eq!(Phase::of_console(b"..\nhull-agent: mount: no"), Phase::Agent);
    }

    #[test]
    fn a_failure_names_its_phase_and_shows_the_consoles_end() {
        let console = (0..100).map(|i| format!("line {i}\n")).collect::<String>();
        let failure = Failure::boot(Phase::Kernel, "no answer within 120 s")
            .with_console(console.into_bytes());
        let text = failure.to_string();
        assert!(text.starts_with("microVM: kernel: no answer"), "{text}");
        assert!(text.ends_with("| line 99") && !text.contains("line 74\n"), "{text}");
    }

    #[test]
    fn a_console_cannot_write_escapes_to_the_readers_terminal() {
        assert_eq!(tail(b"\x1b[2Jboo\r\n"), "\n  | [2Jboo");
    }
}
