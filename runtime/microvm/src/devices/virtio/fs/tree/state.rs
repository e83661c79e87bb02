//! What a guest knows of the tree, kept beyond the life of this process.

use std::io;

use serde::{Deserialize, Serialize};

use super::super::handle::SavedHandle;
use super::super::inode::{SavedInode, StateError};
use super::{Tree, open_dir};

/// The tree's part of a saved machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    inodes: Vec<SavedInode>,
    next_inode: u64,
    handles: Vec<SavedHandle>,
    last_handle: u64,
}

impl Tree {
    /// All that the guest knows. A file that has lost its name while the
    /// guest uses it cannot be saved.
    pub fn save(&self) -> Result<Saved, StateError> {
        let (inodes, next_inode) = self.inodes.save()?;
        let (handles, last_handle) = self.handles.save();
        Ok(Saved { inodes, next_inode, handles, last_handle })
    }

    /// Makes the guest's numbers mean the same files again; the tree must have
    /// been used by nobody yet. After an error it knows nothing.
    pub fn restore(&self, saved: Saved) -> Result<(), StateError> {
        let result = self.restore_all(saved);
        if result.is_err() {
            self.forget_all();
        }
        result
    }

    fn restore_all(&self, saved: Saved) -> Result<(), StateError> {
        self.inodes.restore(saved.inodes, saved.next_inode)?;
        for handle in &saved.handles {
            if handle.number > saved.last_handle {
                return Err(StateError::Malformed);
            }
            let reopen = || -> io::Result<_> {
                let node = self.inodes.get(handle.inode)?;
                if handle.dir {
                    open_dir(&node)
                } else {
                    // It was truncated when it was opened, not now.
                    self.open_file(&node, handle.flags & !libc::O_TRUNC, false)
                }
            };
            self.handles.restore(handle, reopen().map_err(|_| StateError::Missing)?);
        }
        self.handles.set_last(saved.last_handle);
        Ok(())
    }
}
