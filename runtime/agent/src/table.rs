//! The container's processes as ps(1) would show them, read from `/proc` (proc_pid_stat(5)).
//!
//! The host's `ps` cannot look into the guest, and the container's root need not have one.

use std::fs;
use std::os::unix::fs::MetadataExt;

use hull_agent::link::ProcessRow;

/// What is kept of a command line.
const COMMAND: usize = 256;

/// How many processes are told of: the report has to stay a short message.
const ROWS: usize = 4096;

/// One row for each of these processes that still lives.
pub fn rows(pids: &[i32]) -> Vec<ProcessRow> {
    // SAFETY: sysconf takes no memory.
    let ticks = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1);
    let booted = booted();
    pids.iter().take(ROWS).filter_map(|pid| row(*pid, ticks, booted)).collect()
}

/// When the guest was booted, in seconds since the epoch.
fn booted() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or_default()
}

fn row(pid: i32, ticks: u64, booted: u64) -> Option<ProcessRow> {
    let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, fields) = split(&stat)?;
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok());
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    Some(ProcessRow {
        pid,
        ppid: number(4)? as i32,
        uid,
        started: booted + number(22)? / ticks,
        terminal: terminal(number(7)?),
        seconds: (number(14)? + number(15)?) / ticks,
        command: command(&line, name),
    })
}

/// The name, and the fields from the third on. The name may hold spaces and parentheses.
fn split(stat: &str) -> Option<(&str, Vec<&str>)> {
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(open + 1..close)?;
    Some((name, stat.get(close + 1..)?.split_ascii_whitespace().collect()))
}

/// `tty_nr`: minor numbers of 136 and up are pseudo-terminals (devices.txt).
fn terminal(number: u64) -> String {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        0 => "?".to_owned(),
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        _ => format!("{major}:{minor}"),
    }
}

/// The arguments; a process without (a zombie) is shown by its name in brackets, as ps does.
fn command(line: &[u8], name: &str) -> String {
    let line = line.strip_suffix(&[0]).unwrap_or(line);
    if line.is_empty() {
        return format!("[{name}]");
    }
    let text = String::from_utf8_lossy(&line[..line.len().min(COMMAND)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let (name, fields) = split("7 (a) S 1 (b)) R 1 7 7").unwrap();
        assert_eq!((name, fields[0], fields[1]), ("a) S 1 (b)", "R", "1"));
        assert!(split("7 nothing").is_none());
    }

    #[test]
    fn this_process_is_in_its_own_table() {
        let rows = rows(&[std::process::id() as i32, -1]);
        assert_eq!(rows.len(), 1);
        assert!(rows[0].started > 1_000_000_000 && !rows[0].command.is_empty());
    }

    #[test]
    fn commands_are_one_line() {
        assert_eq!(command(b"sh\0-c\0a\nb\0", "sh"), "sh -c a b");
        assert_eq!(command(b"", "kworker"), "[kworker]");
        assert_eq!(terminal(136 << 8 | 3), "pts/3");
    }
}
