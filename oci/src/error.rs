//! What can be wrong with a document, always with the JSON path of the field.

use std::path::PathBuf;

/// Why a document was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("reading {}: {}", path.display(), words(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The document is larger than any honest one.
    #[error("{document} is larger than {limit} bytes")]
    TooLarge {
        /// Which document.
        document: &'static str,
        /// The limit that it exceeds.
        limit: u64,
    },
    /// The document nests deeper than any honest one.
    #[error("{document} is nested more than {limit} deep")]
    TooDeep {
        /// Which document.
        document: &'static str,
        /// The limit that it exceeds.
        limit: usize,
    },
    /// The text is not JSON.
    #[error("{document} is not valid JSON: {source}")]
    Syntax {
        /// Which document.
        document: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field has a type or value that the specification does not know.
    #[error("{document}: {field}: {}{source}", memory_policy(field))]
    Field {
        /// Which document.
        document: &'static str,
        /// JSON path of the field, as in `linux.namespaces[0].type`.
        field: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A field is well formed and still cannot be honoured.
    #[error("{document}: {field}: {problem}")]
    Invalid {
        /// Which document.
        document: &'static str,
        /// JSON path of the field.
        field: String,
        /// Why.
        problem: Problem,
    },
}

/// What a field that parses may still do wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The specification requires the field.
    #[error("is required")]
    Missing,
    /// The field is there and says nothing.
    #[error("must not be empty")]
    Empty,
    /// A path that has to start at the root does not.
    #[error("{0:?} must be an absolute path")]
    NotAbsolute(PathBuf),
    /// A path may not climb.
    #[error("{0:?} must not contain \"..\"")]
    Climbs(PathBuf),
    /// The same thing was given twice.
    #[error("duplicated {0}")]
    Duplicate(String),
    /// A string that goes to the kernel cannot hold NUL.
    #[error("must not contain a NUL character")]
    Nul,
    /// A version of the specification that is not honoured.
    #[error("version {0:?} is not supported (1.x is)")]
    Version(String),
    /// The text has to have another form.
    #[error("{value:?} is not {expected}")]
    Form {
        /// What was given.
        value: String,
        /// What had to be given.
        expected: &'static str,
    },
    /// A number is outside its range.
    #[error("{value} is not in {min}..={max}")]
    Range {
        /// What was given.
        value: i128,
        /// Least allowed.
        min: i128,
        /// Most allowed.
        max: i128,
    },
    /// The field needs another one, which is not there.
    #[error("needs {0}")]
    Needs(&'static str),
    /// The field belongs to another platform or cannot be honoured here.
    #[error("is not supported: {0}")]
    Unsupported(&'static str),
    /// Something exclusive was given with this field.
    #[error("cannot be combined with {0}")]
    Conflict(&'static str),
}

/// What runc calls these errors, whose field says little by itself.
fn memory_policy(field: &str) -> &'static str {
    match field.strip_prefix("linux.memoryPolicy") {
        Some("" | ".mode") => "invalid memory policy mode: ",
        Some(flags) if flags.starts_with(".flags") => "invalid memory policy flag: ",
        _ => "",
    }
}

/// What the kernel said, in the small letters that engines look for in messages, and without
/// the error's number.
pub fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = match text.rfind(" (os error ") {
        Some(at) => &text[..at],
        None => &text,
    };
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_small_and_plain() {
        assert_eq!(words(&std::io::Error::from_raw_os_error(2)), "no such file or directory");
        assert_eq!(words(&std::io::Error::other("Out of luck")), "out of luck");
    }
}
