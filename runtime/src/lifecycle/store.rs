//! The state directory: `<root>/<id>/state.json`, one directory for each container.
//!
//! The directory itself is the claim on an id (`mkdir` fails when it is taken) and its lock
//! (`flock`): who creates, starts or deletes holds it. A directory without `state.json` whose
//! lock is free was left by a `create` that was killed, and is nobody's.

use super::Id;
use crate::wall::Container;
use crate::{Error, Result};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";

/// How long a guard may take to undo a killed `create`; after that it must have been killed, too.
const UNDOING_PATIENCE: Duration = Duration::from_secs(40);

/// The containers of one root.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A held lock on a container's directory.
#[derive(Debug)]
pub struct Lock {
    dir: File,
}

impl Lock {
    /// Waits for the lock of a directory; `None` when there is no such directory (any more).
    fn take(path: &Path) -> Result<Option<Self>> {
        loop {
            let dir = match File::open(path) {
                Ok(dir) => dir,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(Error::file("opening", path, source)),
            };
            let lock = Lock { dir };
            lock.acquire()?;
            // Another may have removed the directory, and even made it anew, meanwhile.
            let (mine, there) = (lock.dir.metadata(), fs::metadata(path));
            match (mine, there) {
                (Ok(mine), Ok(there)) if (mine.dev(), mine.ino()) == (there.dev(), there.ino()) => {
                    return Ok(Some(lock));
                }
                _ => continue,
            }
        }
    }

    fn flock(&self, operation: libc::c_int) -> io::Result<()> {
        loop {
            // SAFETY: the descriptor is open; flock touches no memory of ours.
            if unsafe { libc::flock(self.dir.as_raw_fd(), operation) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn acquire(&self) -> Result<()> {
        self.flock(libc::LOCK_EX).map_err(|source| Error::System { operation: "flock", source })
    }

    fn try_acquire(&self) -> bool {
        self.flock(libc::LOCK_EX | libc::LOCK_NB).is_ok()
    }

    /// Lets others in, without forgetting which directory it is.
    pub fn release(&self) {
        let _ = self.flock(libc::LOCK_UN);
    }

    /// Takes a released lock again; false when the directory was removed meanwhile.
    pub fn retake(&self) -> Result<bool> {
        self.acquire()?;
        Ok(self.dir.metadata().is_ok_and(|dir| dir.nlink() > 0))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A container's process that was cloned meanwhile has the descriptor, too: closing ours
        // would not unlock.
        self.release();
    }
}

/// An id that was claimed for a container being made; dropped, it is given back.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    lock: Option<Lock>,
}

impl Claim {
    /// The container's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lock's descriptor.
    pub fn lock_fd(&self) -> Result<BorrowedFd<'_>> {
        self.lock.as_ref().map(|lock| lock.dir.as_fd()).ok_or(Error::Claimless)
    }

    /// Keeps the text of `config.json` as it is now: what a later `exec` goes by.
    pub fn save_config(&self, text: &[u8]) -> Result<()> {
        let path = self.path.join(CONFIG);
        create_file(&path, text).map_err(|source| Error::file("writing", &path, source))
    }

    /// Writes `state.json`: from now on the container exists.
    pub fn commit(mut self, container: &Container) -> Result<Lock> {
        write_atomically(&self.path.join(STATE), &encode(container)?)?;
        self.lock.take().ok_or(Error::Claimless)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.lock.is_some() {
            let _ = remove_dir(&self.path);
        }
    }
}

/// Removes a container's directory. What is usually in it is known: looking costs more.
fn remove_dir(path: &Path) -> io::Result<()> {
    for name in [STATE, CONFIG] {
        let _ = fs::remove_file(path.join(name));
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(path),
        outcome => outcome,
    }
}

impl Store {
    /// The containers below this directory.
    pub fn new(root: PathBuf) -> Self {
        Store { root }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn dir(&self, id: &Id) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Claims an id; the guard removes the claim should this process be killed.
    pub fn claim(&self, id: &Id, guard: Option<&container::Guard>) -> Result<Claim> {
        let path = self.dir(id);
        let Some(guard) = guard else { return self.claim_path(path) };
        guard.state_directory(&path);
        let claim = self.claim_path(path);
        match &claim {
            Ok(claim) => guard.state_directory_made(claim.lock_fd()?),
            Err(_) => guard.forget_state_directory(),
        }
        claim
    }

    fn claim_path(&self, path: PathBuf) -> Result<Claim> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        let mut made = builder.create(&path);
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            builder.recursive(true);
            builder
                .create(&self.root)
                .map_err(|source| Error::file("making", &self.root, source))?;
            builder.recursive(false);
            made = builder.create(&path);
        }
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists) {
            if !self.reclaim(&path)? {
                return Err(Error::Exists);
            }
            made = builder.create(&path);
        }
        match made {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(Error::Exists),
            Err(source) => return Err(Error::file("making", &path, source)),
        }
        let dir = File::open(&path).map_err(|source| Error::file("opening", &path, source))?;
        let lock = Lock { dir };
        lock.acquire()?;
        Ok(Claim { path, lock: Some(lock) })
    }

    /// Removes what a killed `create` left; false when the directory is a container's.
    fn reclaim(&self, path: &Path) -> Result<bool> {
        if path.join(STATE).exists() {
            return Ok(false);
        }
        let Ok(dir) = File::open(path) else { return Ok(false) };
        let lock = Lock { dir };
        let others = || path.join(STATE).exists() || path.join(container::UNDOING).exists();
        if !lock.try_acquire() || others() {
            return Ok(false);
        }
        Ok(remove_dir(path).is_ok())
    }

    /// Reads a container.
    pub fn load(&self, id: &Id) -> Result<Container> {
        self.load_from(self.dir(id))
    }

    fn load_from(&self, state_dir: PathBuf) -> Result<Container> {
        let path = state_dir.join(STATE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Err(Error::NotFound);
            }
            Err(source) => return Err(Error::file("reading", &path, source)),
        };
        let mut container: Container = serde_json::from_slice(&text)
            .map_err(|source| Error::Corrupt { path: path.clone(), source })?;
        container.state_dir = state_dir;
        Ok(container)
    }

    /// Locks and reads a container.
    pub fn lock(&self, id: &Id) -> Result<(Lock, Container)> {
        let lock = Lock::take(&self.dir(id))?.ok_or(Error::NotFound)?;
        let container = self.load(id)?;
        Ok((lock, container))
    }

    /// The configuration that a container was made with.
    pub fn config(&self, container: &Container) -> Result<oci::Config> {
        Ok(oci::load_trusted(&container.state_dir.join(CONFIG))?)
    }

    /// Writes `state.json` anew; the caller holds the lock.
    pub fn save(&self, container: &Container) -> Result<()> {
        write_atomically(&container.state_dir.join(STATE), &encode(container)?)
    }

    /// Forgets a container; the caller holds the lock.
    pub fn remove(&self, state_dir: &Path) -> Result<()> {
        match remove_dir(state_dir) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(Error::file("removing", state_dir, source))
            }
            _ => Ok(()),
        }
    }

    /// Removes the directory of a container that cannot be read (a killed `create`, a damaged
    /// file), waiting for its lock. The configuration that was in it, if there was one, tells what
    /// else may have been made.
    pub fn discard(&self, id: &Id) -> Result<Option<oci::Config>> {
        let path = self.dir(id);
        let end = Instant::now() + UNDOING_PATIENCE;
        let _lock = loop {
            let Some(lock) = Lock::take(&path)? else { return Ok(None) };
            // A killed create's guard makes way for that create's other processes only.
            if !path.join(container::UNDOING).exists() || Instant::now() > end {
                break lock;
            }
            drop(lock);
            std::thread::sleep(Duration::from_millis(2));
        };
        let config = oci::load_trusted(&path.join(CONFIG)).ok();
        self.remove(&path)?;
        Ok(config)
    }

    /// All containers, by id. What cannot be read is handed out as its error.
    pub fn list(&self) -> Result<Vec<(String, Result<Container>)>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::file("reading", &self.root, source)),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| Id::is_valid(name))
            .collect();
        names.sort_unstable();
        let read = |name: String| match self.load_from(self.root.join(&name)) {
            Err(Error::NotFound) => None,
            outcome => Some((name, outcome)),
        };
        Ok(names.into_iter().filter_map(read).collect())
    }
}

fn encode(container: &Container) -> Result<Vec<u8>> {
    serde_json::to_vec(container).map_err(|source| Error::Encode { what: STATE, source })
}

fn create_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)
}

/// Writes a file so that a reader sees all of it or none.
fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    create_file(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source| Error::file("writing", path, source))
}

/// Writes a pid file so that who waits for it never reads half a number.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}"));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o666)
            .open(&temporary)?;
        write!(file, "{pid}")?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        Error::file("writing", path, source)
    })
}

#[cfg(test)]
mod tests;
