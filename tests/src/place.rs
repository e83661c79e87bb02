//! What a behaviour is given: the wall, the runtime, a directory and an id of
//! its own.

use crate::bundle::Bundle;
use crate::call::{Call, Output};
use crate::container::Container;
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// The two walls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wall {
    /// Namespaces on the host's kernel.
    Container,
    /// A kernel of its own on KVM.
    MicroVm,
}

impl Wall {
    /// The word in a behaviour's name.
    pub fn name(self) -> &'static str {
        match self {
            Wall::Container => "container",
            Wall::MicroVm => "microvm",
        }
    }
}

/// The exit status by which a behaviour says that it cannot be run here.
pub const IGNORED: i32 = 77;

/// Where a behaviour runs.
pub struct Place {
    /// The wall that is looked at.
    pub wall: Wall,
    /// The program of that wall: `hull` or `hull-vm`.
    pub program: PathBuf,
    /// A guest kernel for the microVM wall, where the runtime shall not look
    /// for one itself.
    pub kernel: Option<PathBuf>,
    /// A directory of its own, with a short name.
    pub dir: PathBuf,
    /// An id of its own, part of every name it makes outside that directory.
    pub id: String,
    /// What the root file systems are linked from.
    pub shared: PathBuf,
    /// The root file system of a whole Debian, where one was named.
    pub debian: Option<PathBuf>,
    pub(crate) untidy: Cell<bool>,
    pub(crate) bundles: Cell<u32>,
}

impl Place {
    /// Whether the runtime is hull, not a peer held beside it.
    pub fn is_hull(&self) -> bool {
        self.program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("hull"))
    }

    /// Whether this is the microVM wall.
    pub fn is_vm(&self) -> bool {
        self.wall == Wall::MicroVm
    }

    /// Says that this place cannot run the behaviour, and why.
    pub fn cannot(&self, reason: &str) -> ! {
        std::fs::write(self.dir.join("ignored"), reason).expect("the reason kept");
        std::process::exit(IGNORED)
    }

    /// The behaviour is hull's own, or newer than its peers here.
    pub fn only_hull(&self) {
        if !self.is_hull() {
            self.cannot("the runtime is not hull");
        }
    }

    /// The behaviour needs a program of the host.
    pub fn needs(&self, program: &str) -> PathBuf {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|dir| dir.join(program))
            .find(|path| path.exists())
            .unwrap_or_else(|| self.cannot(&format!("needs {program}")))
    }

    /// The behaviour leaves things on purpose: they are cleared, not looked for.
    pub fn is_untidy(&self) {
        self.untidy.set(true);
    }

    /// The directory of states (`--root`).
    pub fn root(&self) -> PathBuf {
        self.dir.join("r")
    }

    /// A new plain bundle.
    pub fn bundle(&self) -> Bundle {
        let number = self.bundles.get();
        self.bundles.set(number + 1);
        let name = if number == 0 { "b".to_owned() } else { format!("b{number}") };
        self.bundle_at(self.dir.join(name))
    }

    /// A new plain bundle in a directory to be made.
    pub fn bundle_at(&self, dir: PathBuf) -> Bundle {
        std::fs::create_dir_all(&dir).expect("the bundle's directory");
        Bundle::new(self, dir)
    }

    /// The runtime, with the behaviour's own directory of states.
    pub fn hull(&self) -> Call {
        Call::new(&self.dir, &self.program).arg("--root").arg(self.root())
    }

    /// The runtime called as `name`, once.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        self.hull().args(args).run()
    }

    /// `run` of a bundle in the foreground, about to be called.
    pub fn running(&self, bundle: &Bundle) -> Call {
        bundle.save();
        self.hull().args(["run", "--bundle"]).arg(&bundle.dir).arg(&self.id)
    }

    /// `run` of a bundle in the foreground to its end.
    #[track_caller]
    pub fn run(&self, bundle: &Bundle) -> Output {
        self.running(bundle).run()
    }

    /// `create` of a bundle, about to be called.
    pub fn creating(&self, bundle: &Bundle, id: &str) -> Call {
        bundle.save();
        self.hull().args(["create", "--bundle"]).arg(&bundle.dir).arg(id)
    }

    /// A created container.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle) -> Container<'_> {
        self.create_as(bundle, &self.id)
    }

    /// A created container by another id, which must begin with the place's.
    #[track_caller]
    pub fn create_as(&self, bundle: &Bundle, id: &str) -> Container<'_> {
        assert!(id.starts_with(&self.id));
        let container = Container::named(self, id);
        let running = self.creating(bundle, id).spawn();
        container.created_by(running)
    }

    /// A started container.
    #[track_caller]
    pub fn start(&self, bundle: &Bundle) -> Container<'_> {
        let container = self.create(bundle);
        container.start();
        container
    }

    /// Becomes the one who inherits orphans, so that their status can be had.
    pub fn inherit_orphans(&self) {
        // SAFETY: prctl with integers only.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    }

    /// A file in the behaviour's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A directory in the behaviour's directory.
    pub fn new_dir(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }

    /// A file with content in the behaviour's directory.
    pub fn new_file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// A script of the host, to be called as a hook.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.new_file(name, format!("#!/bin/sh\n{text}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        path
    }
}

/// A path as text.
pub fn str(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
