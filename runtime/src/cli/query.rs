//! Commands that only look: `state`, `list`, `ps`, `spec`.

use super::args::{Error as UsageError, Parsed};
use super::{check_choice, print};
use crate::lifecycle::{Context, Id};
use crate::wall::Container;
use crate::{Error, Result};
use oci::Status;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

/// A container as `state` and `list --format json` print it: runc's fields in runc's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    oci_version: &'a str,
    id: &'a str,
    /// 0 when there is no process.
    pid: i32,
    status: Status,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: String,
}

impl<'a> Shown<'a> {
    fn new(container: &'a Container) -> Result<Self> {
        let status = container.status()?;
        let pid = if status == Status::Stopped { 0 } else { container.record.pid() };
        Ok(Shown {
            oci_version: &container.oci_version,
            id: &container.id,
            pid,
            status,
            bundle: &container.bundle,
            rootfs: &container.rootfs,
            created: &container.created,
            annotations: &container.annotations,
            owner: String::new(),
        })
    }
}

fn json(value: &impl Serialize, pretty: bool) -> Result<String> {
    let text =
        if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    text.map_err(|source| Error::Encode { what: "output", source })
}

/// `hull state`.
pub fn state(context: &Context, id: &Id) -> Result<()> {
    let container = context.store.load(id)?;
    let text = json(&Shown::new(&container)?, true)?;
    print(&(text + "\n"))
}

/// `hull list`.
pub fn list(context: &Context, parsed: &Parsed) -> Result<()> {
    let format = parsed.value("format").and_then(OsStr::to_str).unwrap_or("table");
    check_choice("format", parsed.value("format"), &["table", "json"])?;
    let mut containers = Vec::new();
    for (name, outcome) in context.store.list()? {
        match outcome {
            Ok(container) => containers.push(container),
            // One damaged file must not hide the others.
            Err(error) => tracing::warn!("{name}: {error}"),
        }
    }
    if parsed.has("quiet") {
        let ids: String = containers.iter().map(|c| format!("{}\n", c.id)).collect();
        return print(&ids);
    }
    let mut shown = Vec::new();
    for container in &containers {
        let mut row = Shown::new(container)?;
        row.owner = user_name(container.owner);
        shown.push(row);
    }
    match format {
        "json" if shown.is_empty() => print("null\n"),
        "json" => print(&(json(&shown, false)? + "\n")),
        _ => print(&table(&shown)),
    }
}

/// Columns as Go's tabwriter lays them for runc: at least 12 wide, 3 apart.
fn table(rows: &[Shown<'_>]) -> String {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from);
    let lines: Vec<[String; 6]> = std::iter::once(head)
        .chain(rows.iter().map(|row| {
            [
                row.id.to_owned(),
                row.pid.to_string(),
                row.status.to_string(),
                row.bundle.display().to_string(),
                row.created.to_owned(),
                row.owner.clone(),
            ]
        }))
        .collect();
    let width = |column: usize| {
        let longest = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        (longest + 3).max(12)
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "{cell:<width$}");
        }
        let _ = writeln!(text, "{}", line[5]);
    }
    text
}

/// The name of a user by `/etc/passwd`; `#UID` when it has none, as runc prints it.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| format!("#{uid}"))
}

/// `hull ps`.
pub fn ps(context: &Context, id: &Id, parsed: &Parsed) -> Result<()> {
    let mut arguments = parsed.operands[1..].to_vec();
    let mut format = parsed.value("format").map(OsStr::to_os_string);
    // What follows the id is ps's own, but for our one long option.
    if let Some(at) =
        arguments.iter().position(|word| word.as_encoded_bytes().starts_with(b"--format"))
    {
        let word = arguments.remove(at).to_string_lossy().into_owned();
        format = match word.split_once('=') {
            Some((_, value)) => Some(value.into()),
            None if at < arguments.len() => Some(arguments.remove(at)),
            None => return Err(UsageError::NoValue("format").into()),
        };
    }
    check_choice("format", format.as_deref(), &["table", "json"])?;
    let container = context.store.load(id)?;
    if format.as_deref() == Some(OsStr::new("json")) {
        let pids = container.wall().processes(&container)?;
        return print(&(json(&pids, false)? + "\n"));
    }
    print(&container.wall().process_table(&container, &arguments)?)
}

/// `hull spec`.
pub fn spec(parsed: &Parsed) -> Result<()> {
    let whom = if parsed.has("rootless") {
        // SAFETY: these calls cannot fail and touch no memory.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        oci::For::Rootless { uid, gid }
    } else {
        oci::For::Root
    };
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let text = oci::template(whom, unified);
    let bundle = parsed.value("bundle").map_or(Path::new(""), Path::new);
    let path = bundle.join("config.json");
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    match file.and_then(|mut file| file.write_all(text.as_bytes())) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::SpecExists { path })
        }
        Err(source) => Err(Error::file("writing", path, source)),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(id: &'a str, annotations: &'a BTreeMap<String, String>) -> Shown<'a> {
        Shown {
            oci_version: "1.3.0",
            id,
            pid: 7,
            status: Status::Running,
            bundle: Path::new("/bundles/one"),
            rootfs: Path::new("/bundles/one/rootfs"),
            created: "2026-01-01T00:00:00Z",
            annotations,
            owner: "root".into(),
        }
    }

    #[test]
    fn an_empty_table_is_runcs() {
        let head = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
        assert_eq!(table(&[]), head);
    }

    #[test]
    fn columns_grow_with_their_content() {
        let none = BTreeMap::new();
        let text = table(&[row("a-rather-long-id", &none), row("b", &none)]);
        let starts: Vec<_> =
            text.lines().map(|line| line.find("7 ").or(line.find("PID"))).collect();
        assert_eq!(starts, [Some(19); 3]);
        assert!(text.lines().all(|line| !line.ends_with(' ')));
    }

    #[test]
    fn state_has_runcs_fields_in_runcs_order() {
        let annotations = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let text = json(&row("a", &annotations), true).unwrap();
        let names = [
            "ociVersion",
            "id",
            "pid",
            "status",
            "bundle",
            "rootfs",
            "created",
            "annotations",
            "owner",
        ];
        let places: Vec<_> =
            names.iter().map(|name| text.find(&format!("\n  \"{name}\":")).unwrap()).collect();
        assert!(places.is_sorted());
    }
}
