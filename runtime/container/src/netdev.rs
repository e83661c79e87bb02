//! `linux.netDevices`: host network devices moved into the container's network namespace.
//!
//! A device loses its addresses when it changes its namespace; those of global scope that do not
//! expire are given back, and it is set up, as the specification says. Routes are not.
//!
//! Sources: "Network Devices" of the runtime specification, `rtnetlink(7)`, `netlink(7)`. The few
//! messages needed are laid out by hand.

use oci::spec::LinuxNetDevice;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A device could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A netlink exchange failed.
    #[error("linux.netDevices.{device}: {operation}: {source}")]
    Netlink {
        /// Name on the host.
        device: String,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A name that no interface can have.
    #[error("linux.netDevices.{device}: {name:?} is not the name of an interface")]
    Name {
        /// Name on the host.
        device: String,
        /// The wrong name.
        name: String,
    },
    /// Two devices for one name.
    #[error("linux.netDevices.{device}: the name {name:?} is taken in the container")]
    Taken {
        /// Name on the host.
        device: String,
        /// Name in the container.
        name: String,
    },
}

const IFNAMSIZ: usize = 16;

/// Checks names without touching anything; gives (host, container) names in a fixed order.
pub fn plan(devices: &HashMap<String, LinuxNetDevice>) -> Result<Vec<(String, String)>, Error> {
    let mut out: Vec<(String, String)> = devices
        .iter()
        .map(|(host, device)| {
            let inside = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(host);
            (host.clone(), inside.to_owned())
        })
        .collect();
    out.sort();
    for (at, (host, inside)) in out.iter().enumerate() {
        for name in [host, inside] {
            // The kernel's `dev_valid_name`; `%` would be taken as a pattern.
            let bad = name.is_empty()
                || name.len() >= IFNAMSIZ
                || name == "."
                || name == ".."
                || name.contains(|c: char| {
                    c == '/' || c == ':' || c == '%' || c == '\0' || c.is_whitespace()
                });
            if bad {
                return Err(Error::Name { device: host.clone(), name: name.clone() });
            }
        }
        if out[..at].iter().any(|(_, other)| other == inside) {
            return Err(Error::Taken { device: host.clone(), name: inside.clone() });
        }
    }
    Ok(out)
}

/// Moves every device into the network namespace `netns`, with its addresses, renamed as asked, and
/// sets it up. Called in the network namespace that the devices are in; the calling thread visits
/// `netns` and comes back.
pub fn move_all(
    devices: &HashMap<String, LinuxNetDevice>,
    netns: BorrowedFd<'_>,
) -> Result<(), Error> {
    let list = plan(devices)?;
    let Some((first, _)) = list.first() else { return Ok(()) };
    let failed = |device: &str, operation: &'static str| {
        let device = device.to_owned();
        move |source: io::Error| Error::Netlink { device, operation, source }
    };
    let mut here = Netlink::open().map_err(failed(first, "open netlink"))?;
    let mut there = in_namespace(netns, Netlink::open)
        .map_err(failed(first, "enter the container's network namespace"))?;
    for (host, inside) in list {
        let index = here.index(&host).map_err(failed(&host, "find the device"))?;
        if there.index(&inside).is_ok() {
            return Err(Error::Taken { device: host, name: inside });
        }
        let addresses = here.addresses(index).map_err(failed(&host, "read its addresses"))?;
        here.set_up(index, false).map_err(failed(&host, "set it down"))?;
        here.hand_over(index, &inside, netns).map_err(failed(&host, "move it"))?;
        let index = there.index(&inside).map_err(failed(&host, "find it in the container"))?;
        for address in addresses {
            there.add_address(index, &address).map_err(failed(&host, "give back an address"))?;
        }
        there.set_up(index, true).map_err(failed(&host, "set it up"))?;
    }
    Ok(())
}

/// Runs `action` with the calling thread in `netns`.
fn in_namespace<T>(netns: BorrowedFd<'_>, action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let home = std::fs::File::open("/proc/thread-self/ns/net")?;
    let enter = |fd: BorrowedFd<'_>| {
        nix::sched::setns(fd, nix::sched::CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
    };
    enter(netns)?;
    let result = action();
    // Going on in the wrong namespace would do harm silently.
    enter(home.as_fd())?;
    result
}

const NLMSG_HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IFADDR: usize = 8;
const IFA_F_PERMANENT: u32 = 0x80;

/// An address as the kernel gave it: what is sent back to get it again.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    /// `struct ifaddrmsg` without the index.
    head: [u8; 4],
    attributes: Vec<(u16, Vec<u8>)>,
}

struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

/// A request being written.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16) -> Request {
        let mut bytes = vec![0; NLMSG_HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        Request(bytes)
    }

    /// `struct ifinfomsg`.
    fn link(mut self, index: u32, flags: u32, change: u32) -> Request {
        self.0.extend([0; 4]);
        for word in [index, flags, change] {
            self.0.extend(word.to_ne_bytes());
        }
        self
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        self.0.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
        self
    }
}

impl Netlink {
    fn open() -> io::Result<Netlink> {
        // SAFETY: takes numbers only.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so this is a descriptor that nobody else owns.
        Ok(Netlink { fd: unsafe { OwnedFd::from_raw_fd(fd) }, sequence: 0 })
    }

    /// Sends a request and hands every message that answers it (kind, payload) to `take`.
    fn ask(&mut self, mut request: Request, mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence += 1;
        let bytes = &mut request.0;
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        // SAFETY: pointer and length are those of `bytes`.
        if unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            // SAFETY: pointer and length are those of `buffer`.
            let got = unsafe {
                libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            if got < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            for (kind, sequence, payload) in messages(&buffer[..got as usize]) {
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_ERROR => {
                        let errno = payload
                            .first_chunk()
                            .map_or(-libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes));
                        return if errno == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(-errno))
                        };
                    }
                    NLMSG_DONE => return Ok(()),
                    _ => take(kind, payload),
                }
            }
        }
    }

    fn index(&mut self, name: &str) -> io::Result<u32> {
        let mut found = None;
        let request = Request::new(libc::RTM_GETLINK, NLM_F_ACK)
            .link(0, 0, 0)
            .attribute(libc::IFLA_IFNAME, &c_name(name));
        self.ask(request, |_, payload| {
            found = payload
                .get(4..8)
                .and_then(|bytes| bytes.first_chunk())
                .map(|bytes| u32::from_ne_bytes(*bytes));
        })?;
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        let mut out = Vec::new();
        let mut request = Request::new(libc::RTM_GETADDR, NLM_F_DUMP);
        request.0.extend([0; IFADDR]);
        self.ask(request, |_, payload| out.extend(address(payload, index)))?;
        Ok(out)
    }

    fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let flag = libc::IFF_UP as u32;
        let request =
            Request::new(libc::RTM_NEWLINK, NLM_F_ACK).link(index, if up { flag } else { 0 }, flag);
        self.ask(request, |_, _| {})
    }

    fn hand_over(&mut self, index: u32, name: &str, netns: BorrowedFd<'_>) -> io::Result<()> {
        let request = Request::new(libc::RTM_NEWLINK, NLM_F_ACK)
            .link(index, 0, 0)
            .attribute(libc::IFLA_IFNAME, &c_name(name))
            .attribute(libc::IFLA_NET_NS_FD, &(netns.as_raw_fd() as u32).to_ne_bytes());
        self.ask(request, |_, _| {})
    }

    fn add_address(&mut self, index: u32, address: &Address) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE_EXCL);
        request.0.extend(address.head);
        request.0.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            request = request.attribute(*kind, value);
        }
        self.ask(request, |_, _| {})
    }
}

fn c_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// The messages of a datagram: kind, sequence number, payload.
fn messages(mut bytes: &[u8]) -> Vec<(u16, u32, &[u8])> {
    let mut out = Vec::new();
    while let Some(head) = bytes.first_chunk::<NLMSG_HEADER>() {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(payload) = bytes.get(NLMSG_HEADER..length) else { break };
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        out.push((kind, u32::from_ne_bytes([head[8], head[9], head[10], head[11]]), payload));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

/// The attributes of a message.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut out = Vec::new();
    while let Some(head) = bytes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let Some(value) = bytes.get(4..length) else { break };
        out.push((u16::from_ne_bytes([head[2], head[3]]), value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

/// An address of the device `index`, if it is one to keep.
fn address(payload: &[u8], index: u32) -> Option<Address> {
    let head = payload.first_chunk::<IFADDR>()?;
    let attributes = attributes(payload.get(IFADDR..)?);
    let [family, prefix, flags, scope] = [head[0], head[1], head[2], head[3]];
    let wide = attributes
        .iter()
        .find(|(kind, _)| *kind == libc::IFA_FLAGS)
        .and_then(|(_, value)| value.first_chunk());
    let flags = wide.map_or(u32::from(flags), |bytes| u32::from_ne_bytes(*bytes));
    let ours = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]) == index;
    let global = scope == libc::RT_SCOPE_UNIVERSE;
    if !ours || !global || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    // The label is the old device name, and the kernel makes its own cache information.
    let kept = [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST];
    let attributes = attributes
        .into_iter()
        .filter(|(kind, _)| kept.contains(kind))
        .map(|(kind, value)| (kind, value.to_vec()))
        .collect();
    Some(Address { head: [family, prefix, 0, scope], attributes })
}

/// Sets `lo` up in the network namespace of the caller, which has just been made: the kernel gives
/// it its addresses then (`netdevice(7)`).
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: makes a descriptor, touches no memory.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: an all-zero ifreq is a valid one without a name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: serde_json::Value) -> Result<Vec<(String, String)>, Error> {
        plan(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn names() {
        let got = of(json!({"eth1": {}, "eth0": {"name": "a"}})).unwrap();
        assert_eq!(got, [("eth0".into(), "a".into()), ("eth1".into(), "eth1".into())]);
        for wrong in [
            json!({"eth0": {"name": "a b"}}),
            json!({"eth0": {"name": "a/b"}}),
            json!({"0123456789abcdef": {}}),
            json!({"e%d": {}}),
        ] {
            assert!(matches!(of(wrong), Err(Error::Name { .. })));
        }
        assert!(matches!(
            of(json!({"eth0": {"name": "x"}, "eth1": {"name": "x"}})),
            Err(Error::Taken { .. })
        ));
    }

    #[test]
    fn only_lasting_global_addresses_are_kept() {
        let message = |index: u32, scope: u8, flags: u32| {
            let mut bytes = vec![libc::AF_INET as u8, 24, flags as u8, scope];
            bytes.extend(index.to_ne_bytes());
            Request(bytes)
                .attribute(libc::IFA_LOCAL, &[10, 0, 0, 1])
                .attribute(libc::IFA_LABEL, b"eth0\0")
                .attribute(libc::IFA_FLAGS, &flags.to_ne_bytes())
                .0
        };
        let kept = address(&message(7, 0, 0x80), 7).unwrap();
        assert_eq!(kept.head, [libc::AF_INET as u8, 24, 0, 0]);
        assert_eq!(kept.attributes, [(libc::IFA_LOCAL, vec![10, 0, 0, 1])]);
        assert_eq!(address(&message(8, 0, 0x80), 7), None);
        assert_eq!(address(&message(7, 253, 0x80), 7), None);
        assert_eq!(address(&message(7, 0, 0), 7), None);
        assert_eq!(address(&[0; 3], 7), None);
    }

    #[test]
    fn a_device_moves_with_its_address() {
        // SAFETY: takes nothing, always succeeds.
        if unsafe { libc::geteuid() } != 0 {
            return;
        }
        let run = |line: &str| {
            let mut words = line.split(' ');
            std::process::Command::new(words.next().unwrap()).args(words).output()
        };
        let (home, away) = (format!("hullnd{}", std::process::id() % 1000), "hullnd-peer");
        // In a network namespace of its own: nothing of the machine's is touched.
        let done = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let target = std::thread::spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                std::fs::File::open("/proc/thread-self/ns/net").unwrap()
            })
            .join()
            .unwrap();
            match run(&format!("ip link add {home} type veth peer name {away}")) {
                Ok(output) if output.status.success() => {}
                _ => return,
            }
            run(&format!("ip addr add 192.0.2.7/24 dev {home}")).unwrap();
            run(&format!("ip link set {home} up")).unwrap();
            let devices = HashMap::from([(
                home.clone(),
                serde_json::from_value(json!({"name": "inner0"})).unwrap(),
            )]);
            move_all(&devices, target.as_fd()).unwrap();
            assert!(matches!(move_all(&devices, target.as_fd()), Err(Error::Netlink { .. })));
            let shown = in_namespace(target.as_fd(), || run("ip addr show dev inner0")).unwrap();
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(shown.contains("192.0.2.7/24") && shown.contains("UP"), "{shown}");
        });
        done.join().unwrap();
    }
}
