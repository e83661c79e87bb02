//! Where a host keeps its kernels and their modules.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::Error;

/// Where distributions install kernels.
pub const BOOT: &str = "/boot";

/// The newest `vmlinuz-*` of a directory.
pub fn newest(boot: &Path) -> Result<PathBuf, Error> {
    let none = || Error::NoneInstalled { directory: boot.to_owned() };
    let entries = match std::fs::read_dir(boot) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(none()),
        Err(e) => return Err(Error::io("list", boot, e)),
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()))
        // What package managers leave behind while they work.
        .filter(|version| !version.ends_with(".dpkg-new") && !version.ends_with(".dpkg-tmp"))
        .max_by(|a, b| compare(a, b))
        .map(|version| boot.join(format!("vmlinuz-{version}")))
        .ok_or_else(none)
}

/// Compares versions: runs of digits by their value, the rest by its letters,
/// and `~` before everything, even the end.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        if a.is_empty() && b.is_empty() {
            return Ordering::Equal;
        }
        let (x, y) = (number(&mut a), number(&mut b));
        let rank = |s: &[u8]| match s.first() {
            Some(b'~') => 0,
            None => 1,
            Some(b) if b.is_ascii_digit() => 1,
            Some(b) => u32::from(*b) + 2,
        };
        match x.cmp(&y).then(rank(a).cmp(&rank(b))) {
            Ordering::Equal => {}
            other => return other,
        }
        if !a.first().is_some_and(u8::is_ascii_digit) {
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
    }
}

/// Takes leading digits off, as a number (capped, which orders well enough).
fn number(s: &mut &[u8]) -> u64 {
    let len = s.iter().take_while(|b| b.is_ascii_digit()).count();
    let (digits, rest) = s.split_at(len);
    *s = rest;
    digits.iter().fold(0, |n: u64, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0')))
}

/// The module directory of a kernel: beside the `boot` directory its file is
/// in, or the host's own.
pub fn modules(kernel: &Path, release: &str) -> Option<PathBuf> {
    if release.is_empty() {
        return None;
    }
    let beside = kernel.parent().and_then(Path::parent);
    let roots = beside.into_iter().chain([Path::new("/")]);
    roots
        .flat_map(|root| [root.join("lib/modules"), root.join("usr/lib/modules")])
        .map(|dir| dir.join(release))
        .find(|dir| dir.join("modules.builtin").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_people_do() {
        let sorted = [
            "5.10.0-28-amd64",
            "6.1.0-9-amd64",
            "6.1.0-10-amd64",
            "6.1.0-10-cloud-amd64",
            "6.12~rc1-amd64",
            "6.12-amd64",
            "6.12.117+deb12-amd64",
            "10.0",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
    }

    #[test]
    fn the_newest_of_a_directory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let error = newest(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no vmlinuz-*"), "{error}");
        for name in ["vmlinuz-6.1.0-9", "vmlinuz-6.1.0-10", "vmlinuz-6.1.0-11.dpkg-new", "config-7"]
        {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(newest(dir.path()).unwrap(), dir.path().join("vmlinuz-6.1.0-10"));
        assert!(newest(&dir.path().join("nowhere")).is_err());
    }
}
