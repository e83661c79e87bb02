//! From text to a [`Config`], bounded, with the path of a field that is wrong.
//!
//! The text is parsed once, straight into the types. Only when that fails it is parsed
//! again with the path tracked, so that the good case does not pay for it.

use crate::{Error, Problem, Vm, spec, validate};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Engines write a few dozen KiB; a document beyond this is an attack on memory.
const MAX_DOCUMENT: u64 = 16 << 20;

/// The specification's documents are some ten deep; the JSON parser itself stops at 128 where
/// it has to recurse.
const MAX_DEPTH: usize = 100;

const CONFIG: &str = "config.json";
const PROCESS: &str = "process.json";

/// A parsed `config.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Everything but `vm`.
    #[serde(flatten)]
    pub spec: spec::Spec,
    /// The `vm` object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<Vm>,
}

/// Reads, parses and validates `config.json` of the bundle.
pub fn load(bundle: &Path) -> Result<Config, Error> {
    load_with_text(&bundle.join(CONFIG)).map(|(config, _)| config)
}

/// Reads, parses and validates this `config.json`; its text, too, for who keeps a copy.
pub fn load_with_text(path: &Path) -> Result<(Config, Vec<u8>), Error> {
    let text = read_regular(path)?;
    let config = parse(&text)?;
    validate(&config)?;
    Ok((config, text))
}

/// Reads a copy that was kept of a `config.json` which was validated before.
pub fn load_trusted(path: &Path) -> Result<Config, Error> {
    parse(&read(path)?)
}

/// Parses the text of a `config.json`; does not [`validate`] it.
pub fn parse(text: &[u8]) -> Result<Config, Error> {
    let (mut config, scan) = scanned(CONFIG, text)?;
    if scan.dropped {
        read_dropped(text, &mut config)?;
    }
    settle_pids(text, &mut config)?;
    Ok(config)
}

/// A limit of no tasks at all. Up to 1.2 it meant that there is none; 1.3 has -1 for that, and 0
/// "SHOULD be treated as such", which is one task here: systemd takes no less, and as a container
/// has a first process the two do the same.
fn settle_pids(text: &[u8], config: &mut Config) -> Result<(), Error> {
    let new = config.spec.version().split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok())
        >= Some(3);
    let resources =
        config.spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    let Some(resources) = resources
        .filter(|resources| new && resources.pids().as_ref().is_some_and(|pids| pids.limit() == 0))
    else {
        return Ok(());
    };
    let document: serde_json::Value = serde_json::from_slice(text)
        .map_err(|source| Error::Syntax { document: CONFIG, source })?;
    // For the type a limit that was not given is 0, too.
    if document.pointer("/linux/resources/pids/limit").is_some_and(|limit| limit.is_number()) {
        let mut pids = spec::LinuxPids::default();
        pids.set_limit(1);
        resources.set_pids(Some(pids));
    }
    Ok(())
}

/// What oci-spec's types drop without a word: `linux.intelRdt.enableCMT` and `enableMBM`, which
/// it spells otherwise, `freebsd`, which it does not have, and a `pagesize` written small, which
/// runc takes for `pageSize`.
fn read_dropped(text: &[u8], config: &mut Config) -> Result<(), Error> {
    let document: serde_json::Value = serde_json::from_slice(text)
        .map_err(|source| Error::Syntax { document: CONFIG, source })?;
    let invalid = |field: &str, problem| {
        Err(Error::Invalid { document: CONFIG, field: field.to_owned(), problem })
    };
    if document.get("freebsd").is_some_and(|object| !object.is_null()) {
        return invalid("freebsd", Problem::Unsupported("it is another platform's"));
    }
    let small = |index: usize| {
        document.pointer(&format!("/linux/resources/hugepageLimits/{index}/pagesize"))?.as_str()
    };
    let resources = config.spec.linux_mut().as_mut().and_then(|l| l.resources_mut().as_mut());
    let limits = resources.and_then(|resources| resources.hugepage_limits_mut().as_mut());
    for (index, limit) in limits.into_iter().flatten().enumerate() {
        if let Some(size) = small(index).filter(|_| limit.page_size().is_empty()) {
            limit.set_page_size(size.to_owned());
        }
    }
    for name in ["enableCMT", "enableMBM"] {
        let field = format!("linux.intelRdt.{name}");
        match document.pointer(&format!("/linux/intelRdt/{name}")) {
            None | Some(serde_json::Value::Null | serde_json::Value::Bool(false)) => {}
            // Both came to mean what the field that replaced them says.
            Some(serde_json::Value::Bool(true)) => {
                let linux = config.spec.linux_mut().as_mut();
                if let Some(rdt) = linux.and_then(|linux| linux.intel_rdt_mut().as_mut()) {
                    rdt.set_enable_monitoring(Some(true));
                }
            }
            Some(other) => {
                let problem = Problem::Form { value: other.to_string(), expected: "a boolean" };
                return invalid(&field, problem);
            }
        }
    }
    Ok(())
}

/// Reads and parses the process document of `exec --process`, then validates it.
pub fn parse_process(path: &Path) -> Result<spec::Process, Error> {
    let process = document(PROCESS, &read(path)?)?;
    crate::validate_process(PROCESS, "", &process)?;
    Ok(process)
}

/// Parses the resources document of `update --resources`.
pub fn parse_resources(text: &[u8]) -> Result<spec::LinuxResources, Error> {
    document("resources", text)
}

/// A bundle may be anyone's: a pipe in the place of its `config.json` must not hold the caller.
fn read_regular(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() {
        let number = if kind.is_dir() { libc::EISDIR } else { libc::EINVAL };
        return Err(failed(std::io::Error::from_raw_os_error(number)));
    }
    read_open(path, file)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    read_open(path, file)
}

fn read_open(path: &Path, file: File) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let size = file.metadata().map_err(failed)?.len();
    let mut text = Vec::with_capacity(size.min(MAX_DOCUMENT) as usize + 1);
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

fn document<T: serde::de::DeserializeOwned>(
    document: &'static str,
    text: &[u8],
) -> Result<T, Error> {
    scanned(document, text).map(|(parsed, _)| parsed)
}

fn scanned<T: serde::de::DeserializeOwned>(
    document: &'static str,
    text: &[u8],
) -> Result<(T, Scan), Error> {
    if text.len() as u64 > MAX_DOCUMENT {
        return Err(Error::TooLarge { document, limit: MAX_DOCUMENT });
    }
    let scan = scan(text);
    if scan.depth > MAX_DEPTH {
        return Err(Error::TooDeep { document, limit: MAX_DEPTH });
    }
    // A raw NUL is refused by the parser; an escaped one would reach C strings.
    if scan.escaped_nul
        && let Ok(value) = serde_json::from_slice::<serde_json::Value>(text)
        && let Some(field) = find_nul(&value, String::new())
    {
        return Err(Error::Invalid { document, field, problem: Problem::Nul });
    }
    let parsed = match serde_json::from_slice(text) {
        Ok(parsed) => parsed,
        Err(source) if matches!(source.classify(), serde_json::error::Category::Data) => {
            tolerant(document, text)?
        }
        Err(source) => return Err(Error::Syntax { document, source }),
    };
    Ok((parsed, scan))
}

/// Takes names that no kernel of ours knows out of the sets: the specification wants a warning
/// for them, not a failure ("Linux Process").
fn drop_unknown_capabilities(sets: &mut serde_json::Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let lists = sets.as_object_mut().into_iter().flat_map(|sets| sets.values_mut());
    for list in lists.filter_map(|list| list.as_array_mut()) {
        list.retain(|name| match name.as_str() {
            Some(text) if spec::Capability::deserialize(name).is_err() => {
                if !unknown.iter().any(|known| known == text) {
                    unknown.push(text.to_owned());
                }
                false
            }
            _ => true,
        });
    }
    unknown
}

/// oci-spec spells two flags of `process.scheduler` unlike the specification.
fn respell_flags(scheduler: Option<&mut serde_json::Value>) {
    let flags = scheduler.and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(|flags| flags.as_array_mut()).into_iter().flatten() {
        match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => *flag = "SCHED_RESET_ON_FORK".into(),
            Some("SCHED_FLAG_DL_OVERRUN") => *flag = "SCHED_FLAG_D_L_OVERRUN".into(),
            _ => {}
        }
    }
}

/// The second try, for documents that the strict types refuse: engines written in Go
/// leave out what is zero and write `null` for what is empty, and some names are spelled
/// otherwise by the types.
fn tolerant<T: serde::de::DeserializeOwned>(
    document: &'static str,
    text: &[u8],
) -> Result<T, Error> {
    let mut repaired = serde_json::from_slice::<serde_json::Value>(text)
        .map_err(|source| Error::Syntax { document, source })?;
    drop_nulls(&mut repaired);
    let process = match document {
        CONFIG => repaired.get_mut("process"),
        PROCESS => Some(&mut repaired),
        _ => None,
    };
    if let Some(process) = process.and_then(|process| process.as_object_mut()) {
        let user = process.entry("user").or_insert_with(|| serde_json::json!({}));
        if let Some(user) = user.as_object_mut() {
            user.entry("uid").or_insert(0.into());
            user.entry("gid").or_insert(0.into());
        }
        process.entry("cwd").or_insert("".into());
        respell_flags(process.get_mut("scheduler"));
        if let Some(sets) = process.get_mut("capabilities") {
            let unknown = drop_unknown_capabilities(sets);
            if !unknown.is_empty() {
                tracing::warn!(
                    "process.capabilities: ignoring unknown or unavailable capabilities: [{}]",
                    unknown.join(" ").escape_default()
                );
            }
        }
    }
    if let Ok(parsed) = serde_json::from_value(repaired.clone()) {
        return Ok(parsed);
    }
    let text =
        serde_json::to_vec(&repaired).map_err(|source| Error::Syntax { document, source })?;
    let mut json = serde_json::Deserializer::from_slice(&text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        Error::Field { document, field, source: error.into_inner() }
    })
}

fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// What is looked for before parsing.
struct Scan {
    depth: usize,
    escaped_nul: bool,
    /// A name may be there that the types drop.
    dropped: bool,
}

/// Strings that begin as the names do which [`read_dropped`] looks for.
const DROPPED: [&[u8]; 4] = [b"enableCMT", b"enableMBM", b"freebsd", b"pagesize"];

/// One pass over the text: how deep it nests, whether a string may hold a NUL or be a name that
/// the types drop.
fn scan(text: &[u8]) -> Scan {
    let (mut depth, mut deepest, mut string) = (0_usize, 0, false);
    let (mut escaped_nul, mut dropped) = (false, false);
    let mut at = 0;
    while at < text.len() {
        match (text[at], string) {
            (b'"', true) => string = false,
            (b'"', false) => {
                string = true;
                let rest = &text[at + 1..];
                dropped = dropped || DROPPED.iter().any(|name| rest.starts_with(name));
            }
            (b'\\', true) => {
                escaped_nul |= text[at + 1..].starts_with(b"u0000");
                // A name may be spelled with escapes, too.
                dropped |= text.get(at + 1) == Some(&b'u');
                at += 1;
            }
            (b'{' | b'[', false) => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (b'}' | b']', false) => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Scan { depth: deepest, escaped_nul, dropped }
}

fn find_nul(value: &serde_json::Value, path: String) -> Option<String> {
    match value {
        serde_json::Value::String(text) => text.contains('\0').then_some(path),
        serde_json::Value::Array(list) => list
            .iter()
            .enumerate()
            .find_map(|(index, item)| find_nul(item, format!("{path}[{index}]"))),
        serde_json::Value::Object(map) => map.iter().find_map(|(key, item)| {
            let dot = if path.is_empty() { "" } else { "." };
            let inner = format!("{path}{dot}{}", key.escape_debug());
            if key.contains('\0') { Some(inner) } else { find_nul(item, inner) }
        }),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut vm = None;
        let spec = spec::Spec::deserialize(WithoutVm { inner: deserializer, vm: &mut vm })?;
        Ok(Config { spec, vm })
    }
}

/// Hands a map on and keeps the value of `vm` back.
struct WithoutVm<'a, T> {
    inner: T,
    vm: &'a mut Option<Vm>,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for WithoutVm<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(WithoutVm { inner: visitor, vm: self.vm })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map struct enum
        identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for WithoutVm<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(WithoutVm { inner: map, vm: self.vm })
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutVm<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.inner.next_key::<String>()? {
            if key != "vm" {
                return seed.deserialize(key.into_deserializer()).map(Some);
            }
            *self.vm = self.inner.next_value()?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests;
