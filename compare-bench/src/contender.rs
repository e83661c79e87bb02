//! Who takes part: hull behind each of its walls, and the peers found on this
//! machine, all spoken to by the command line that they share.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::bundle::{Bundle, Workload};
use crate::error::Error;
use crate::spawn::{self, Measured, Output};
use crate::{Common, Wall, legacy, machine_peer};

/// One runtime, ready to be called.
#[derive(Debug)]
pub struct Contender {
    pub name: String,
    pub version: String,
    /// What it was given that others were not.
    pub note: Option<String>,
    program: PathBuf,
    /// All words of a bare machine, which knows no container.
    machine: Option<Vec<OsString>>,
    mount_ns: Option<OwnedFd>,
    dir: PathBuf,
}

impl Contender {
    /// `runtime [--root …] WORDS…`, which has to succeed.
    pub fn call(
        &self,
        step: &'static str,
        words: &[&str],
        output: Output,
    ) -> Result<Measured, Error> {
        crate::interrupt::check()?;
        let measured = self.try_call(words, output)?;
        self.succeeded(step, measured)
    }

    /// Whether it is a runtime, with a life of single commands.
    pub fn is_runtime(&self) -> bool {
        self.machine.is_none()
    }

    /// `run` of the user's command, or a bare machine's whole life.
    pub fn whole_run(&self, id: &str) -> Result<Measured, Error> {
        match &self.machine {
            None => self.call("run", &["run", "--bundle", &self.own(), id], Output::Read),
            Some(words) => {
                crate::interrupt::check()?;
                let measured = spawn::run(&self.program, words, Output::Read, None)?;
                self.succeeded("run", measured)
            }
        }
    }

    fn succeeded(&self, step: &'static str, measured: Measured) -> Result<Measured, Error> {
        if measured.status == 0 {
            return Ok(measured);
        }
        Err(Error::Runtime {
            name: self.name.clone(),
            step,
            status: format!("exit status {}", measured.status),
            stderr: measured.stderr,
        })
    }

    /// The same, whatever its status.
    pub fn try_call(&self, words: &[&str], output: Output) -> Result<Measured, Error> {
        let mut args: Vec<OsString> = vec!["--root".into(), self.dir.join("state").into()];
        args.extend(words.iter().map(OsString::from));
        spawn::run(&self.program, &args, output, self.mount_ns.as_ref().map(AsFd::as_fd))
    }

    /// The bundle with the user's command.
    pub fn own(&self) -> String {
        self.dir.join("own").display().to_string()
    }

    /// The bundle that sleeps.
    pub fn hold(&self) -> String {
        self.dir.join("hold").display().to_string()
    }

    /// Where a pid is told.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }
}

/// Everything a measurement stands on, removed with it.
#[derive(Debug)]
pub struct Field {
    pub contenders: Vec<Contender>,
    pub bundle: Bundle,
    /// Who was not measured, and why.
    pub left_out: Vec<(String, String)>,
    dir: PathBuf,
}

impl Drop for Field {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Field {
    /// Finds who is asked for and writes each one's bundles.
    pub fn gather(common: &Common) -> Result<Self, Error> {
        let bundle = Bundle::load(&common.bundle, common.docker_like)?;
        let base = if Path::new("/run").metadata().is_ok_and(|run| !run.permissions().readonly()) {
            PathBuf::from("/run")
        } else {
            std::env::temp_dir()
        };
        let dir = base.join(format!("compare-bench.{}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|source| Error::File { path: dir.clone(), source })?;
        let mut field = Self { contenders: Vec::new(), bundle, left_out: Vec::new(), dir };
        field.walls(common)?;
        field.peers(common)?;
        if field.contenders.is_empty() && field.left_out.is_empty() {
            return Err(Error::NoContender);
        }
        Ok(field)
    }

    fn walls(&mut self, common: &Common) -> Result<(), Error> {
        let asked = common.wall.clone().unwrap_or_else(|| vec![Wall::Container, Wall::Microvm]);
        let asked: Vec<Wall> = asked.into_iter().filter(|wall| *wall != Wall::None).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let hull = match &common.hull {
            Some(path) => fs::canonicalize(path)
                .map_err(|source| Error::File { path: path.clone(), source })?,
            None => beside("hull").or_else(|| which("hull")).ok_or(Error::NoHull)?,
        };
        for wall in asked {
            let word = if wall == Wall::Microvm { "microvm" } else { "container" };
            let mut annotations = vec![("run.hull.isolation", word.to_owned())];
            if let (Wall::Microvm, Some(kernel)) = (wall, &common.kernel) {
                let kernel = fs::canonicalize(kernel)
                    .map_err(|source| Error::File { path: kernel.clone(), source })?;
                annotations.push(("run.hull.kernel", kernel.display().to_string()));
            }
            self.add(format!("hull {word}"), hull.clone(), None, None, &annotations)?;
        }
        Ok(())
    }

    fn peers(&mut self, common: &Common) -> Result<(), Error> {
        let asked = common.peer.clone();
        let names =
            asked.clone().unwrap_or_else(|| ["crun", "runc", "youki"].map(String::from).to_vec());
        for name in names.iter().filter(|name| *name != "none") {
            if name == "qemu" {
                self.qemu(common)?;
                continue;
            }
            let Some(program) = which(name) else {
                if asked.is_some() {
                    self.left_out
                        .push((name.clone(), Error::NoPeer { name: name.clone() }.to_string()));
                }
                continue;
            };
            let short = program
                .file_name()
                .map_or_else(|| name.clone(), |file| file.to_string_lossy().into_owned());
            let (mut mount_ns, mut note) = (None, None);
            if short == "crun" && legacy::needed() {
                mount_ns = Some(legacy::mount_namespace()?);
                note = Some(
                    "runs in a mount namespace without the cgroup v2 hierarchy: it refuses this machine's hybrid layout"
                        .to_owned(),
                );
            }
            self.add(short, program, mount_ns, note, &[])?;
        }
        Ok(())
    }

    fn qemu(&mut self, common: &Common) -> Result<(), Error> {
        let kernel = common.kernel.as_ref().ok_or(Error::NoKernel)?;
        let program =
            which("qemu-system-x86_64").ok_or_else(|| Error::NoPeer { name: "qemu".into() })?;
        let dir = self.dir.join("qemu");
        let initramfs = dir.join("initramfs");
        fs::create_dir_all(&dir)
            .and_then(|()| fs::write(&initramfs, machine_peer::initramfs()))
            .map_err(|source| Error::File { path: initramfs.clone(), source })?;
        self.contenders.push(Contender {
            name: "qemu -M microvm".into(),
            version: spawn_version(&program),
            note: Some("no container: its kernel boots to an init that ends it".into()),
            program,
            machine: Some(machine_peer::words(kernel, &initramfs)),
            mount_ns: None,
            dir,
        });
        Ok(())
    }

    fn add(
        &mut self,
        name: String,
        program: PathBuf,
        mount_ns: Option<OwnedFd>,
        note: Option<String>,
        annotations: &[(&str, String)],
    ) -> Result<(), Error> {
        let dir = self.dir.join(name.replace(' ', "-"));
        self.bundle.write(&dir.join("own"), Workload::Own, annotations)?;
        if self.bundle.can_hold() {
            self.bundle.write(&dir.join("hold"), Workload::Hold, annotations)?;
        }
        let version = spawn_version(&program);
        self.contenders.push(Contender {
            name,
            version,
            note,
            program,
            machine: None,
            mount_ns,
            dir,
        });
        Ok(())
    }

    /// Takes a contender out of the measurement.
    pub fn leave_out(&mut self, index: usize, why: &Error) {
        let contender = self.contenders.remove(index);
        self.left_out.push((contender.name, why.to_string()));
    }
}

/// The first line of `--version`, as it is.
fn spawn_version(program: &Path) -> String {
    std::process::Command::new(program)
        .arg("--version")
        .stderr(std::process::Stdio::null())
        .output()
        .ok()
        .and_then(|output| {
            String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
        })
        .unwrap_or_default()
}

fn beside(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    path.is_file().then_some(path)
}

/// A name looked up in PATH, sbin and cargo's folder; a path as it is.
fn which(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return fs::canonicalize(name).ok();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .chain(cargo)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
