//! `update`: from flags, or a document, to limits.

use super::args::{Error as UsageError, Parsed};
use crate::lifecycle::{Context, Id};
use crate::wall::Update;
use crate::{Error, Result};
use oci::Status;
use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::io::Read;

/// `hull update`.
pub fn update(context: &Context, id: &Id, parsed: &Parsed) -> Result<()> {
    let update = read(parsed)?;
    let (_lock, mut container) = context.store.lock(id)?;
    if container.status()? == Status::Stopped {
        return Err(Error::NotRunning);
    }
    let wall = container.wall();
    wall.update(&mut container, &update)?;
    if update.l3_cache_schema.is_some() || update.mem_bw_schema.is_some() {
        // A resctrl group may have been made, and is to be removed one day.
        context.store.save(&container)?;
    }
    Ok(())
}

/// How the value of a flag is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A number.
    Number,
    /// A size, or -1 for no limit.
    Size,
    /// A list as cpuset takes it.
    Text,
}

/// Flag, object and member of `linux.resources`, form.
const FLAGS: &[(&str, &str, &str, Form)] = &[
    ("blkio-weight", "blockIO", "weight", Form::Number),
    ("cpu-period", "cpu", "period", Form::Number),
    ("cpu-quota", "cpu", "quota", Form::Number),
    ("cpu-burst", "cpu", "burst", Form::Number),
    ("cpu-share", "cpu", "shares", Form::Number),
    ("cpu-rt-period", "cpu", "realtimePeriod", Form::Number),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", Form::Number),
    ("cpu-idle", "cpu", "idle", Form::Number),
    ("cpuset-cpus", "cpu", "cpus", Form::Text),
    ("cpuset-mems", "cpu", "mems", Form::Text),
    ("memory", "memory", "limit", Form::Size),
    ("memory-reservation", "memory", "reservation", Form::Size),
    ("memory-swap", "memory", "swap", Form::Size),
    ("kernel-memory-tcp", "memory", "kernelTCP", Form::Size),
    ("pids-limit", "pids", "limit", Form::Number),
];

fn read(parsed: &Parsed) -> Result<Update> {
    let text = |flag| parsed.text(flag).map(|value| value.map(str::to_owned));
    if let Some(path) = parsed.value("resources") {
        // As with runc, the document is all there is.
        return Ok(Update {
            resources: oci::parse_resources(&read_document(path)?)?,
            ..Update::default()
        });
    }
    if parsed.value("kernel-memory").is_some() {
        tracing::warn!("--kernel-memory is ignored: the kernel has no such limit any more");
    }
    let mut resources = Map::new();
    for &(flag, object, member, form) in FLAGS {
        let Some(value) = parsed.text(flag)? else { continue };
        let value = match form {
            Form::Text => Value::from(value),
            Form::Number => Value::from(number(flag, value)?),
            Form::Size => Value::from(size(flag, value)?),
        };
        let inner = resources.entry(object).or_insert_with(|| Map::new().into());
        if let Value::Object(inner) = inner {
            inner.insert(member.to_owned(), value);
        }
    }
    // None at all: what the kernel takes for 0 and systemd does not.
    if let Some(limit) = resources.get_mut("pids").and_then(|pids| pids.get_mut("limit"))
        && *limit == 0
    {
        *limit = 1.into();
    }
    let document = Value::from(resources).to_string();
    Ok(Update {
        resources: oci::parse_resources(document.as_bytes())?,
        l3_cache_schema: text("l3-cache-schema")?,
        mem_bw_schema: text("mem-bw-schema")?,
    })
}

fn read_document(path: &OsStr) -> Result<Vec<u8>> {
    /// Nobody writes more limits than this.
    const MOST: u64 = 1 << 20;
    let mut text = Vec::new();
    let read = if path == "-" {
        std::io::stdin().lock().take(MOST).read_to_end(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text))
    };
    read.map_err(|source| Error::file("reading", path, source))?;
    Ok(text)
}

fn number(flag: &'static str, value: &str) -> Result<i64> {
    value.trim().parse().map_err(|_| {
        let expected = "a number is expected";
        UsageError::Value { flag, value: value.to_owned(), expected }.into()
    })
}

fn size(flag: &'static str, value: &str) -> Result<i64> {
    if value.trim() == "-1" {
        return Ok(-1);
    }
    config::parse_size(value).ok().and_then(|bytes| i64::try_from(bytes).ok()).ok_or_else(|| {
        let expected = "a size or -1 is expected";
        UsageError::Value { flag, value: value.to_owned(), expected }.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn updated(line: &str) -> Result<Update> {
        let command = super::super::tables::find("update").unwrap();
        read(&command.parse(line.split_whitespace().map(OsString::from)).unwrap())
    }

    #[test]
    fn only_what_is_given_is_changed() {
        let update =
            updated("--memory 512M --memory-swap -1 --cpu-quota=-1 --pids-limit 20 id").unwrap();
        let memory = update.resources.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(512 << 20), Some(-1)));
        assert_eq!(memory.reservation(), None);
        let cpu = update.resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(-1), None));
        assert_eq!(update.resources.pids().as_ref().unwrap().limit(), 20);
        assert!(update.resources.block_io().is_none());
    }

    #[test]
    fn every_flag_of_runc_has_its_member() {
        let update = updated(
            "id --blkio-weight 500 --cpu-period 100000 --cpu-burst 1000 --cpu-share 512 \
             --cpu-rt-period 1 --cpu-rt-runtime 2 --cpuset-cpus 0-1 --cpuset-mems 0 \
             --memory-reservation 1g --cpu-idle 1 --l3-cache-schema L3:0=f --mem-bw-schema MB:0=20",
        )
        .unwrap();
        let cpu = update.resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.shares(), cpu.idle(), cpu.burst()), (Some(512), Some(1), Some(1000)));
        assert_eq!(cpu.cpus().as_deref(), Some("0-1"));
        assert_eq!(update.resources.block_io().as_ref().unwrap().weight(), Some(500));
        assert_eq!(update.l3_cache_schema.as_deref(), Some("L3:0=f"));
        assert_eq!(update.mem_bw_schema.as_deref(), Some("MB:0=20"));
    }

    #[test]
    fn wrong_values_are_named() {
        for line in ["--memory lots id", "--cpu-quota x id", "--memory -2 id", "--cpu-period -5 id"]
        {
            assert!(updated(line).is_err(), "{line}");
        }
    }
}
