//! What watches from the host.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use microvm::devices::virtio::fs;
use microvm::jail::Jail;
use microvm::snapshot::Files;
use microvm::{Announce, Config, Devices, Handle, InitrdPart, Loading, Outcome, Vm};

use super::guest_side::{ECHO_PORT, HELLO_PORT};

pub mod tree;

/// Kernel and initramfs, and the case to be run.
pub struct Bench {
    kernel: PathBuf,
    initrd: Vec<u8>,
    case: &'static str,
}

impl Bench {
    /// `None`, with a word about it, where no machine can be run.
    pub fn new() -> Option<Bench> {
        let Some(kernel) = std::env::var_os("HULL_TEST_KERNEL") else {
            eprintln!("skipped: HULL_TEST_KERNEL names no kernel");
            return None;
        };
        if let Err(error) = File::open("/dev/kvm") {
            eprintln!("skipped: /dev/kvm: {error}");
            return None;
        }
        let this = std::fs::read("/proc/self/exe").unwrap();
        let mut initrd = Vec::new();
        for dir in ["dev", "proc", "sys"] {
            cpio(&mut initrd, dir, 0o040_755, &[]);
        }
        cpio_node(&mut initrd, "dev/console", 5, 1);
        cpio(&mut initrd, "init", 0o100_755, &this);
        cpio(&mut initrd, "TRAILER!!!", 0, &[]);
        Some(Bench { kernel: kernel.into(), initrd, case: "" })
    }

    pub fn for_case(&self, case: &'static str) -> Bench {
        Bench { kernel: self.kernel.clone(), initrd: self.initrd.clone(), case }
    }

    fn start(&self, change: impl FnOnce(&mut Config)) -> Handle {
        self.start_with(change, vec![], &jail())
    }

    fn start_with(
        &self,
        change: impl FnOnce(&mut Config),
        fs: Vec<fs::Config>,
        jail: &Jail,
    ) -> Handle {
        let mut config = Config {
            memory: 256 << 20,
            cmdline: format!("hull.case={}", self.case),
            ..Config::default()
        };
        change(&mut config);
        let loading = Loading::start(
            File::open(&self.kernel).unwrap(),
            vec![InitrdPart::Bytes(self.initrd.clone())],
            &config,
        );
        let devices = Devices { fs, ..devices() };
        let handle = Vm::build(&config, loading, devices).unwrap().start(jail).unwrap();
        if std::env::var_os("HULL_TEST_CONSOLE").is_some() {
            handle.console().echo();
        }
        handle
    }
}

/// The tests themselves stay outside; vCPUs and devices are confined.
fn jail() -> Jail {
    Jail::confine(&[]).unwrap()
}

fn devices() -> Devices {
    Devices { fs: vec![], vsock: true, rng: true }
}

/// One entry of a cpio archive of the "newc" kind.
fn cpio(out: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    cpio_header(out, name, mode, data.len(), (0, 0));
    out.extend(data);
    pad(out);
}

fn cpio_node(out: &mut Vec<u8>, name: &str, major: u32, minor: u32) {
    cpio_header(out, name, 0o020_600, 0, (major, minor));
}

fn cpio_header(out: &mut Vec<u8>, name: &str, mode: u32, size: usize, device: (u32, u32)) {
    let fields =
        [0, mode, 0, 0, 1, 0, size as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
    out.extend(b"070701");
    for field in fields {
        out.extend(format!("{field:08x}").as_bytes());
    }
    out.extend(name.as_bytes());
    out.push(0);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Waits for the end; a machine that hangs is a failure with its log.
fn outcome(handle: &Handle) -> Outcome {
    let mut poll = libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(&handle.exit_fd()),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, a local.
    let ready = unsafe { libc::poll(&mut poll, 1, 30_000) };
    let log = log(handle);
    assert_eq!(ready, 1, "the machine hangs; its log:\n{log}");
    handle.wait()
}

fn log(handle: &Handle) -> String {
    String::from_utf8_lossy(&handle.console().tail()).into_owned()
}

fn expect_reset(handle: &Handle, text: &str) {
    let outcome = outcome(handle);
    let log = log(handle);
    assert!(matches!(outcome, Outcome::Reset), "{outcome:?}\n{log}");
    assert!(log.contains(text), "no {text:?} in:\n{log}");
}

fn print_phases(handle: &Handle) {
    let phases = handle.phases();
    let Some((_, start)) = phases.first() else {
        return;
    };
    for (name, at) in &phases {
        println!("    {:>8.2} ms  {name}", (*at - *start).as_secs_f64() * 1e3);
    }
}

pub fn boots_and_resets(bench: &Bench) {
    for announce in [Announce::CommandLine, Announce::Acpi, Announce::Auto] {
        let handle = bench.start(|config| config.announce = announce);
        expect_reset(&handle, "hello in the log");
        assert!(log(&handle).contains("hello on stdout"), "{}", log(&handle));
        println!("  {announce:?}");
        print_phases(&handle);
    }
}

pub fn panic_is_seen(bench: &Bench) {
    let handle = bench.start(|_| {});
    let outcome = outcome(&handle);
    assert!(matches!(outcome, Outcome::Panicked), "{outcome:?}\n{}", log(&handle));
}

pub fn two_processors(bench: &Bench) {
    for announce in [Announce::CommandLine, Announce::Acpi] {
        let handle = bench.start(|config| {
            config.vcpus = 2;
            config.announce = announce;
        });
        expect_reset(&handle, "processors 2, ran on [0, 1]");
    }
}

pub fn entropy(bench: &Bench) {
    let handle = bench.start(|_| {});
    expect_reset(&handle, "entropy true");
}

pub fn streams(bench: &Bench) {
    let handle = bench.start(|_| {});
    let connector = handle.connector().unwrap();
    let listener = connector.listen(HELLO_PORT).unwrap();
    let mut hello = String::new();
    listener.accept().unwrap().read_to_string(&mut hello).unwrap();
    assert_eq!(hello, "hello from the guest");

    assert!(connector.connect(ECHO_PORT + 1).is_err());

    // Much more than any buffer, both ways at once, then a half-close.
    let size = 20 << 20;
    let stream = connector.connect(ECHO_PORT).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let pattern = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u8;
    let sending = std::thread::spawn(move || {
        let data: Vec<u8> = (0..size).map(pattern).collect();
        writer.write_all(&data).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let start = Instant::now();
    let mut back = Vec::new();
    (&stream).read_to_end(&mut back).unwrap();
    sending.join().unwrap();
    assert_eq!(back.len(), size);
    assert!(back.iter().enumerate().all(|(i, b)| *b == pattern(i)));
    println!("    {} MiB echoed in {:?}", size >> 20, start.elapsed());

    // A reader that goes away early ends the writer in the guest.
    let mut early = connector.connect(ECHO_PORT).unwrap();
    early.write_all(&[0; 100_000]).unwrap();
    drop(early);

    // Latency of one round trip.
    let mut small = connector.connect(ECHO_PORT).unwrap();
    let mut best = Duration::MAX;
    let mut byte = [0];
    for _ in 0..200 {
        let start = Instant::now();
        small.write_all(&[1]).unwrap();
        small.read_exact(&mut byte).unwrap();
        best = best.min(start.elapsed());
    }
    println!("    round trip {best:?}");
    drop(small);

    let mut last = connector.connect(ECHO_PORT).unwrap();
    last.write_all(b"last").unwrap();
    last.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    last.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last");
    expect_reset(&handle, "nobody there: Err");
    assert!(connector.connect(ECHO_PORT).is_err());
}

pub fn pause_holds_the_guest(bench: &Bench) {
    let handle = bench.start(|config| config.vcpus = 2);
    let listener = handle.connector().unwrap().listen(HELLO_PORT).unwrap();
    let mut stream = listener.accept().unwrap();
    let mut bytes = [0; 64];
    stream.read_exact(&mut bytes[..1]).unwrap();
    for _ in 0..3 {
        handle.pause().unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.read(&mut bytes).is_ok_and(|n| n > 0) {}
        std::thread::sleep(Duration::from_millis(50));
        assert!(stream.read(&mut bytes).is_err(), "a paused guest spoke");
        handle.resume().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.read_exact(&mut bytes[..4]).unwrap();
    }
    handle.stop();
    assert!(matches!(handle.wait(), Outcome::Stopped));
}

fn memory_file() -> File {
    // SAFETY: a NUL-terminated name; the descriptor is new.
    unsafe {
        let fd = libc::memfd_create(c"snapshot".as_ptr(), libc::MFD_CLOEXEC);
        <File as std::os::fd::FromRawFd>::from_raw_fd(fd)
    }
}

fn rewound(file: &File) -> File {
    let mut copy = file.try_clone().unwrap();
    std::io::Seek::rewind(&mut copy).unwrap();
    copy
}

fn next_count(stream: &mut impl Read) -> u32 {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

pub fn a_saved_machine_goes_on(bench: &Bench) {
    for vcpus in [1, 2] {
        let files = Files { state: memory_file(), memory: memory_file() };
        let reached = {
            let handle = bench.start(|config| config.vcpus = vcpus);
            let listener = handle.connector().unwrap().listen(HELLO_PORT).unwrap();
            let mut stream = listener.accept().unwrap();
            let mut count = 0;
            while count < 40 {
                count = next_count(&mut stream);
            }
            assert!(handle.save(&files).is_err(), "saved while it ran");
            handle.pause().unwrap();
            let start = Instant::now();
            handle.save(&files).unwrap();
            println!(
                "    {vcpus} vCPU saved in {:?}, {} KiB of state",
                start.elapsed(),
                files.state.metadata().unwrap().len() >> 10
            );
            count
        };
        // Twice from the same files: a restored machine does not change them.
        for _ in 0..2 {
            let start = Instant::now();
            let saved = Files { state: rewound(&files.state), memory: rewound(&files.memory) };
            let handle = Vm::restore(saved, devices()).unwrap().start_paused(&jail()).unwrap();
            let listener = handle.connector().unwrap().listen(HELLO_PORT).unwrap();
            handle.resume().unwrap();
            let restored = start.elapsed();
            let mut stream = listener.accept().unwrap();
            let first = next_count(&mut stream);
            println!("    running after {restored:?}, heard after {:?}", start.elapsed());
            assert!(first >= reached && first < reached + 1000, "{first}");
            for i in 1..50 {
                assert_eq!(next_count(&mut stream), first + i);
            }
        }
        let wrong = Files { state: rewound(&files.state), memory: memory_file() };
        assert!(Vm::restore(wrong, devices()).is_err());
    }
}
