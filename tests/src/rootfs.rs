//! The root file system of the behaviours: busybox and what a small
//! distribution has around it. Copied once per run; a bundle's own root is
//! directories and hard links, so it may be spoilt without harm to others.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Where the static busybox of the distribution is.
pub const BUSYBOX: &str = "/bin/busybox";

const APPLETS: &[&str] = &[
    "arch",
    "ash",
    "awk",
    "base64",
    "basename",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "chroot",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "getopt",
    "grep",
    "head",
    "hostname",
    "id",
    "ifconfig",
    "ionice",
    "ip",
    "kill",
    "killall",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mktemp",
    "mount",
    "mv",
    "nc",
    "nproc",
    "od",
    "pidof",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "renice",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "su",
    "sync",
    "sysctl",
    "tail",
    "taskset",
    "tee",
    "test",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "truncate",
    "tty",
    "umount",
    "uname",
    "uniq",
    "unshare",
    "usleep",
    "vi",
    "wc",
    "which",
    "whoami",
    "xargs",
    "xxd",
    "yes",
];

const DIRS: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "home",
    "home/user",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "var",
    "var/tmp",
];

/// Copies busybox to `shared`, to be linked from there.
pub fn prepare(shared: &Path) -> io::Result<()> {
    fs::create_dir_all(shared)?;
    let to = shared.join("busybox");
    fs::copy(BUSYBOX, &to)?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
}

/// Makes a root at `root` from what [`prepare`] made.
pub fn make(shared: &Path, root: &Path) -> io::Result<()> {
    fs::create_dir_all(root)?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    for dir in DIRS {
        fs::create_dir(root.join(dir))?;
    }
    for open in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(open), fs::Permissions::from_mode(0o1777))?;
    }
    fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700))?;
    std::os::unix::fs::chown(root.join("home/user"), Some(1000), Some(1000))?;
    let busybox = root.join("bin/busybox");
    fs::hard_link(shared.join("busybox"), &busybox)?;
    for applet in APPLETS {
        fs::hard_link(&busybox, root.join("bin").join(applet))?;
    }
    symlink("../../bin/env", root.join("usr/bin/env"))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\naudio:x:29:user\n")
}
