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
        ["syscall", number, ref arguments @ ..] => {
            let mut all = [0i64; 6];
            for (to, from) in all.iter_mut().zip(arguments) {
                *to = from.parse().unwrap_or(-1);
            }
            syscall(number.parse().unwrap_or(-1), all)
        }
        ["open-for-writing", path] => std::fs::File::options().write(true).open(path).map(|_| 0),
        ["allocate", mebibytes] => {
            let length = mebibytes.parse::<usize>().unwrap_or(0) << 20;
            let mut memory = vec![0u8; length];
            for page in memory.chunks_mut(4096) {
                page[0] = 1;
            }
            Ok(memory.iter().step_by(4096).map(|b| i64::from(*b)).sum())
        }
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

fn syscall(number: i64, all: [i64; 6]) -> io::Result<i64> {
    // SAFETY: the behaviours pass integers that are no addresses, or null.
    let result = unsafe { libc::syscall(number, all[0], all[1], all[2], all[3], all[4], all[5]) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
