//! Commands that act on a container: `kill`, `delete`, `events`.

use super::args::{Error as UsageError, Parsed};
use super::{print, signal};
use crate::lifecycle::{self, Context, Id};
use crate::wall::Container;
use crate::{Error, Result};
use oci::Status;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

/// `hull kill`.
pub fn kill(context: &Context, id: &Id, parsed: &Parsed) -> Result<()> {
    let signal = match parsed.operands.get(1) {
        Some(text) => signal::parse(&text.to_string_lossy())?,
        None => libc::SIGTERM,
    };
    lifecycle::kill(context, id, signal, parsed.has("all"))
}

/// `hull delete`.
pub fn delete(context: &Context, id: &Id, parsed: &Parsed) -> Result<()> {
    lifecycle::reset_child_signal();
    lifecycle::delete(context, id, parsed.has("force"))
}

/// How often the end of a container is looked for where nothing tells of it.
const TICK: Duration = Duration::from_millis(500);

/// `hull events`.
pub fn events(context: &Context, id: &Id, parsed: &Parsed) -> Result<()> {
    let container = context.store.load(id)?;
    if container.status()? == Status::Stopped {
        return Err(Error::IdNotRunning(id.to_string()));
    }
    if parsed.has("stats") {
        return print_stats(&container);
    }
    let interval = match parsed.text("interval")? {
        Some(text) => duration(text).filter(|interval| !interval.is_zero()).ok_or_else(|| {
            UsageError::Value {
                flag: "interval",
                value: text.to_owned(),
                expected: "a duration greater than 0 is expected (500ms, 5s, 1m)",
            }
        })?,
        None => Duration::from_secs(5),
    };
    let mut kills = container.wall().oom_events(&container)?;
    let mut next = Instant::now() + interval;
    loop {
        let wait = next.saturating_duration_since(Instant::now()).min(TICK);
        if poll(kills.as_ref().map(|kills| kills.fd().as_raw_fd()), wait)?
            && let Some(source) = &mut kills
        {
            match source.take().map_err(container::Error::from)? {
                Some(count) => {
                    for _ in 0..count {
                        print(&event("oom", &container.id, None))?;
                    }
                }
                None => kills = None,
            }
        }
        if container.status()? == Status::Stopped {
            return Ok(());
        }
        if Instant::now() >= next {
            print_stats(&container)?;
            next += interval;
        }
    }
}

fn print_stats(container: &Container) -> Result<()> {
    let stats = container.wall().stats(container)?;
    let data = serde_json::to_value(&stats)
        .map_err(|source| Error::Encode { what: "statistics", source })?;
    print(&event("stats", &container.id, Some(data)))
}

/// One line of `events`, in runc's shape.
fn event(kind: &str, id: &str, data: Option<serde_json::Value>) -> String {
    let id = serde_json::Value::from(id);
    match data {
        Some(data) => format!("{{\"type\":\"{kind}\",\"id\":{id},\"data\":{data}}}\n"),
        None => format!("{{\"type\":\"{kind}\",\"id\":{id}}}\n"),
    }
}

fn poll(fd: Option<RawFd>, wait: Duration) -> Result<bool> {
    let mut entry = libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry.
    let ready = unsafe { libc::poll(&mut entry, 1, wait.as_millis() as i32) };
    if ready < 0 {
        let source = std::io::Error::last_os_error();
        if source.kind() != std::io::ErrorKind::Interrupted {
            return Err(Error::System { operation: "waiting for events", source });
        }
    }
    Ok(ready > 0)
}

/// A duration as Go writes them: `5s`, `500ms`, `1m30s`, `1.5h`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = match &rest[digits..digits + letters] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[digits + letters..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in
            [("5s", 5_000), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "1e99s", "ms5"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn events_are_lines_of_json() {
        assert_eq!(event("oom", "a", None), "{\"type\":\"oom\",\"id\":\"a\"}\n");
        let data = serde_json::json!({"pids": {"current": 1}});
        let line = event("stats", "a", Some(data));
        assert_eq!(line, "{\"type\":\"stats\",\"id\":\"a\",\"data\":{\"pids\":{\"current\":1}}}\n");
    }
}
