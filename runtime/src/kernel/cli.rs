//! `hull kernel`: install, list, show and remove, without the flags' parsing.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::store::Entry;
use super::{Error, Store, host};

/// What `hull kernel …` is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Prepare a kernel: a path, a version as in `/boot/vmlinuz-VERSION`, or
    /// the newest one in `/boot`.
    Install {
        /// A path or a version.
        source: Option<String>,
    },
    /// One line for each prepared kernel.
    List {
        /// As JSON instead of a table.
        json: bool,
    },
    /// All about one kernel, as JSON; its files are read and compared.
    Show {
        /// A version, or a digest or the beginning of one.
        name: String,
    },
    /// Forget one kernel.
    Remove {
        /// A version, or a digest or the beginning of one.
        name: String,
    },
}

/// Carries it out; `store` is usually [`super::default_store`].
pub fn run(command: &Command, store: &Path, out: &mut dyn Write) -> Result<(), Error> {
    run_in(command, store, Path::new(host::BOOT), out)
}

fn run_in(command: &Command, store: &Path, boot: &Path, out: &mut dyn Write) -> Result<(), Error> {
    let store = Store::at(store);
    let text = match command {
        Command::Install { source } => install(&store, source.as_deref(), boot)?,
        Command::List { json: true } => {
            let list: Vec<_> = store.list()?.iter().map(object).collect();
            format!("{:#}\n", serde_json::Value::from(list))
        }
        Command::List { json: false } => table(&store.list()?),
        Command::Show { name } => {
            let entry = store.find(name)?;
            let mut object = object(&entry);
            object["intact"] = store.content_intact(&entry).into();
            format!("{object:#}\n")
        }
        Command::Remove { name } => {
            let entry = store.remove(name)?;
            format!("removed {} ({})\n", entry.release, short(&entry))
        }
    };
    out.write_all(text.as_bytes()).map_err(Error::Report)
}

fn install(store: &Store, source: Option<&str>, boot: &Path) -> Result<String, Error> {
    let (path, installed) = match source {
        None => (host::newest(boot)?, true),
        Some(source) => {
            let version = boot.join(format!("vmlinuz-{source}"));
            if source.contains('/') || Path::new(source).exists() {
                (PathBuf::from(source), false)
            } else if version.exists() {
                (version, true)
            } else {
                return Err(Error::NoSuchVersion {
                    name: source.into(),
                    directory: boot.to_owned(),
                });
            }
        }
    };
    Ok(match store.prepared(&path, installed, &mut |_| {})? {
        Some(entry) => {
            let modules = match entry.module_names.len() {
                0 => "no modules".to_owned(),
                n => format!("{n} modules"),
            };
            format!("{} ({}), {modules}\n", entry.release, short(&entry))
        }
        None => format!("{path:?} is an uncompressed kernel, which is used where it lies\n"),
    })
}

fn short(entry: &Entry) -> &str {
    entry.digest.get(..12).unwrap_or(&entry.digest)
}

fn object(entry: &Entry) -> serde_json::Value {
    json!({
        "release": entry.release,
        "digest": entry.digest,
        "source": entry.source,
        "vmlinux": { "size": entry.vmlinux.size, "sha256": entry.vmlinux.sha256 },
        "modules": entry.modules.as_ref().map(|part| json!({
            "size": part.size,
            "sha256": part.sha256,
            "load": entry.module_names,
        })),
    })
}

fn table(list: &[Entry]) -> String {
    let width = list.iter().map(|e| e.release.len()).max().unwrap_or(0).max(7);
    let mut text =
        format!("{:width$}  {:12}  {:>9}  MODULES  SOURCE\n", "RELEASE", "DIGEST", "KERNEL");
    for entry in list {
        text.push_str(&format!(
            "{:width$}  {:12}  {:>5} MiB  {:>7}  {}\n",
            entry.release,
            short(entry),
            entry.vmlinux.size >> 20,
            entry.module_names.len(),
            entry.source.display(),
        ));
    }
    text
}

#[cfg(test)]
mod tests;
