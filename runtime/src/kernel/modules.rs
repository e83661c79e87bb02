//! Which modules a guest needs of a kernel, and in what order.
//!
//! Where modules are is read from `modules.dep` (or, for a tree that depmod
//! has not seen yet, `modules.order`), what is built in from
//! `modules.builtin`; what a module needs, from the module itself.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::Error;
use super::unpack;

/// Without these there is no guest: its devices, its root, its host.
pub const REQUIRED: [&str; 3] = ["virtio_mmio", "virtiofs", "vmw_vsock_virtio_transport"];

/// These are loaded where the kernel has them as modules.
pub const WANTED: [&str; 2] = ["virtio_rng", "overlay"];

/// The largest module that is believed, unpacked.
const LIMIT: usize = 256 << 20;

/// The modules of one kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Module name to path below the kernel's module directory.
    paths: HashMap<String, PathBuf>,
    builtin: HashSet<String>,
}

/// A module ready for the initramfs.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The ELF object.
    pub object: Vec<u8>,
}

/// A module's name from its path: what comes before `.ko`, with underscores
/// as the kernel has them.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

impl Index {
    /// From the text of `modules.dep` or `modules.order`, and of
    /// `modules.builtin`.
    pub fn parse(list: &str, builtin: &str) -> Index {
        let lines = list.lines().filter_map(|line| {
            let path = line.split_once(':').map_or(line, |(path, _)| path).trim();
            Some((name_of(path)?, PathBuf::from(path)))
        });
        Index { paths: lines.collect(), builtin: builtin.lines().filter_map(name_of).collect() }
    }

    /// Of the kernel whose modules are in `dir`.
    pub fn read(dir: &Path) -> Result<Index, Error> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))
        };
        let list = match read("modules.dep") {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                read("modules.order")?
            }
            other => other?,
        };
        Ok(Index::parse(&list, &read("modules.builtin")?))
    }

    /// The modules to load, each after what it needs. `load` gives a module's
    /// object by its path.
    pub fn plan(
        &self,
        release: &str,
        load: &mut dyn FnMut(&Path) -> Result<Vec<u8>, Error>,
    ) -> Result<Vec<Module>, Error> {
        let mut plan = Vec::new();
        for name in REQUIRED {
            if !self.paths.contains_key(name) && !self.builtin.contains(name) {
                return Err(Error::NoModule { name: name.into(), release: release.into() });
            }
            self.add(name, release, load, &mut Vec::new(), &mut plan)?;
        }
        for name in WANTED {
            self.add(name, release, load, &mut Vec::new(), &mut plan)?;
        }
        Ok(plan)
    }

    fn add(
        &self,
        name: &str,
        release: &str,
        load: &mut dyn FnMut(&Path) -> Result<Vec<u8>, Error>,
        under_way: &mut Vec<String>,
        plan: &mut Vec<Module>,
    ) -> Result<(), Error> {
        let done = plan.iter().any(|m| m.name == name) || under_way.iter().any(|n| n == name);
        // What is neither a module nor listed as built in is part of the
        // kernel proper, or the module would not have been linked.
        let Some(path) = self.paths.get(name).filter(|_| !done) else {
            return Ok(());
        };
        let object = load(path)?;
        let needs = depends(&object)
            .ok_or_else(|| Error::BadModule { name: name.into(), release: release.into() })?;
        under_way.push(name.to_owned());
        for need in needs {
            self.add(&need, release, load, under_way, plan)?;
        }
        under_way.pop();
        plan.push(Module { name: name.to_owned(), object });
        Ok(())
    }
}

/// Reads and unpacks the module at `path` below `dir`. `modules.order` names
/// modules without the suffix of their packing.
pub fn read(dir: &Path, path: &Path) -> Result<Vec<u8>, Error> {
    let mut tried = dir.join(path);
    let mut found = std::fs::read(&tried);
    for suffix in [".xz", ".zst", ".gz"] {
        if found.is_ok() {
            break;
        }
        let mut name = dir.join(path).into_os_string();
        name.push(suffix);
        if let Ok(bytes) = std::fs::read(&name) {
            tried = name.into();
            found = Ok(bytes);
        }
    }
    let bytes = found.map_err(|e| Error::io("read", &tried, e))?;
    unpack::unpack(&bytes, LIMIT).map_err(|source| Error::Unpack { path: tried, source })
}

/// The names in `depends=` of a module's `.modinfo` section (ELF-64, little
/// endian); none if it is no module.
fn depends(object: &[u8]) -> Option<Vec<String>> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(*object.get(at..)?.first_chunk()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(*object.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| {
        let value = u64::from_le_bytes(*object.get(at..)?.first_chunk()?);
        usize::try_from(value).ok()
    };
    if object.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let (table, size) = (u64_at(0x28)?, usize::from(u16_at(0x3a)?));
    let (count, names) = (usize::from(u16_at(0x3c)?), usize::from(u16_at(0x3e)?));
    let header = |i: usize| table.checked_add(size.checked_mul(i)?);
    let content = |header: usize| {
        let (at, len) = (u64_at(header.checked_add(0x18)?)?, u64_at(header.checked_add(0x20)?)?);
        object.get(at..at.checked_add(len)?)
    };
    let strings = content(header(names)?)?;
    for i in 0..count {
        let header = header(i)?;
        let name = strings.get(u32_at(header)? as usize..)?;
        if !name.starts_with(b".modinfo\0") {
            continue;
        }
        let fields = content(header)?.split(|b| *b == 0);
        let list = fields.filter_map(|f| f.strip_prefix(b"depends=")).next();
        let list = std::str::from_utf8(list.unwrap_or_default()).ok()?;
        let names = list.split(',').filter(|n| !n.is_empty());
        return Some(names.map(|n| n.replace('-', "_")).collect());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object with a `.modinfo` section and nothing else.
    fn object(depends: &str) -> Vec<u8> {
        let mut elf = vec![0u8; 64];
        elf[..5].copy_from_slice(b"\x7fELF\x02");
        let strings = b"\0.modinfo\0";
        let info = format!("license=GPL\0depends={depends}\0");
        let (s, i) = (64, 64 + strings.len());
        let table = i + info.len();
        elf.extend(strings);
        elf.extend(info.as_bytes());
        let mut section = |name: u32, at: usize, len: usize| {
            let mut header = [0u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
            elf.extend(header);
        };
        section(0, s, strings.len());
        section(1, i, info.len());
        elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        elf[0x3a] = 64;
        elf[0x3c] = 2;
        elf[0x3e] = 0;
        elf
    }

    const DEP: &str = "\
kernel/drivers/virtio/virtio_mmio.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/virtio/virtio_ring.ko.xz:
kernel/fs/fuse/virtiofs.ko.xz: kernel/fs/fuse/fuse.ko.xz
kernel/fs/fuse/fuse.ko.xz:
kernel/drivers/char/hw_random/virtio-rng.ko.xz:
";
    const BUILTIN: &str = "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko\n";

    fn names(index: &Index) -> Result<Vec<String>, Error> {
        let plan = index.plan("6.1", &mut |path| {
            Ok(object(match path.to_str().unwrap() {
                p if p.contains("virtio_mmio") => "virtio_ring",
                p if p.contains("virtiofs") => "fuse,virtio_ring,built-in",
                p if p.contains("fuse.ko") => "virtiofs",
                _ => "",
            }))
        })?;
        Ok(plan.into_iter().map(|m| m.name).collect())
    }

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let index = Index::parse(DEP, BUILTIN);
        // fuse and virtiofs need each other here, which must not go round.
        assert_eq!(
            names(&index).unwrap(),
            ["virtio_ring", "virtio_mmio", "fuse", "virtiofs", "virtio_rng"]
        );
    }

    #[test]
    fn what_is_required_and_nowhere_is_named() {
        let error = names(&Index::parse(DEP, "")).unwrap_err().to_string();
        assert!(error.contains("vmw_vsock_virtio_transport"), "{error}");
        assert!(error.contains("6.1"), "{error}");
    }

    #[test]
    fn the_order_file_does_where_there_is_no_dep_file() {
        let order: String = DEP
            .lines()
            .filter_map(|l| l.split_once(".xz:"))
            .map(|(path, _)| format!("{path}\n"))
            .collect();
        let index = Index::parse(&order, BUILTIN);
        assert_eq!(names(&index).unwrap().len(), 5);
    }

    #[test]
    fn a_module_that_is_none_is_refused() {
        let good = object("a,b-c");
        assert_eq!(depends(&good).unwrap(), ["a", "b_c"]);
        for cut in [0, 4, 63, 64, good.len() - 64] {
            assert_eq!(depends(&good[..cut]), None, "cut at {cut}");
        }
    }
}
