//! The directory of prepared kernels.
//!
//! ```text
//! <store>/lock                     held while something is prepared or removed
//! <store>/<digest>/kernel.json     what it was made from and what it holds
//! <store>/<digest>/vmlinux
//! <store>/<digest>/modules.cpio    if the kernel has modules
//! <store>/by-file/<identity>       symlink to <digest>
//! ```
//!
//! The digest is that of the vmlinuz. So that a start need not read the whole
//! file, `by-file` remembers it for the file's identity (device, inode, size,
//! times); in the same way a prepared file is believed to be intact while its
//! own identity is the recorded one, and is read and compared otherwise.
//! A directory appears whole or not at all: it is made beside and renamed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cpio::Archive;
use super::image::{self, Image};
use super::{Error, host, modules};

/// Changes whenever the same kernel would be prepared differently.
const RECIPE: u32 = 1;

/// The largest kernel file that is read.
const FILE_LIMIT: u64 = 512 << 20;

/// Where the agent finds the list of modules to load, in order, one path a
/// line.
pub const MODULE_ORDER: &str = "lib/modules/order";

/// One prepared kernel, as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// How it was made.
    pub recipe: u32,
    /// SHA-256 of the vmlinuz.
    pub digest: String,
    /// `uname -r` of it; empty if it does not say.
    pub release: String,
    /// The vmlinuz it was made from.
    pub source: PathBuf,
    /// The unpacked image.
    pub vmlinux: Part,
    /// The module archive, if there are modules.
    pub modules: Option<Part>,
    /// The modules in it, in the order they are loaded.
    #[serde(default)]
    pub module_names: Vec<String>,
}

/// One file of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Bytes.
    pub size: u64,
    /// Of its content.
    pub sha256: String,
    /// Of the file itself.
    pub identity: String,
}

/// What tells a file from another one, or from itself after a change.
fn identity(meta: &fs::Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The directory of prepared kernels.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// At this place; nothing is made before it is needed.
    pub fn at(dir: &Path) -> Store {
        Store { dir: dir.to_owned() }
    }

    /// A file of an entry.
    pub fn file(&self, entry: &Entry, name: &str) -> PathBuf {
        self.dir.join(&entry.digest).join(name)
    }

    /// The prepared form of the vmlinuz at `path`, or none if `path` is an
    /// uncompressed image, which needs no preparing. `notice` is called once
    /// if it has to be prepared, which takes a second.
    pub fn prepared(
        &self,
        path: &Path,
        modules_needed: bool,
        notice: &mut dyn FnMut(&str),
    ) -> Result<Option<Entry>, Error> {
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let meta = file.metadata().map_err(|e| Error::io("stat", path, e))?;
        let key = identity(&meta);
        if let Some(entry) = self.known(path, &key) {
            return Ok(Some(entry));
        }
        if !meta.is_file() {
            return Err(Error::Image { path: path.to_owned(), source: image::Error::Neither });
        }
        if meta.len() > FILE_LIMIT {
            return Err(Error::TooLarge { path: path.to_owned(), size: meta.len() });
        }
        let mut head = [0u8; 20];
        let n = read_up_to(&mut file, &mut head).map_err(|e| Error::io("read", path, e))?;
        let bad = |source| Error::Image { path: path.to_owned(), source };
        // Read no further if it is a vmlinux of hundreds of megabytes.
        if head[..n].starts_with(b"\x7fELF") {
            image::look(&head[..n]).map_err(bad)?;
            return Ok(None);
        }
        let mut bytes = head[..n].to_vec();
        file.read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
        let Image::Bzimage { release, payload } = image::look(&bytes).map_err(bad)? else {
            return Ok(None);
        };
        let directory = host::modules(path, &release);
        if modules_needed && directory.is_none() {
            return Err(Error::NoModules {
                directory: Path::new("/lib/modules").join(&release),
                release,
            });
        }

        let _lock = self.lock()?;
        // Somebody else may have done it while we waited.
        if let Some(entry) = self.known(path, &key) {
            return Ok(Some(entry));
        }
        let digest = hex(&Sha256::digest(&bytes));
        let entry = match self.load(&digest) {
            Some(entry) if entry.is_current(directory.is_some()) => self.verified(entry)?,
            _ => None,
        };
        let entry = match entry {
            Some(entry) => entry,
            None => {
                notice(&release);
                let vmlinux = image::unpack_payload(payload).map_err(bad)?;
                self.make(&digest, &release, path, vmlinux, directory.as_deref())?
            }
        };
        self.remember(&key, &digest)?;
        Ok(Some(entry))
    }

    /// What is known of a file by its identity, if that is all as recorded.
    fn known(&self, path: &Path, key: &str) -> Option<Entry> {
        let target = fs::read_link(self.dir.join("by-file").join(key)).ok()?;
        let entry = self.load(target.file_name()?.to_str()?)?;
        let current = entry.is_current(entry.modules.is_some())
            && (entry.modules.is_some() || host::modules(path, &entry.release).is_none());
        (current && self.intact(&entry)).then_some(entry)
    }

    fn load(&self, digest: &str) -> Option<Entry> {
        let text = fs::read(self.dir.join(digest).join("kernel.json")).ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        (entry.digest == digest).then_some(entry)
    }

    fn parts<'a>(&self, entry: &'a Entry) -> Vec<(PathBuf, &'a Part)> {
        let mut parts = vec![(self.file(entry, "vmlinux"), &entry.vmlinux)];
        parts.extend(entry.modules.iter().map(|part| (self.file(entry, "modules.cpio"), part)));
        parts
    }

    /// Whether the files are the recorded ones, by identity.
    fn intact(&self, entry: &Entry) -> bool {
        self.parts(entry).iter().all(|(path, part)| {
            fs::symlink_metadata(path)
                .is_ok_and(|meta| meta.is_file() && identity(&meta) == part.identity)
        })
    }

    /// Whether the files have the recorded content.
    pub fn content_intact(&self, entry: &Entry) -> bool {
        self.parts(entry).iter().all(|(path, part)| {
            fs::read(path).is_ok_and(|bytes| hex(&Sha256::digest(&bytes)) == part.sha256)
        })
    }

    /// The entry with the identities its files have now, if their content is
    /// right (a store that was copied, say); under the lock.
    fn verified(&self, mut entry: Entry) -> Result<Option<Entry>, Error> {
        if !self.content_intact(&entry) {
            return Ok(None);
        }
        let dir = self.dir.join(&entry.digest);
        for (name, part) in
            [("vmlinux", Some(&mut entry.vmlinux)), ("modules.cpio", entry.modules.as_mut())]
        {
            if let Some(part) = part {
                let path = dir.join(name);
                let meta = fs::metadata(&path).map_err(|e| Error::io("stat", &path, e))?;
                part.identity = identity(&meta);
            }
        }
        write_record(&dir, &entry)?;
        Ok(Some(entry))
    }

    /// Makes an entry; under the lock.
    fn make(
        &self,
        digest: &str,
        release: &str,
        source: &Path,
        vmlinux: Vec<u8>,
        module_dir: Option<&Path>,
    ) -> Result<Entry, Error> {
        let temporary = Temporary::new(self.dir.join(format!(".new-{digest}")))?;
        let dir = &temporary.path;
        let image = write_part(&dir.join("vmlinux"), &vmlinux)?;
        drop(vmlinux);
        let (mut part, mut names) = (None, Vec::new());
        if let Some(module_dir) = module_dir {
            let index = modules::Index::read(module_dir)?;
            let plan = index.plan(release, &mut |path| modules::read(module_dir, path))?;
            part = Some(write_part(&dir.join("modules.cpio"), &archive(&plan))?);
            names = plan.into_iter().map(|m| m.name).collect();
        }
        let entry = Entry {
            recipe: RECIPE,
            digest: digest.to_owned(),
            release: release.to_owned(),
            source: fs::canonicalize(source).unwrap_or_else(|_| source.to_owned()),
            vmlinux: image,
            modules: part,
            module_names: names,
        };
        write_record(dir, &entry)?;
        let place = self.dir.join(digest);
        remove_tree(&place)?;
        fs::rename(dir, &place).map_err(|e| Error::io("rename to", &place, e))?;
        temporary.keep();
        sync_dir(&self.dir)?;
        Ok(entry)
    }

    /// Notes which digest a file has; under the lock.
    fn remember(&self, key: &str, digest: &str) -> Result<(), Error> {
        let dir = self.dir.join("by-file");
        make_dir(&dir)?;
        self.prune(&dir);
        let link = dir.join(key);
        let _ = fs::remove_file(&link);
        symlink(Path::new("..").join(digest), &link).map_err(|e| Error::io("symlink", &link, e))
    }

    /// Drops links to what is gone. They do no harm, so errors do not matter.
    fn prune(&self, links: &Path) {
        let entries = fs::read_dir(links).into_iter().flatten().flatten();
        for path in entries.map(|e| e.path()) {
            if fs::metadata(&path).is_err() {
                let _ = fs::remove_file(&path);
            }
        }
    }

    fn lock(&self) -> Result<Flock<File>, Error> {
        make_dir(&self.dir)?;
        let path = self.dir.join("lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io("open", &path, e))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, e)| Error::io("lock", &path, e.into()))
    }

    /// All prepared kernels, the newest version last.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", &self.dir, e)),
        };
        let mut list: Vec<Entry> =
            entries.filter_map(|e| self.load(e.ok()?.file_name().to_str()?)).collect();
        list.sort_by(|a, b| host::compare(&a.release, &b.release).then(a.digest.cmp(&b.digest)));
        Ok(list)
    }

    /// The prepared kernel with this version or (beginning of a) digest.
    pub fn find(&self, name: &str) -> Result<Entry, Error> {
        let fits = |e: &Entry| e.release == name || (name.len() >= 4 && e.digest.starts_with(name));
        let mut matches: Vec<Entry> = self.list()?.into_iter().filter(fits).collect();
        match matches.len() {
            0 => Err(Error::NotPrepared { name: name.into() }),
            1 => Ok(matches.remove(0)),
            _ => Err(Error::Ambiguous {
                name: name.into(),
                matches: matches.into_iter().map(|e| e.digest).collect(),
            }),
        }
    }

    /// Forgets a prepared kernel. Machines that run it do not mind.
    pub fn remove(&self, name: &str) -> Result<Entry, Error> {
        let _lock = self.lock()?;
        let entry = self.find(name)?;
        remove_tree(&self.dir.join(&entry.digest))?;
        self.prune(&self.dir.join("by-file"));
        Ok(entry)
    }
}

impl Entry {
    /// Whether it would be prepared the same way today.
    fn is_current(&self, has_modules: bool) -> bool {
        self.recipe == RECIPE && self.modules.is_some() == has_modules
    }
}

/// A directory that is removed unless kept.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// Made afresh: what a killed process left there is removed.
    fn new(path: PathBuf) -> Result<Temporary, Error> {
        remove_tree(&path)?;
        make_dir(&path)?;
        Ok(Temporary { path })
    }

    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = remove_tree(&self.path);
    }
}

/// The modules and the list of them.
fn archive(plan: &[modules::Module]) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.directory("lib");
    archive.directory("lib/modules");
    let mut order = String::new();
    for module in plan {
        let name = format!("lib/modules/{}.ko", module.name);
        archive.file(&name, 0o644, &module.object);
        order.push_str(&format!("/{name}\n"));
    }
    archive.file(MODULE_ORDER, 0o644, order.as_bytes());
    archive.finish()
}

fn read_up_to(file: &mut File, buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match file.read(&mut buf[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

/// Writes a file to disk for good and says what it is.
fn write_part(path: &Path, bytes: &[u8]) -> Result<Part, Error> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        file.metadata()
    };
    let meta = write().map_err(|e| Error::io("write", path, e))?;
    Ok(Part { size: meta.len(), sha256: hex(&Sha256::digest(bytes)), identity: identity(&meta) })
}

fn write_record(dir: &Path, entry: &Entry) -> Result<(), Error> {
    let path = dir.join("kernel.json");
    let temporary = dir.join("kernel.json.new");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(entry)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|e| Error::io("write", &path, e))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|e| Error::io("mkdir", path, e))
}

fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync", path, e))
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}
