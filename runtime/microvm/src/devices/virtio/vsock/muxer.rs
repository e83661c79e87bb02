//! The queues, and whose turn it is.
//!
//! Everything is under one lock, taken by the event loop, by the owner's
//! threads that connect, and by vCPU threads when the driver comes or goes.
//! Connections with something to send stand in a list and take turns packet
//! by packet.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Key, Owed};
use super::connector::{ConnectError, Queue};
use super::packet::{self, Buffer, HEADER, Header, TYPE_STREAM, op};
use super::{BUF_ALLOC, GUEST_CID, HOST_CID, MAX_CONNECTIONS};
use crate::devices::bus::lock;
use crate::devices::event_loop::{EventLoop, Handler, Token};
use crate::devices::virtio::ActiveQueue;
use crate::memory::Memory;

/// Tags of the queues in the event loop; connections have larger ones.
pub(super) const TAG_RX: u64 = 0;
pub(super) const TAG_TX: u64 = 1;
pub(super) const TAG_EVENT: u64 = 2;
const FIRST_TAG: u64 = 16;
/// Refusals to unknown connections that wait for room; more are dropped, as
/// the guest that earns them does not wait for them.
const MAX_RESETS: usize = 64;
/// Ports the host connects from begin here.
const FIRST_PORT: u32 = 1 << 30;
/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.
const EVENT_TRANSPORT_RESET: u32 = 0;

/// The device's state, shared by all who use it.
#[derive(Debug)]
pub(super) struct Shared {
    events: EventLoop,
    muxer: Mutex<Muxer>,
}

/// The queues, while the driver is there.
#[derive(Debug)]
pub(super) struct Queues {
    pub mem: Memory,
    pub rx: ActiveQueue,
    pub tx: ActiveQueue,
    pub event: ActiveQueue,
    pub tokens: Vec<(Token, i32)>,
}

#[derive(Debug, Default)]
struct Muxer {
    queues: Option<Arc<Queues>>,
    connections: HashMap<Key, Connection>,
    tags: HashMap<u64, Key>,
    next_tag: u64,
    next_port: u32,
    listeners: HashMap<u32, Arc<Queue>>,
    /// Connections with something to send, in order of their turns.
    turns: VecDeque<Key>,
    resets: VecDeque<Header>,
    paused: bool,
    closed: bool,
    /// The guest is to be told that all its connections are gone.
    reset_event: bool,
}

impl Shared {
    pub fn new(events: EventLoop) -> Shared {
        Shared {
            events,
            muxer: Mutex::new(Muxer {
                next_tag: FIRST_TAG,
                next_port: FIRST_PORT,
                ..Muxer::default()
            }),
        }
    }

    pub fn events(&self) -> &EventLoop {
        &self.events
    }

    /// The driver is there.
    pub fn activate(&self, queues: Queues) {
        let mut muxer = lock(&self.muxer);
        muxer.queues = Some(Arc::new(queues));
        muxer.serve();
    }

    /// The driver is gone, and all connections with it.
    pub fn reset(&self) -> Option<Arc<Queues>> {
        let mut muxer = lock(&self.muxer);
        muxer.drop_connections(&self.events);
        muxer.queues.take()
    }

    pub fn pause(&self) {
        lock(&self.muxer).paused = true;
    }

    pub fn resume(self: &Arc<Self>) {
        let mut muxer = lock(&self.muxer);
        muxer.paused = false;
        muxer.receive_all(self);
        muxer.serve();
    }

    /// After a restore the guest's connections lead nowhere.
    pub fn announce_reset(&self) {
        lock(&self.muxer).reset_event = true;
    }

    /// The machine is gone: who waits is told.
    pub fn close(self: &Arc<Self>) {
        let mut muxer = lock(&self.muxer);
        muxer.receive_all(self);
        muxer.closed = true;
        muxer.drop_connections(&self.events);
        for queue in muxer.listeners.values() {
            queue.close();
        }
    }

    pub fn listen(&self, port: u32, queue: Arc<Queue>) -> bool {
        let mut muxer = lock(&self.muxer);
        if muxer.closed {
            queue.close();
        }
        match muxer.listeners.entry(port) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(queue);
                true
            }
        }
    }

    pub fn unlisten(&self, port: u32) {
        lock(&self.muxer).listeners.remove(&port);
    }

    /// Asks the guest for a connection; `waiting` hears of the answer.
    pub fn connect(
        self: &Arc<Self>,
        port: u32,
        stream: UnixStream,
        waiting: SyncSender<bool>,
    ) -> Result<Key, ConnectError> {
        let mut muxer = lock(&self.muxer);
        if muxer.closed {
            return Err(ConnectError::Refused(port));
        }
        if muxer.connections.len() >= MAX_CONNECTIONS {
            return Err(ConnectError::TooMany(port));
        }
        let key = muxer.free_key(port);
        let mut connection = Connection::new(key, stream);
        connection.waiting = Some(waiting);
        connection.owed |= Owed::REQUEST;
        muxer.adopt(self, connection).map_err(|source| ConnectError::System {
            port,
            operation: "epoll_ctl",
            source,
        })?;
        muxer.take_turn(key);
        muxer.serve();
        Ok(key)
    }

    /// Nobody waits for this connection any more.
    pub fn forget(&self, key: Key) {
        let mut muxer = lock(&self.muxer);
        if let Some(connection) = muxer.remove(key, &self.events)
            && connection.owed.is_empty()
        {
            // The guest has heard of it.
            muxer.refuse(connection.header(op::RST));
            muxer.serve();
        }
    }

    fn handle(self: &Arc<Self>, tag: u64, events: EventSet) {
        let mut muxer = lock(&self.muxer);
        match tag {
            TAG_RX | TAG_EVENT => {
                if let Some(queues) = &muxer.queues {
                    let queue = if tag == TAG_RX { &queues.rx } else { &queues.event };
                    let _ = queue.kick().read();
                }
            }
            TAG_TX => {
                if let Some(queues) = &muxer.queues {
                    let _ = queues.tx.kick().read();
                }
                muxer.receive_all(self);
            }
            tag => muxer.socket_ready(self, tag, events),
        }
        muxer.serve();
    }
}

/// Puts the shared state into the event loop without making `Shared` itself
/// carry its own `Arc`.
#[derive(Debug)]
pub(super) struct Entry(pub Arc<Shared>);

impl Handler for Entry {
    fn ready(&self, tag: u64, events: EventSet) {
        self.0.handle(tag, events);
    }
}

impl Muxer {
    fn free_key(&mut self, guest: u32) -> Key {
        loop {
            let host = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            let key = Key { host, guest };
            if !self.connections.contains_key(&key) && !self.listeners.contains_key(&host) {
                return key;
            }
        }
    }

    fn adopt(&mut self, shared: &Arc<Shared>, mut connection: Connection) -> std::io::Result<()> {
        connection.stream.set_nonblocking(true)?;
        let tag = self.next_tag;
        self.next_tag += 1;
        let fd = connection.stream.as_raw_fd();
        let interest =
            EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        let entry = Arc::new(Entry(Arc::clone(shared)));
        connection.token = Some(shared.events.add(fd, interest, entry, tag)?);
        connection.tag = tag;
        self.tags.insert(tag, connection.key);
        self.connections.insert(connection.key, connection);
        Ok(())
    }

    fn remove(&mut self, key: Key, events: &EventLoop) -> Option<Connection> {
        let mut connection = self.connections.remove(&key)?;
        self.tags.remove(&connection.tag);
        if let Some(token) = connection.token.take() {
            events.remove(token, connection.stream.as_raw_fd());
        }
        connection.settle(false);
        Some(connection)
    }

    fn drop_connections(&mut self, events: &EventLoop) {
        let keys: Vec<Key> = self.connections.keys().copied().collect();
        for key in keys {
            self.remove(key, events);
        }
        self.turns.clear();
        self.resets.clear();
    }

    fn take_turn(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(&key)
            && !connection.listed
            && connection.has_work()
        {
            connection.listed = true;
            self.turns.push_back(key);
        }
    }

    fn refuse(&mut self, header: Header) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(header);
        }
    }

    fn socket_ready(&mut self, shared: &Shared, tag: u64, events: EventSet) {
        let Some(&key) = self.tags.get(&tag) else {
            return;
        };
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP) {
            connection.readable = true;
        }
        if events.contains(EventSet::OUT) {
            connection.drain();
        }
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            connection.hung_up();
        }
        if connection.finished() {
            self.end(key, shared);
        } else {
            self.take_turn(key);
        }
    }

    /// Handles all packets the guest has sent.
    fn receive_all(&mut self, shared: &Arc<Shared>) {
        let Some(queues) = self.queues.clone() else {
            return;
        };
        if self.paused || self.closed {
            return;
        }
        let mem: &GuestMemoryMmap = &queues.mem;
        let mut queue = queues.tx.lock();
        let mut used = false;
        loop {
            // A ring that cannot be written to is found out by add_used below.
            let _ = queue.disable_notification(mem);
            while let Some(chain) = queue.pop_descriptor_chain(mem) {
                let head = chain.head_index();
                match packet::read(chain, mem) {
                    Ok((header, data)) => self.receive(shared, mem, header, data),
                    Err(error) => tracing::warn!("virtio-vsock: packet dropped: {error}"),
                }
                if let Err(error) = queue.add_used(mem, head, 0) {
                    tracing::warn!("virtio-vsock: transmit queue: {error}");
                    return;
                }
                used = true;
            }
            match queue.enable_notification(mem) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!("virtio-vsock: transmit queue: {error}");
                    break;
                }
            }
        }
        if used && queue.needs_notification(mem).unwrap_or(true) {
            interrupt(&queues.tx);
        }
    }

    fn receive(
        &mut self,
        shared: &Arc<Shared>,
        mem: &GuestMemoryMmap,
        header: Header,
        data: Buffer,
    ) {
        if header.src_cid != GUEST_CID || header.dst_cid != HOST_CID {
            tracing::debug!("virtio-vsock: packet for {} dropped", header.dst_cid);
            return;
        }
        let key = Key { host: header.dst_port, guest: header.src_port };
        if header.kind != TYPE_STREAM {
            self.refuse_unknown(&header);
            return;
        }
        if header.op == op::REQUEST {
            self.requested(shared, key, &header);
            return;
        }
        let Some(connection) = self.connections.get_mut(&key) else {
            if header.op != op::RST {
                self.refuse_unknown(&header);
            }
            return;
        };
        connection.take_credit(&header);
        match header.op {
            op::RESPONSE => {
                if connection.waiting.is_some() && !connection.established {
                    connection.established = true;
                    connection.settle(true);
                }
            }
            op::RST => {
                self.remove(key, &shared.events);
                return;
            }
            op::SHUTDOWN => connection.guest_shut(header.flags),
            op::RW => {
                if let Err(violation) = connection.receive(mem, data) {
                    tracing::warn!("virtio-vsock: port {}: {violation}", key.host);
                    self.end(key, shared);
                    return;
                }
            }
            op::CREDIT_REQUEST => connection.owed |= Owed::CREDIT,
            op::CREDIT_UPDATE => {}
            other => {
                tracing::debug!("virtio-vsock: unknown operation {other}");
                self.end(key, shared);
                return;
            }
        }
        if connection.finished() {
            self.end(key, shared);
            return;
        }
        self.take_turn(key);
    }

    /// Ends a connection with a reset.
    fn end(&mut self, key: Key, shared: &Shared) {
        if let Some(connection) = self.remove(key, &shared.events) {
            self.refuse(connection.header(op::RST));
        }
    }

    fn refuse_unknown(&mut self, header: &Header) {
        self.refuse(Header {
            src_cid: HOST_CID,
            dst_cid: GUEST_CID,
            src_port: header.dst_port,
            dst_port: header.src_port,
            kind: header.kind,
            op: op::RST,
            ..Header::default()
        });
    }

    /// The guest wants a connection.
    fn requested(&mut self, shared: &Arc<Shared>, key: Key, header: &Header) {
        let room = self.connections.len() < MAX_CONNECTIONS && !self.connections.contains_key(&key);
        let listener =
            self.listeners.get(&key.host).filter(|queue| room && queue.has_room()).cloned();
        let Some(listener) = listener else {
            self.refuse_unknown(header);
            return;
        };
        let made = UnixStream::pair().and_then(|(ours, theirs)| {
            let mut connection = Connection::new(key, ours);
            connection.take_credit(header);
            connection.established = true;
            connection.owed |= Owed::RESPONSE;
            self.adopt(shared, connection)?;
            Ok(theirs)
        });
        match made {
            Ok(theirs) => {
                listener.push(theirs);
                self.take_turn(key);
            }
            Err(error) => {
                tracing::warn!("virtio-vsock: port {}: {error}", key.host);
                self.refuse_unknown(header);
            }
        }
    }

    /// Sends what there is to send, as long as the guest has buffers.
    fn serve(&mut self) {
        let Some(queues) = self.queues.clone() else {
            return;
        };
        if self.paused || self.closed {
            return;
        }
        if self.reset_event {
            self.send_reset_event(&queues);
        }
        if self.resets.is_empty() && self.turns.is_empty() {
            return;
        }
        let mem: &GuestMemoryMmap = &queues.mem;
        let mut queue = queues.rx.lock();
        let mut used = false;
        'send: loop {
            let _ = queue.disable_notification(mem);
            while !(self.resets.is_empty() && self.turns.is_empty()) {
                let Some(chain) = queue.pop_descriptor_chain(mem) else {
                    match queue.enable_notification(mem) {
                        // Buffers came meanwhile.
                        Ok(true) => continue 'send,
                        _ => break 'send,
                    }
                };
                let head = chain.head_index();
                let written = match Buffer::of(chain, mem, true) {
                    Ok(buffer) if buffer.len() >= HEADER => self.fill(mem, buffer),
                    Ok(buffer) => {
                        let error = packet::PacketError::TooShort(buffer.len());
                        tracing::warn!("virtio-vsock: receive buffer: {error}");
                        Some(0)
                    }
                    Err(error) => {
                        tracing::warn!("virtio-vsock: receive buffer: {error}");
                        Some(0)
                    }
                };
                let Some(written) = written else {
                    queue.go_to_previous_position();
                    continue;
                };
                if let Err(error) = queue.add_used(mem, head, written) {
                    tracing::warn!("virtio-vsock: receive queue: {error}");
                    return;
                }
                used = true;
            }
            break;
        }
        if used && queue.needs_notification(mem).unwrap_or(true) {
            interrupt(&queues.rx);
        }
    }

    /// Writes the next packet into `buffer`. `None`: whoever's turn it was has
    /// nothing to send after all.
    fn fill(&mut self, mem: &GuestMemoryMmap, buffer: Buffer) -> Option<u32> {
        if let Some(header) = self.resets.pop_front() {
            return buffer.write(mem, &header.bytes()).ok().map(|()| HEADER as u32);
        }
        let key = self.turns.pop_front()?;
        let connection = self.connections.get_mut(&key)?;
        connection.listed = false;
        let header = match connection.next_owed() {
            Some(header) => Some(header),
            None if connection.can_send_data() => {
                let mut data = buffer.clone();
                data.skip(HEADER);
                connection.fill(mem, data)
            }
            None => None,
        };
        self.take_turn(key);
        let header = header?;
        buffer.write(mem, &header.bytes()).ok()?;
        Some(HEADER as u32 + header.len)
    }

    fn send_reset_event(&mut self, queues: &Queues) {
        let mem: &GuestMemoryMmap = &queues.mem;
        let mut queue = queues.event.lock();
        let Some(chain) = queue.pop_descriptor_chain(mem) else {
            return;
        };
        self.reset_event = false;
        let head = chain.head_index();
        let event = EVENT_TRANSPORT_RESET.to_le_bytes();
        let written = Buffer::of(chain, mem, true)
            .and_then(|buffer| buffer.write(mem, &event))
            .map_or(0, |()| event.len() as u32);
        match queue.add_used(mem, head, written) {
            Ok(()) => interrupt(&queues.event),
            Err(error) => tracing::warn!("virtio-vsock: event queue: {error}"),
        }
    }
}

fn interrupt(queue: &ActiveQueue) {
    if let Err(error) = queue.irq().used() {
        tracing::warn!("virtio-vsock: interrupt: {error}");
    }
}

/// The credit given to the guest must fit the counters.
const _: () = assert!(BUF_ALLOC < 1 << 31);
