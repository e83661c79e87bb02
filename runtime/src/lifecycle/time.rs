//! Points in time as state and log files write them (RFC 3339, UTC).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Now, to the nanosecond: `2026-01-31T12:00:00.000000001Z`.
pub fn now() -> String {
    let now = since_epoch();
    format!("{}.{:09}Z", date_time(now.as_secs()), now.subsec_nanos())
}

/// Now, to the second: `2026-01-31T12:00:00Z`.
pub fn now_seconds() -> String {
    format!("{}Z", date_time(since_epoch().as_secs()))
}

/// Date and time of a number of seconds since 1970.
///
/// Years are counted from March, so that the leap day is a year's last; a cycle of the
/// calendar is 400 years or 146097 days.
fn date_time(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days from 1 March of the year 0 to 1 January 1970.
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + cycle * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_is_right_at_its_edges() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (1_735_689_600, "2025-01-01T00:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(date_time(seconds), text);
        }
    }

    #[test]
    fn now_has_the_form_that_go_parses() {
        let now = now();
        assert_eq!(now.len(), "2026-01-31T12:00:00.000000001Z".len());
        assert!(now.ends_with('Z') && now.as_bytes()[10] == b'T');
    }
}
