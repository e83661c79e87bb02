//! The options of a mount: what `mount(8)` and runc call them, what they mean to the kernel.
//!
//! Sources: mount(8), mount_setattr(2), "Mounts" of the runtime specification (config.md and
//! config-linux.md), runc's list in `hull features`.

use crate::sys::mount::{attr, propagation};

/// How a mount's ids are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum IdMap {
    #[default]
    No,
    /// The mount itself (`idmap`).
    Mount,
    /// The mount and all below it (`ridmap`).
    Tree,
}

/// Attributes to set and to clear of one mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl Attributes {
    fn set(&mut self, bits: u64) {
        self.set |= bits;
        self.clear &= !bits;
    }

    fn clear(&mut self, bits: u64) {
        self.clear |= bits;
        self.set &= !bits;
    }

    /// The ways to keep access times are one value, not bits.
    fn access_time(&mut self, way: u64) {
        self.set = (self.set & !attr::ATIME) | way;
        self.clear |= attr::ATIME;
    }
}

/// A parameter of the file system: `size=64k`, or a flag without a value.
pub(crate) type Parameter = (String, Option<String>);

/// What a list of options says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `bind` or `rbind`.
    pub(crate) bind: bool,
    /// `rbind`.
    pub(crate) recursive: bool,
    /// For the mount itself.
    pub(crate) attributes: Attributes,
    /// Some of `attributes` was named, be it to clear it.
    named: bool,
    /// A way to keep access times was asked for.
    times: bool,
    /// The attributes of a bind's source cannot be taken off: the container is in a user
    /// namespace, and the source came from outside.
    pub(crate) locked: bool,
    /// For the mount and all below it (`rro`, …).
    pub(crate) tree: Attributes,
    /// Propagation types in the order given, and whether for the whole tree.
    pub(crate) propagation: Vec<(u64, bool)>,
    /// Flags of the superblock, by the names that fsconfig(2) knows.
    pub(crate) superblock: Vec<&'static str>,
    /// `remount`: only attributes change.
    pub(crate) remount: bool,
    /// What was below is copied into the new tmpfs.
    pub(crate) copy_up: bool,
    /// Identity mapping of the mount.
    pub(crate) idmap: IdMap,
    /// Everything else goes to the file system.
    pub(crate) data: Vec<Parameter>,
}

/// Understands a list of options.
pub(crate) fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Options {
    let mut parsed = Options::default();
    for option in options {
        // One string may hold several, as mount(8) takes them, unless it is a value with commas
        // of its own (`lowerdir="a,b"`, SELinux contexts).
        parsed.take(option);
    }
    parsed
}

impl Options {
    fn take(&mut self, option: &str) {
        self.named |= OWN.contains(&option);
        self.times |= matches!(option, "noatime" | "relatime" | "strictatime" | "nodiratime");
        let own = &mut self.attributes;
        let tree = &mut self.tree;
        match option {
            "" | "defaults" | "nofail" | "auto" | "noauto" | "user" | "nouser" | "_netdev" => {}
            "bind" => self.bind = true,
            "rbind" => {
                self.bind = true;
                self.recursive = true;
            }
            "remount" => self.remount = true,
            "ro" => own.set(attr::RDONLY),
            "rw" => own.clear(attr::RDONLY),
            "nosuid" => own.set(attr::NOSUID),
            "suid" => own.clear(attr::NOSUID),
            "nodev" => own.set(attr::NODEV),
            "dev" => own.clear(attr::NODEV),
            "noexec" => own.set(attr::NOEXEC),
            "exec" => own.clear(attr::NOEXEC),
            "nodiratime" => own.set(attr::NODIRATIME),
            "diratime" => own.clear(attr::NODIRATIME),
            "nosymfollow" => own.set(attr::NOSYMFOLLOW),
            "symfollow" => own.clear(attr::NOSYMFOLLOW),
            "noatime" => own.access_time(attr::NOATIME),
            "strictatime" => own.access_time(attr::STRICTATIME),
            "relatime" | "atime" | "norelatime" | "nostrictatime" => {
                own.access_time(attr::RELATIME)
            }
            "rro" => tree.set(attr::RDONLY),
            "rrw" => tree.clear(attr::RDONLY),
            "rnosuid" => tree.set(attr::NOSUID),
            "rsuid" => tree.clear(attr::NOSUID),
            "rnodev" => tree.set(attr::NODEV),
            "rdev" => tree.clear(attr::NODEV),
            "rnoexec" => tree.set(attr::NOEXEC),
            "rexec" => tree.clear(attr::NOEXEC),
            "rnodiratime" => tree.set(attr::NODIRATIME),
            "rdiratime" => tree.clear(attr::NODIRATIME),
            "rnosymfollow" => tree.set(attr::NOSYMFOLLOW),
            "rsymfollow" => tree.clear(attr::NOSYMFOLLOW),
            "rnoatime" => tree.access_time(attr::NOATIME),
            "rstrictatime" => tree.access_time(attr::STRICTATIME),
            "rrelatime" | "ratime" | "rnorelatime" | "rnostrictatime" => {
                tree.access_time(attr::RELATIME)
            }
            "private" => self.propagation.push((propagation::PRIVATE, false)),
            "rprivate" => self.propagation.push((propagation::PRIVATE, true)),
            "slave" => self.propagation.push((propagation::SLAVE, false)),
            "rslave" => self.propagation.push((propagation::SLAVE, true)),
            "shared" => self.propagation.push((propagation::SHARED, false)),
            "rshared" => self.propagation.push((propagation::SHARED, true)),
            "unbindable" => self.propagation.push((propagation::UNBINDABLE, false)),
            "runbindable" => self.propagation.push((propagation::UNBINDABLE, true)),
            "sync" => self.flag("sync"),
            "async" => self.unflag("sync"),
            "dirsync" => self.flag("dirsync"),
            "mand" => self.flag("mand"),
            "nomand" => self.unflag("mand"),
            "lazytime" => self.flag("lazytime"),
            "nolazytime" => self.unflag("lazytime"),
            "iversion" => self.data.push(("iversion".into(), None)),
            "noiversion" => {}
            "silent" | "loud" => {}
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = IdMap::Mount,
            "ridmap" => self.idmap = IdMap::Tree,
            other => self.data.push(match other.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }

    fn flag(&mut self, name: &'static str) {
        if !self.superblock.contains(&name) {
            self.superblock.push(name);
        }
    }

    fn unflag(&mut self, name: &'static str) {
        self.superblock.retain(|known| *known != name);
    }

    /// What becomes of a bind's attributes, whose source has those of `source`. As with runc the
    /// source's are kept when none is named; otherwise those not asked for are taken off, but for
    /// access times, which another of their kind replaces. What is locked stays; to ask for its
    /// opposite is refused (`None`).
    pub(crate) fn of_bind(&self, source: Option<u64>) -> Option<Attributes> {
        let Attributes { set, clear } = self.attributes;
        let times = attr::ATIME | attr::NODIRATIME;
        if !self.named {
            return Some(Attributes::default());
        }
        let mut wanted =
            Attributes { set: set & PLAIN, clear: PLAIN & !set & !(self.tree.set & !clear) };
        if self.times {
            wanted.set |= set & times;
            wanted.clear |= attr::ATIME | (times & !set);
        }
        let Some(source) = source else { return Some(wanted) };
        let other_times = self.times && (set ^ source) & times != 0;
        if source & clear & LOCKABLE != 0 || other_times {
            return None;
        }
        wanted.clear &= !(source & LOCKABLE);
        wanted.set |= source & LOCKABLE;
        Some(wanted)
    }

    /// Whether `ro` is asked for.
    pub(crate) fn read_only(&self) -> bool {
        (self.attributes.set | self.tree.set) & attr::RDONLY != 0
    }
}

/// Attributes that are bits of their own.
const PLAIN: u64 = LOCKABLE | attr::NOSYMFOLLOW;

/// Those of them that a user namespace may not take off.
const LOCKABLE: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Options about attributes of the mount itself.
const OWN: &[&str] = &[
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "nodiratime",
    "diratime",
    "nosymfollow",
    "symfollow",
    "noatime",
    "atime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
];

/// All options that are not handed to the file system, for `features`.
pub const KNOWN: &[&str] = &[
    "_netdev",
    "async",
    "atime",
    "auto",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "noexec",
    "nofail",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "nouser",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
    "user",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_opposite_options_wins() {
        let options = parse(["ro", "nosuid", "rw", "suid", "nosuid"]);
        assert_eq!(options.attributes.set, attr::NOSUID);
        assert_eq!(options.attributes.clear, attr::RDONLY);
    }

    #[test]
    fn access_time_is_one_value() {
        let options = parse(["noatime", "strictatime"]);
        assert_eq!(options.attributes.set, attr::STRICTATIME);
        assert_eq!(options.attributes.clear & attr::ATIME, attr::ATIME);
    }

    #[test]
    fn what_is_not_known_goes_to_the_file_system() {
        let options = parse(["size=64k", "mode=755", "newinstance"]);
        assert_eq!(
            options.data,
            [
                ("size".to_owned(), Some("64k".to_owned())),
                ("mode".to_owned(), Some("755".to_owned())),
                ("newinstance".to_owned(), None),
            ]
        );
    }

    #[test]
    fn no_known_option_reaches_the_file_system() {
        for option in KNOWN.iter().filter(|option| **option != "iversion") {
            assert!(parse([*option]).data.is_empty(), "{option}");
        }
    }

    #[test]
    fn recursive_attributes_are_kept_apart() {
        let options = parse(["rbind", "rro", "nodev"]);
        assert!(options.bind && options.recursive && options.read_only());
        assert_eq!(options.tree.set, attr::RDONLY);
        assert_eq!(options.attributes.set, attr::NODEV);
    }
}
