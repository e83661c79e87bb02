//! The `hull` command.

use std::ffi::OsStr;

fn main() {
    // The monitor of a microVM is this program, executed again.
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(hull::microvm_wall::MONITOR)) {
        hull::microvm_wall::monitor();
    }
    std::process::exit(hull::cli::main(std::env::args_os()));
}
