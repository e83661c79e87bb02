//! The table in a form that outlives the process: every file by the name the
//! guest last saw it at. Names are what two hosts with copies of one tree
//! have in common; descriptors and inode numbers are not.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::super::sys;
use super::{Entry, Held, Inode, Inodes, ROOT};

/// One file the guest knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedInode {
    /// Its node id.
    id: u64,
    /// References the guest holds.
    refs: u64,
    /// Node id of its directory.
    parent: u64,
    /// Its name there.
    name: Vec<u8>,
    /// `S_IF*`.
    kind: u32,
}

/// Why the table could not be saved or restored.
#[derive(Debug, PartialEq, Eq)]
pub enum StateError {
    /// A file in use is not where the guest last saw it (deleted, most often).
    NoPlace,
    /// A file of the state is not in this tree.
    Missing,
    /// It is there, but is something else.
    Kind,
    /// The state contradicts itself.
    Malformed,
}

impl Inodes {
    /// All files but the root, and the next node id.
    pub fn save(&self) -> Result<(Vec<SavedInode>, u64), StateError> {
        let (entries, next) = {
            let table = self.lock();
            let entries: Vec<_> =
                table.by_id.values().map(|entry| (entry.inode.clone(), entry.refs)).collect();
            (entries, table.next)
        };
        let mut list = Vec::with_capacity(entries.len());
        for (inode, refs) in entries.into_iter().filter(|(inode, _)| inode.id != ROOT) {
            let place = inode.held().place.clone();
            let (parent, name) = place.ok_or(StateError::NoPlace)?;
            let above = self.get(parent).map_err(|_| StateError::NoPlace)?;
            let found = sys::open_path(above.fd(), &name).and_then(|fd| sys::stat(fd.as_fd()));
            if !found.is_ok_and(|seen| inode.is(&seen)) {
                return Err(StateError::NoPlace);
            }
            list.push(SavedInode {
                id: inode.id,
                refs,
                parent,
                name: name.into_bytes(),
                kind: inode.kind,
            });
        }
        list.sort_by_key(|saved| saved.id);
        Ok((list, next))
    }

    /// Finds all files of a saved table in this tree. The table must know
    /// nothing but the root.
    pub fn restore(&self, list: Vec<SavedInode>, next: u64) -> Result<(), StateError> {
        let mut waiting: HashMap<u64, Vec<SavedInode>> = HashMap::new();
        let total = list.len();
        for saved in list {
            // An id twice, or one to be given again, would be two files.
            if saved.id <= ROOT || saved.id >= next || saved.refs == 0 {
                return Err(StateError::Malformed);
            }
            waiting.entry(saved.parent).or_default().push(saved);
        }
        let mut ready = vec![ROOT];
        let mut done = 0;
        while let Some(parent) = ready.pop() {
            for saved in waiting.remove(&parent).unwrap_or_default() {
                ready.push(saved.id);
                self.restore_one(saved)?;
                done += 1;
            }
        }
        self.lock().next = next;
        // What is left hangs on nothing.
        if done == total { Ok(()) } else { Err(StateError::Malformed) }
    }

    fn restore_one(&self, saved: SavedInode) -> Result<(), StateError> {
        let name = CString::new(saved.name).map_err(|_| StateError::Malformed)?;
        if super::super::tree::component(&name).is_err() {
            return Err(StateError::Malformed);
        }
        let parent = self.get(saved.parent).map_err(|_| StateError::Missing)?;
        let fd = sys::open_path(parent.fd(), &name).map_err(|_| StateError::Missing)?;
        let seen = sys::stat(fd.as_fd()).map_err(|_| StateError::Missing)?;
        if seen.stat.st_mode & libc::S_IFMT != saved.kind {
            return Err(StateError::Kind);
        }
        let inode = Arc::new(Inode {
            id: saved.id,
            key: seen.key,
            born: seen.born,
            kind: saved.kind,
            opened_mtime: AtomicI64::new(i64::MIN),
            used: AtomicBool::new(false),
            held: Mutex::new(Held { fd: Some(Arc::new(fd)), place: Some((saved.parent, name)) }),
        });
        let mut table = self.lock();
        if table.by_id.contains_key(&saved.id) {
            return Err(StateError::Malformed);
        }
        table.by_key.insert(seen.key, saved.id);
        table.by_id.insert(saved.id, Entry { inode, refs: saved.refs });
        table.opened(saved.id);
        drop(table);
        self.trim();
        Ok(())
    }
}
