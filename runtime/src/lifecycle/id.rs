//! A container's id: a name that is a directory of its own, and nothing else.

use crate::{Error, Result};
use std::ffi::OsStr;
use std::fmt;

/// Longest file name that Linux knows; the id is one.
const MAX: usize = 255;

/// A validated id: letters, digits, `_`, `+`, `-` and `.` (and `,`, as runc's expression lets by).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    /// Checks a text given by the user.
    pub fn parse(text: &OsStr) -> Result<Self> {
        match text.to_str() {
            Some(text) if Self::is_valid(text) => Ok(Id(text.to_owned())),
            _ => Err(Error::InvalidId(text.to_string_lossy().into_owned())),
        }
    }

    /// Whether a directory of this name may be a container's.
    pub fn is_valid(text: &str) -> bool {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_+,-.".contains(&byte);
        !text.is_empty()
            && text.len() <= MAX
            && text != "."
            && text != ".."
            && text.bytes().all(letter)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runc_takes_is_taken() {
        for text in ["a", "A-b_c.d+e", "0", ".x", "...", "-", &"x".repeat(255)] {
            assert!(Id::is_valid(text), "{text}");
        }
    }

    #[test]
    fn what_could_leave_the_root_is_refused() {
        for text in ["", ".", "..", "a/b", "../x", "a b", "ä", "@cache", "a\0", &"x".repeat(256)] {
            assert!(!Id::is_valid(text), "{text}");
        }
    }
}
