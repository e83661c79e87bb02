//! A connection to a systemd manager: its private socket, else the message bus.
//!
//! Source: the D-Bus specification, "Authentication Protocol" and "Message Bus Messages".

use super::wire::{Call, Kind, Message, Writer, message_length, method_call};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const DESTINATION: &str = "org.freedesktop.systemd1";
/// systemd's own client gives a call 25 seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    Io(io::Error),
    /// The manager's answer: the error's name and text.
    Answer(String, String),
    /// What came is not D-Bus.
    Garbled,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Io(error) => error.fmt(f),
            Failure::Answer(name, text) => write!(f, "{text} ({name})"),
            Failure::Garbled => f.write_str("not a D-Bus message"),
        }
    }
}

pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// On a message bus the manager is one of many; on its own socket it has no name.
    destination: Option<&'static str>,
    /// Signals that came while an answer was waited for.
    signals: VecDeque<Message>,
}

impl Bus {
    /// Connects to the system's manager, or to the user's own.
    pub fn connect(user: bool) -> Result<Bus, Failure> {
        Bus::first_of(doors(user).into_iter().map(|door| {
            let stream = UnixStream::connect(&door.path);
            (door, stream)
        }))
    }

    /// The first connection that the manager is found behind.
    pub fn first_of(
        tried: impl Iterator<Item = (Door, io::Result<UnixStream>)>,
    ) -> Result<Bus, Failure> {
        let mut first = None;
        for (door, stream) in tried {
            match stream.map_err(Failure::Io).and_then(|stream| Bus::open(stream, door.destination))
            {
                Ok(bus) => return Ok(bus),
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        Err(first.unwrap_or_else(|| Failure::Io(io::Error::from_raw_os_error(libc::ENOENT))))
    }

    fn open(stream: UnixStream, destination: Option<&'static str>) -> Result<Bus, Failure> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut bus = Bus { stream, serial: 0, destination, signals: VecDeque::new() };
        bus.authenticate()?;
        if destination.is_some() {
            let call = |member, signature| Call {
                destination: Some("org.freedesktop.DBus"),
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member,
                signature,
            };
            bus.call(&call("Hello", ""), &Writer::default())?;
            let mut rule = Writer::default();
            rule.str(
                "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
            );
            bus.call(&call("AddMatch", "s"), &rule)?;
            bus.manager("Subscribe", "", &Writer::default())?;
        }
        Ok(bus)
    }

    /// The kernel tells the other end who we are; an empty identity says to take that.
    ///
    /// All of it is sent at once, and the first message only after the answer: systemd that finds a
    /// message behind `BEGIN` in one read does not look at it until more comes.
    fn authenticate(&mut self) -> Result<(), Failure> {
        self.stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        if self.line()? != "DATA" {
            return Err(Failure::Garbled);
        }
        if !self.line()?.starts_with("OK ") {
            return Err(Failure::Io(io::Error::from_raw_os_error(libc::EACCES)));
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut out = Vec::new();
        while !out.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            out.push(byte[0]);
            if out.len() > 1024 {
                return Err(Failure::Garbled);
            }
        }
        out.truncate(out.len() - 2);
        String::from_utf8(out).map_err(|_| Failure::Garbled)
    }

    fn receive(&mut self) -> Result<Message, Failure> {
        let mut head = [0u8; 16];
        self.stream.read_exact(&mut head)?;
        let length = message_length(&head).ok_or(Failure::Garbled)?;
        let mut bytes = head.to_vec();
        bytes.resize(length, 0);
        self.stream.read_exact(&mut bytes[16..])?;
        Message::parse(&bytes).ok_or(Failure::Garbled)
    }

    fn call(&mut self, call: &Call<'_>, body: &Writer) -> Result<Message, Failure> {
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&method_call(serial, call, body))?;
        loop {
            let mut message = self.receive()?;
            match message.kind {
                Kind::Return if message.reply_to == serial => return Ok(message),
                Kind::Error if message.reply_to == serial => {
                    let text = message.str().unwrap_or_default();
                    return Err(Failure::Answer(message.error, text));
                }
                Kind::Signal => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    /// Calls a method of the manager.
    pub fn manager(
        &mut self,
        member: &str,
        signature: &str,
        body: &Writer,
    ) -> Result<Message, Failure> {
        let destination = self.destination;
        let call = Call { destination, path: MANAGER_PATH, interface: MANAGER, member, signature };
        self.call(&call, body)
    }

    /// Reads a string property of a unit.
    pub fn unit_property(
        &mut self,
        unit: &str,
        interface: &str,
        name: &str,
    ) -> Result<String, Failure> {
        let mut body = Writer::default();
        body.str(unit);
        let mut answer = self.manager("GetUnit", "s", &body)?;
        let path = answer.str().ok_or(Failure::Garbled)?;
        let mut body = Writer::default();
        body.str(interface);
        body.str(name);
        let call = Call {
            destination: self.destination,
            path: &path,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            signature: "ss",
        };
        let mut answer = self.call(&call, &body)?;
        answer.variant_str().ok_or(Failure::Garbled)
    }

    /// Waits for the end of a job; gives its result (`done`, `failed`, …).
    pub fn wait_job(&mut self, job: &str) -> Result<String, Failure> {
        loop {
            let mut message = match self.signals.pop_front() {
                Some(message) => message,
                None => self.receive()?,
            };
            if message.kind != Kind::Signal || message.member != "JobRemoved" {
                continue;
            }
            let (_id, path, _unit, result) =
                (message.u32(), message.str(), message.str(), message.str());
            if path.as_deref() == Some(job) {
                return result.ok_or(Failure::Garbled);
            }
        }
    }
}

/// A socket by which the manager may be reached.
pub(super) struct Door {
    pub path: PathBuf,
    /// The manager's name there.
    destination: Option<&'static str>,
}

/// The manager's own socket, and the message bus.
pub(super) fn doors(user: bool) -> Vec<Door> {
    let (private, shared) = sockets(user);
    let private = private.map(|path| Door { path, destination: None });
    let shared = shared.map(|path| Door { path, destination: Some(DESTINATION) });
    private.into_iter().chain(shared).collect()
}

fn sockets(user: bool) -> (Option<PathBuf>, Option<PathBuf>) {
    if !user {
        return (Some("/run/systemd/private".into()), Some("/run/dbus/system_bus_socket".into()));
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let private = runtime.as_ref().map(|directory| directory.join("systemd/private"));
    let named = std::env::var("DBUS_SESSION_BUS_ADDRESS").ok().and_then(|address| {
        let path = address.split(';').find_map(|one| one.strip_prefix("unix:path="))?;
        path.split(',').next().map(PathBuf::from)
    });
    (private, named.or_else(|| runtime.map(|directory| directory.join("bus"))))
}
