//! The initramfs format: cpio "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// Writes an archive.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Archive {
        Archive::default()
    }

    /// A directory, mode 0755.
    pub fn directory(&mut self, name: &str) {
        self.header(name, libc::S_IFDIR | 0o755, 0, (0, 0));
    }

    /// A file with this content.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.header(name, libc::S_IFREG | mode, content.len() as u64, (0, 0));
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// The beginning of a file whose content of `size` bytes is to follow
    /// elsewhere; everything so far, without the archive's end.
    pub fn begin_file(mut self, name: &str, mode: u32, size: u64) -> Vec<u8> {
        self.header(name, libc::S_IFREG | mode, size, (0, 0));
        self.bytes
    }

    /// A character device, mode 0600.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.header(name, libc::S_IFCHR | 0o600, 0, (major, minor));
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.header("TRAILER!!!", 0, 0, (0, 0));
        self.bytes
    }

    fn header(&mut self, name: &str, mode: u32, size: u64, (major, minor): (u32, u32)) {
        self.entries += 1;
        let links = if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
        // rdevmajor, rdevminor, namesize, check: the same input, the same bytes.
        let fields = [
            u64::from(self.entries),
            u64::from(mode),
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            u64::from(major),
            u64::from(minor),
            name.len() as u64 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_begin_at_multiples_of_four() {
        let mut archive = Archive::new();
        archive.directory("d");
        archive.file("d/f", 0o644, b"12345");
        archive.device("d/console", 5, 1);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<_> =
            (0..bytes.len() - 5).filter(|i| &bytes[*i..i + 6] == b"070701").collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|i| i % 4 == 0), "{starts:?}");
    }

    #[test]
    fn what_cpio_lists_is_what_was_put_in() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut archive = Archive::new();
        archive.directory("dir");
        let mut bytes = archive.begin_file("init", 0o755, 3);
        bytes.extend(b"abc\0");
        bytes.extend(Archive::new().finish());
        let child = Command::new("cpio")
            .args(["--list", "--verbose"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        // Not everywhere installed.
        let Ok(mut child) = child else { return };
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let out = child.wait_with_output().unwrap();
        let list = String::from_utf8(out.stdout).unwrap();
        assert!(list.contains("drwxr-xr-x") && list.contains("-rwxr-xr-x"), "{list}");
        assert!(list.contains("init"), "{list}");
    }
}
