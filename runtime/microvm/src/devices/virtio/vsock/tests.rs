//! A driver made by hand, well behaved and not.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::packet::{HEADER, Header, TYPE_STREAM, op, shutdown};
use super::{BUF_ALLOC, Connector, GUEST_CID, HOST_CID, Vsock};
use crate::devices::event_loop::EventLoop;
use crate::devices::virtio::{Activation, ActiveQueue, Device, Irq};
use crate::jail::Jail;
use crate::memory::{self, Memory};

const QUEUE_SIZE: u16 = 64;
const BUFFER: u32 = 4096;
/// The guest's port in these tests.
const GUEST_PORT: u32 = 77;
const HOST_PORT: u32 = 9;

/// One virtqueue, from the driver's side: a ring at `base`, one buffer of
/// 4 KiB for each descriptor behind it.
struct Ring {
    mem: Memory,
    base: u64,
    next: u16,
    seen: u16,
    queue: ActiveQueue,
}

impl Ring {
    fn new(mem: &Memory, base: u64, line: &Arc<EventFd>) -> Ring {
        let mut queue = Queue::new(QUEUE_SIZE).unwrap();
        queue.try_set_desc_table_address(GuestAddress(base)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(base + 0x1000)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(base + 0x2000)).unwrap();
        queue.set_ready(true);
        let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let irq = Irq::new(Arc::default(), Arc::clone(line));
        Ring {
            mem: mem.clone(),
            base,
            next: 0,
            seen: 0,
            queue: ActiveQueue::new(Arc::new(std::sync::Mutex::new(queue)), Arc::new(kick), irq),
        }
    }

    fn buffer(&self, index: u16) -> u64 {
        self.base + 0x1_0000 + u64::from(index % QUEUE_SIZE) * u64::from(BUFFER)
    }

    /// Offers one descriptor.
    fn offer(&mut self, address: u64, len: u32, flags: u16) {
        let slot = self.next % QUEUE_SIZE;
        let at = self.base + u64::from(slot) * 16;
        self.mem.write_obj(address, GuestAddress(at)).unwrap();
        self.mem.write_obj(len, GuestAddress(at + 8)).unwrap();
        self.mem.write_obj(u32::from(flags), GuestAddress(at + 12)).unwrap();
        let entry = self.base + 0x1004 + u64::from(slot) * 2;
        self.mem.write_obj(slot, GuestAddress(entry)).unwrap();
        self.next = self.next.wrapping_add(1);
        self.mem.write_obj(self.next, GuestAddress(self.base + 0x1002)).unwrap();
    }

    fn kick(&self) {
        self.queue.kick().write(1).unwrap();
    }

    /// Head and length of the next used element.
    fn used(&mut self) -> Option<(u32, u32)> {
        for _ in 0..400 {
            let index: u16 = self.mem.read_obj(GuestAddress(self.base + 0x2002)).unwrap();
            if index != self.seen {
                let at = self.base + 0x2004 + u64::from(self.seen % QUEUE_SIZE) * 8;
                self.seen = self.seen.wrapping_add(1);
                let head = self.mem.read_obj(GuestAddress(at)).unwrap();
                return Some((head, self.mem.read_obj(GuestAddress(at + 4)).unwrap()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

/// A device with a driver of our own.
struct Bench {
    vsock: Vsock,
    events: EventLoop,
    rx: Ring,
    tx: Ring,
}

impl Bench {
    fn new() -> Bench {
        let mem = memory::map(memory::MIN_MEMORY).unwrap();
        let line = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let events = EventLoop::new().unwrap();
        let mut vsock = Vsock::new(events.clone());
        let mut rx = Ring::new(&mem, 0x10_0000, &line);
        let tx = Ring::new(&mem, 0x20_0000, &line);
        let event = Ring::new(&mem, 0x30_0000, &line);
        for index in 0..QUEUE_SIZE {
            rx.offer(rx.buffer(index), BUFFER, 2);
        }
        vsock
            .activate(Activation {
                mem,
                queues: vec![rx.queue.clone(), tx.queue.clone(), event.queue],
                features: 0,
            })
            .unwrap();
        events.start(&Jail::none()).unwrap();
        Bench { vsock, events, rx, tx }
    }

    fn connector(&self) -> Connector {
        self.vsock.connector()
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let at = self.tx.buffer(self.tx.next);
        self.tx.mem.write_slice(&header.bytes(), GuestAddress(at)).unwrap();
        self.tx.mem.write_slice(data, GuestAddress(at + HEADER as u64)).unwrap();
        self.tx.offer(at, (HEADER + data.len()) as u32, 0);
        self.tx.kick();
        assert!(self.tx.used().is_some(), "the device does not answer");
    }

    /// The next packet the device sends, its buffer given back.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, len) = self.rx.used()?;
        let at = self.rx.buffer(head as u16);
        let mut bytes = vec![0; len as usize];
        self.rx.mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        let header = Header::parse(bytes[..HEADER].try_into().unwrap());
        self.rx.offer(at, BUFFER, 2);
        self.rx.kick();
        Some((header, bytes[HEADER..].to_vec()))
    }

    fn expect(&mut self, wanted: u16) -> Header {
        let (header, _) = self.receive().expect("no packet");
        assert_eq!(header.op, wanted, "{header:?}");
        header
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.events.stop();
    }
}

fn packet(op: u16, len: u32) -> Header {
    Header {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        src_port: GUEST_PORT,
        dst_port: HOST_PORT,
        kind: TYPE_STREAM,
        op,
        len,
        buf_alloc: 1 << 16,
        ..Header::default()
    }
}

#[test]
fn data_flows_both_ways_and_ends_one_way_at_a_time() {
    let mut bench = Bench::new();
    let listener = bench.connector().listen(HOST_PORT).unwrap();
    bench.send(packet(op::REQUEST, 0), b"");
    let header = bench.expect(op::RESPONSE);
    assert_eq!((header.src_port, header.dst_port), (HOST_PORT, GUEST_PORT));
    assert_eq!(header.buf_alloc, BUF_ALLOC);
    let mut stream = listener.accept().unwrap();

    bench.send(packet(op::RW, 5), b"guest");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"guest");

    stream.write_all(b"host").unwrap();
    let (header, data) = bench.receive().unwrap();
    assert_eq!((header.op, header.fwd_cnt, data.as_slice()), (op::RW, 5, &b"host"[..]));

    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.expect(op::SHUTDOWN).flags, shutdown::SEND);

    bench.send(packet(op::RW, 4), b"last");
    let mut end = packet(op::SHUTDOWN, 0);
    end.flags = shutdown::BOTH;
    bench.send(end, b"");
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last");
    bench.expect(op::RST);
}

#[test]
fn a_reader_that_left_is_told_without_losing_the_other_way() {
    let mut bench = Bench::new();
    let listener = bench.connector().listen(HOST_PORT).unwrap();
    bench.send(packet(op::REQUEST, 0), b"");
    bench.expect(op::RESPONSE);
    let mut stream = listener.accept().unwrap();
    stream.shutdown(Shutdown::Read).unwrap();
    bench.send(packet(op::RW, 4), b"lost");
    assert_eq!(bench.expect(op::SHUTDOWN).flags, shutdown::RECEIVE);
    stream.write_all(b"still").unwrap();
    assert_eq!(bench.receive().unwrap().1, b"still");
}

#[test]
fn the_host_connects_and_is_refused_or_accepted() {
    let mut bench = Bench::new();
    for (answer, granted) in [(op::RST, false), (op::RESPONSE, true)] {
        let connector = bench.connector();
        let waiting = std::thread::spawn(move || connector.connect(GUEST_PORT));
        let request = bench.expect(op::REQUEST);
        let mut header = packet(answer, 0);
        header.dst_port = request.src_port;
        bench.send(header, b"");
        assert_eq!(waiting.join().unwrap().is_ok(), granted);
    }
}

#[test]
fn no_more_is_sent_than_the_guest_has_room_for() {
    let mut bench = Bench::new();
    let listener = bench.connector().listen(HOST_PORT).unwrap();
    let mut request = packet(op::REQUEST, 0);
    request.buf_alloc = 10;
    bench.send(request, b"");
    bench.expect(op::RESPONSE);
    let mut stream = listener.accept().unwrap();
    stream.write_all(&[1; 25]).unwrap();
    assert_eq!(bench.receive().unwrap().1.len(), 10);
    assert!(bench.receive().is_none());
    let mut update = packet(op::CREDIT_UPDATE, 0);
    update.buf_alloc = 10;
    update.fwd_cnt = 10;
    bench.send(update, b"");
    assert_eq!(bench.receive().unwrap().1.len(), 10);
    // A guest that claims to have taken what it was never sent gets nothing.
    update.fwd_cnt = 4000;
    bench.send(update, b"");
    assert!(bench.receive().is_none());
}

#[test]
fn what_nobody_reads_is_kept_up_to_the_credit_and_no_further() {
    let mut bench = Bench::new();
    let listener = bench.connector().listen(HOST_PORT).unwrap();
    bench.send(packet(op::REQUEST, 0), b"");
    bench.expect(op::RESPONSE);
    let mut stream = listener.accept().unwrap();
    let data = vec![3; 4000];
    // The socket takes some; then the guest sends on although it may not.
    let mut sent = 0;
    let refused = loop {
        bench.send(packet(op::RW, 4000), &data);
        sent += 1;
        let index: u16 = bench.rx.mem.read_obj(GuestAddress(bench.rx.base + 0x2002)).unwrap();
        if index != bench.rx.seen {
            let (header, _) = bench.receive().unwrap();
            if header.op == op::RST {
                break sent;
            }
        }
        assert!(sent < 1000, "the device takes without end");
    };
    assert!(refused > 64);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(all.iter().all(|b| *b == 3));
}

#[test]
fn packets_that_make_no_sense_do_no_harm() {
    let mut bench = Bench::new();
    let listener = bench.connector().listen(HOST_PORT).unwrap();
    // To nobody, from somebody else, of another type, without a connection.
    let mut stray = packet(op::RW, 0);
    stray.dst_cid = 42;
    bench.send(stray, b"");
    let mut forged = packet(op::RW, 0);
    forged.src_cid = 42;
    bench.send(forged, b"");
    let mut kind = packet(op::REQUEST, 0);
    kind.kind = 2;
    bench.send(kind, b"");
    bench.expect(op::RST);
    bench.send(packet(op::RW, 3), b"abc");
    bench.expect(op::RST);
    bench.send(packet(op::RST, 0), b"");
    bench.send(packet(op::RESPONSE, 0), b"");
    bench.expect(op::RST);
    let mut nobody = packet(op::REQUEST, 0);
    nobody.dst_port = 10;
    bench.send(nobody, b"");
    bench.expect(op::RST);

    // Lengths and addresses that lie.
    bench.send(packet(op::RW, u32::MAX), b"");
    bench.send(packet(op::RW, 4000), b"short");
    let at = bench.tx.buffer(0);
    for (address, len) in [(at, 10), (at, 0), (1 << 40, 44), (u64::MAX - 8, 44), (at, u32::MAX)] {
        bench.tx.offer(address, len, 0);
        bench.tx.kick();
        bench.tx.used().expect("a bad buffer must come back");
    }
    // A chain that goes in a circle.
    bench.tx.offer(at, 44, 1);
    bench.tx.kick();
    bench.tx.used().expect("a circle must come back");

    // It still works.
    bench.send(packet(op::REQUEST, 0), b"");
    bench.expect(op::RESPONSE);
    let _stream = listener.accept().unwrap();
    // The same connection twice, and an unknown operation.
    bench.send(packet(op::REQUEST, 0), b"");
    bench.expect(op::RST);
    bench.send(packet(99, 0), b"");
    bench.expect(op::RST);
}

#[test]
fn receive_buffers_that_are_useless_are_given_back() {
    let mut bench = Bench::new();
    let listener = bench.connector().listen(HOST_PORT).unwrap();
    bench.send(packet(op::REQUEST, 0), b"");
    bench.expect(op::RESPONSE);
    let mut stream = listener.accept().unwrap();
    // The good buffers are used up; what follows is too short or not memory.
    for _ in 0..QUEUE_SIZE {
        stream.write_all(&[1; 16]).unwrap();
        bench.rx.used().unwrap();
    }
    stream.write_all(b"x").unwrap();
    for (address, len) in [(0x5_0000, 8), (1 << 40, BUFFER), (0x5_0000, 0)] {
        bench.rx.offer(address, len, 2);
        bench.rx.kick();
        assert_eq!(bench.rx.used().unwrap().1, 0);
    }
    bench.rx.offer(bench.rx.buffer(0), BUFFER, 2);
    bench.rx.kick();
    assert_eq!(bench.rx.used().unwrap().1, HEADER as u32 + 1);
}

#[test]
fn a_reset_ends_connections_and_the_end_is_told_to_listeners() {
    let mut bench = Bench::new();
    let connector = bench.connector();
    let listener = connector.listen(HOST_PORT).unwrap();
    assert!(connector.listen(HOST_PORT).is_err());
    bench.send(packet(op::REQUEST, 0), b"");
    bench.expect(op::RESPONSE);
    let mut stream = listener.accept().unwrap();
    bench.vsock.reset();
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).unwrap(), 0);
    drop(bench);
    assert!(listener.accept().is_none());
    assert!(connector.connect(1).is_err());
}
