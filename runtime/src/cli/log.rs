//! Where errors and warnings go: stderr, and `--log` in the shapes of runc's.
//!
//! Engines read the last error of the file; its JSON is `{"level","msg","time"}`.

use crate::lifecycle::now_seconds;
use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::metadata::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Where and how to log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// `--log`.
    pub file: Option<PathBuf>,
    /// `--log-format json`.
    pub json: bool,
    /// `--debug`.
    pub debug: bool,
}

impl Log {
    /// Says what ended the command. `context` names it, where it does not go without saying.
    pub fn error(&self, context: &str, message: &str) {
        let text = format!("{context}{message}");
        self.write_file("error", &text);
        match context {
            "" => say("error", &text),
            _ => print_log(&format!("{text}\n")),
        }
    }

    /// The same, with nothing but the message on stderr.
    pub fn plain_error(&self, context: &str, message: &str) {
        self.write_file("error", &format!("{context}{message}"));
        print_log(&format!("{message}\n"));
    }

    /// Hands what the libraries say to this log.
    pub fn install(&self) {
        let subscriber: Arc<dyn Subscriber + Send + Sync> = Arc::new(Sink(self.clone()));
        // Only the first call counts; there is no second.
        let _ = tracing::dispatcher::set_global_default(tracing::Dispatch::from(subscriber));
    }

    fn write_file(&self, level: &str, message: &str) {
        let Some(path) = &self.file else { return };
        let line = self.line(level, message, &now_seconds());
        let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        // One write: several processes append to the same file.
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("hull: warning: --log {}: {error}", path.display());
        }
    }

    fn line(&self, level: &str, message: &str, time: &str) -> String {
        let quoted = serde_json::Value::from(message);
        if self.json {
            format!("{{\"level\":\"{level}\",\"msg\":{quoted},\"time\":\"{time}\"}}\n")
        } else {
            format!("time=\"{time}\" level={level} msg={quoted}\n")
        }
    }
}

/// One line on stderr, in one write: it is shared with the container.
fn say(level: &str, message: &str) {
    print_log(&format!("hull: {level}: {message}\n"));
}

fn print_log(line: &str) {
    // There is nobody left to tell of a failure.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// What the libraries say by `tracing`.
struct Sink(Log);

impl Subscriber for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() <= if self.0.debug { Level::DEBUG } else { Level::WARN }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.0.debug { LevelFilter::DEBUG } else { LevelFilter::WARN })
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let message = text.message + &text.fields;
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        self.0.write_file(level, &message);
        // With a log file stderr is the workload's: engines hand it on.
        if self.0.file.is_none() {
            match level {
                // A log rather than something to read: as it would stand in a file.
                "debug" => print_log(&self.0.line(level, &message, &now_seconds())),
                _ => say(level, &message),
            }
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event as text: the message, then `key=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_shape_that_engines_read() {
        let mut log = Log { json: true, ..Log::default() };
        assert_eq!(
            log.line("error", "exec: \"x\": no\nway", "T"),
            "{\"level\":\"error\",\"msg\":\"exec: \\\"x\\\": no\\nway\",\"time\":\"T\"}\n"
        );
        log.json = false;
        assert_eq!(
            log.line("warning", "a \"b\"", "T"),
            "time=\"T\" level=warning msg=\"a \\\"b\\\"\"\n"
        );
    }
}
