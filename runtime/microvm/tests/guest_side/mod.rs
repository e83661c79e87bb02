//! What runs in the guest, as PID 1 of an initramfs that holds nothing else.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Case;

pub mod tree;

pub const ECHO_PORT: u32 = 1000;
pub const HELLO_PORT: u32 = 2000;

fn mount(kind: &str, target: &str) {
    let (kind, target) = (CString::new(kind).unwrap(), CString::new(target).unwrap());
    // SAFETY: NUL-terminated strings and no data.
    unsafe {
        libc::mkdir(target.as_ptr(), 0o755);
        libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null());
    }
}

/// Prepares the guest, runs the case named on the command line and resets.
pub fn init(cases: &[Case]) -> ! {
    mount("proc", "/proc");
    mount("sysfs", "/sys");
    mount("devtmpfs", "/dev");
    let console = OpenOptions::new().read(true).write(true).open("/dev/console");
    if let Ok(console) = console {
        for fd in 0..3 {
            // SAFETY: plain descriptors of our own.
            unsafe { libc::dup2(console.as_raw_fd(), fd) };
        }
    }
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let name = line.split_whitespace().find_map(|word| word.strip_prefix("hull.case="));
    if let Some(case) = cases.iter().find(|case| Some(case.name) == name) {
        (case.guest)();
    } else {
        say(&format!("no such case: {name:?}"));
    }
    reset()
}

fn reset() -> ! {
    // SAFETY: restarts the guest, which is the end of it.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

fn say(text: &str) {
    let mut kmsg = OpenOptions::new().write(true).open("/dev/kmsg").unwrap();
    // Priority 0, so that a quiet console shows it.
    kmsg.write_all(format!("<0>{text}\n").as_bytes()).unwrap();
}

pub fn say_hello() {
    println!("hello on stdout");
    say("hello in the log");
}

/// PID 1 must not end: the kernel panics.
pub fn exit() {
    std::process::exit(7);
}

pub fn count_processors() {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    // Both really run: each thread is bound to one.
    let threads: Vec<_> = (0..count)
        .map(|cpu| {
            std::thread::spawn(move || {
                // SAFETY: a zeroed set is an empty one; CPU_SET stays inside it.
                unsafe {
                    let mut set: libc::cpu_set_t = std::mem::zeroed();
                    libc::CPU_SET(cpu, &mut set);
                    libc::sched_setaffinity(0, size_of_val(&set), &set);
                    libc::sched_yield();
                    libc::sched_getcpu()
                }
            })
        })
        .collect();
    let seen: Vec<i32> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    say(&format!("processors {count}, ran on {seen:?}"));
}

pub fn read_entropy() {
    let mut bytes = [0; 64];
    match File::open("/dev/hwrng").and_then(|mut f| f.read_exact(&mut bytes)) {
        Ok(()) => say(&format!("entropy {}", bytes.iter().any(|byte| *byte != 0))),
        Err(error) => say(&format!("entropy failed: {error}")),
    }
}

fn vsock() -> OwnedFd {
    // SAFETY: socket has no conditions; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0) };
    assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: all zero is a valid address.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as u16;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

fn connect(port: u32) -> std::io::Result<File> {
    let socket = vsock();
    let address = address(2, port);
    // SAFETY: the address is a local of the length given.
    let done = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            std::ptr::addr_of!(address).cast(),
            size_of_val(&address) as u32,
        )
    };
    match done {
        0 => Ok(File::from(socket)),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Sends back what comes, to its end; says hello to the host's port first.
pub fn echo() {
    let listener = vsock();
    let local = address(u32::MAX, ECHO_PORT);
    // SAFETY: the address is a local of the length given.
    unsafe {
        assert_eq!(
            libc::bind(
                listener.as_raw_fd(),
                std::ptr::addr_of!(local).cast(),
                size_of_val(&local) as u32,
            ),
            0
        );
        assert_eq!(libc::listen(listener.as_raw_fd(), 16), 0);
    }
    let refused = connect(HELLO_PORT + 1).map(drop);
    say(&format!("nobody there: {refused:?}"));
    let mut hello = connect(HELLO_PORT).unwrap();
    hello.write_all(b"hello from the guest").unwrap();
    drop(hello);
    loop {
        // SAFETY: accept without an address.
        let fd = unsafe {
            libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut())
        };
        assert!(fd >= 0);
        // SAFETY: the descriptor is new.
        let mut socket = unsafe { File::from_raw_fd(fd) };
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            let mut total = 0;
            loop {
                match socket.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(n) => {
                        total += n;
                        if let Err(error) = socket.write_all(&bytes[..n]) {
                            say(&format!("echo: {error}"));
                            break;
                        }
                    }
                    Err(error) => {
                        say(&format!("echo: {error}"));
                        break;
                    }
                }
            }
            say(&format!("echo of {total} bytes is done"));
            if total == 4 {
                reset();
            }
        });
    }
}

/// A byte to the host every few milliseconds.
pub fn tick() {
    let mut socket = connect(HELLO_PORT).unwrap();
    let mut count = 0_u8;
    while socket.write_all(&[count]).is_ok() {
        count = count.wrapping_add(1);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Counts, and tells the host, through whatever becomes of the connection.
pub fn count() {
    let mut count = 0_u32;
    loop {
        let Ok(mut socket) = connect(HELLO_PORT) else {
            std::thread::sleep(std::time::Duration::from_millis(2));
            continue;
        };
        while socket.write_all(&count.to_le_bytes()).is_ok() {
            count += 1;
            if count.is_multiple_of(16) {
                let mut bytes = [0; 8];
                File::open("/dev/hwrng").and_then(|mut f| f.read_exact(&mut bytes)).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
