//! The table of `ps`, in the form of `ps -ef`, of processes that the guest tells about.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use hull_agent::link::ProcessRow;

/// Do these arguments of ps(1) ask for the form that can be given?
pub fn is_full(arguments: &[OsString]) -> bool {
    match arguments {
        [] => true,
        [one] => one == "-ef" || one == "-f" || one == "ef",
        [one, two] => (one == "-e" && two == "-f") || (one == "-f" && two == "-e"),
        _ => false,
    }
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The table.
pub fn format(rows: &[ProcessRow], now: u64) -> String {
    let mut table = String::from("UID          PID    PPID  C STIME TTY          TIME CMD\n");
    for row in rows {
        let age = now.saturating_sub(row.started).max(1);
        let busy = (row.seconds * 100 / age).min(99);
        let (hours, minutes, seconds) =
            (row.seconds / 3600, row.seconds / 60 % 60, row.seconds % 60);
        let user = if row.uid == 0 { "root".to_owned() } else { row.uid.to_string() };
        let _ = writeln!(
            table,
            "{user:<8} {:>7} {:>7} {busy:>2} {} {:<8} {hours:02}:{minutes:02}:{seconds:02} {}",
            row.pid,
            row.ppid,
            started(row.started, now),
            row.terminal,
            row.command,
        );
    }
    table
}

/// The time of day in UTC of what was started within a day, else the day since the epoch's
/// month, as ps shortens it.
fn started(at: u64, now: u64) -> String {
    if now.saturating_sub(at) < 86_400 {
        return format!("{:02}:{:02}", at / 3600 % 24, at / 60 % 60);
    }
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (month, day) = month_and_day(at / 86_400);
    format!("{}{day:02}", MONTHS[month])
}

/// From days since the epoch: counted in years that begin in March, so that the leap day is
/// the last of its year, and in eras of 400 years, which are all alike.
fn month_and_day(days: u64) -> (usize, u64) {
    let day_of_era = (days + 719_468) % 146_097;
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    (((month + 2) % 12) as usize, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_columns_of_ps() {
        let row = ProcessRow {
            pid: 7,
            ppid: 1,
            uid: 0,
            started: 1_700_000_000,
            terminal: "pts/0".to_owned(),
            seconds: 61,
            command: "sleep 9".to_owned(),
        };
        let table = format(&[row], 1_700_000_100);
        let fields: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(fields, ["root", "7", "1", "61", "22:13", "pts/0", "00:01:01", "sleep", "9"]);
    }

    #[test]
    fn days_are_named() {
        assert_eq!(month_and_day(0), (0, 1));
        assert_eq!(month_and_day(59), (2, 1));
        assert_eq!(month_and_day(19_782), (1, 29), "2024-02-29");
    }

    #[test]
    fn only_the_full_form_is_there() {
        assert!(is_full(&[]) && is_full(&["-ef".into()]));
        assert!(!is_full(&["-o".into(), "pid".into()]));
    }
}
