//! Keeps a paused machine in files and brings it back.

/// Saving or restoring failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {}
