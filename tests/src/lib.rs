//! Behaviour that crosses crates: one list for every wall.
