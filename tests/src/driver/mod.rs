//! The driver of the behaviours: arguments and output as libtest's, so that
//! people and machines know both.
//!
//! Each behaviour runs in a *room*: a child with PID and mount namespaces of
//! its own, a directory `/tmp/hb.XXXXXX` and an id made from that name. When it
//! ends, or its time is over, the first process of the room goes and the kernel
//! takes all others with it; control groups and files by that id are removed. So
//! neither a hanging behaviour nor another job on the machine reaches the next
//! one. What fails is tried again alone, when all others are done: a machine too
//! busy is told apart from a runtime that is wrong, and both are reported.

mod arguments;
mod room;

use crate::place::Wall;
use crate::{Behaviour, cgroup, rootfs};
use arguments::Arguments;
use room::{Ended, Room, Verdict};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

/// How often a behaviour that failed is tried again.
const MORE_ATTEMPTS: u32 = 2;
/// The age at which what an earlier driver left is cleared.
const STALE: Duration = Duration::from_secs(2 * 3600);

/// What all rooms of a run share.
pub struct Setting {
    hull: PathBuf,
    hull_vm: PathBuf,
    kernel: Option<PathBuf>,
    shared: PathBuf,
    debian: Option<PathBuf>,
    /// Why the microVM wall cannot be looked at here.
    no_vm: Option<String>,
}

/// Runs the lists as the command line says.
pub fn main(lists: &[&'static [Behaviour]]) -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("inside") {
        return crate::inside::main(&std::env::args().skip(2).collect::<Vec<_>>());
    }
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let all: Vec<(String, Wall, Behaviour)> = [Wall::Container, Wall::MicroVm]
        .iter()
        .flat_map(|wall| {
            lists
                .iter()
                .flat_map(|list| list.iter())
                .filter(|&b| b.walls.contains(wall))
                .map(|b| (b.full_name(*wall), *wall, *b))
        })
        .collect();
    let total = all.len();
    let chosen: Vec<_> = all.into_iter().filter(|(name, ..)| arguments.chooses(name)).collect();
    if arguments.list {
        for (name, ..) in &chosen {
            println!("{name}: test");
        }
        println!("\n{} tests, 0 benchmarks", chosen.len());
        return ExitCode::SUCCESS;
    }
    let setting = match Setting::find() {
        Ok(setting) => setting,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    clear_stale();
    let passed = run(&arguments, chosen, total, &setting);
    let _ = fs::remove_dir_all(&setting.shared);
    if passed { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

struct Report {
    passed: usize,
    ignored: usize,
    flaky: Vec<(String, u32, String)>,
    failed: Vec<(String, String)>,
}

fn run(
    arguments: &Arguments,
    chosen: Vec<(String, Wall, Behaviour)>,
    total: usize,
    setting: &Setting,
) -> bool {
    let began = Instant::now();
    let filtered = total - chosen.len();
    println!("\nrunning {} tests", chosen.len());
    let mut report = Report { passed: 0, ignored: 0, flaky: Vec::new(), failed: Vec::new() };
    let mut again = Vec::new();
    let mut waiting = chosen.into_iter().rev().collect::<Vec<_>>();
    let mut rooms: Vec<Room> = Vec::new();
    // SAFETY: prctl with integers: orphans of a room that broke come here.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    loop {
        while rooms.len() < arguments.threads {
            let Some((name, wall, behaviour)) = waiting.pop() else { break };
            if let Some(reason) = setting.refuses(wall) {
                report.ignored += 1;
                say(&name, &format!("ignored, {reason}"));
                continue;
            }
            rooms.push(Room::open(setting, name, wall, behaviour));
        }
        if rooms.is_empty() {
            break;
        }
        for ended in room::look(&mut rooms) {
            let Ended { room, verdict, text } = ended;
            match verdict {
                Verdict::Passed => {
                    report.passed += 1;
                    say(&room.name, "ok");
                }
                Verdict::Ignored(reason) => {
                    report.ignored += 1;
                    say(&room.name, &format!("ignored, {reason}"));
                }
                Verdict::Failed => {
                    if arguments.attempts == 0 {
                        say(&room.name, "FAILED");
                        report.failed.push((room.name, text));
                    } else {
                        say(&room.name, "not yet, to be tried again alone");
                        again.push((room.name, room.wall, room.behaviour, text));
                    }
                }
            }
        }
    }
    for (name, wall, behaviour, first) in again {
        let mut texts = vec![first];
        let mut passed = None;
        for attempt in 2..=1 + arguments.attempts {
            let mut rooms = vec![Room::open(setting, name.clone(), wall, behaviour)];
            let ended = loop {
                if let Some(ended) = room::look(&mut rooms).pop() {
                    break ended;
                }
            };
            if matches!(ended.verdict, Verdict::Passed) {
                passed = Some(attempt);
                break;
            }
            texts.push(ended.text);
        }
        match passed {
            Some(attempt) => {
                say(&name, &format!("ok, flaky (passed on attempt {attempt})"));
                report.passed += 1;
                report.flaky.push((name, attempt, texts.swap_remove(0)));
            }
            None => {
                say(&name, "FAILED");
                report.failed.push((name, texts.pop().unwrap_or_default()));
            }
        }
    }
    report.print(filtered, began.elapsed())
}

impl Report {
    fn print(self, filtered: usize, time: Duration) -> bool {
        if !self.flaky.is_empty() {
            println!("\nflaky:");
            for (name, attempt, text) in &self.flaky {
                println!("\n---- {name} passed on attempt {attempt}; the first said ----\n{text}");
            }
        }
        if !self.failed.is_empty() {
            println!("\nfailures:");
            for (name, text) in &self.failed {
                println!("\n---- {name} stdout ----\n{text}");
            }
            println!("\nfailures:");
            for (name, _) in &self.failed {
                println!("    {name}");
            }
        }
        println!(
            "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
            if self.failed.is_empty() { "ok" } else { "FAILED" },
            self.passed,
            self.failed.len(),
            self.ignored,
            filtered,
            time.as_secs_f64()
        );
        self.failed.is_empty()
    }
}

fn say(name: &str, verdict: &str) {
    println!("test {name} ... {verdict}");
    let _ = io::stdout().flush();
}

impl Setting {
    fn find() -> Result<Setting, String> {
        let hull = hull_binary()?;
        let is_hull = hull.file_name().is_some_and(|n| n.to_string_lossy().starts_with("hull"));
        let shared = room::make_dir("run")?;
        rootfs::prepare(&shared)
            .map_err(|e| format!("{}: {e} (install busybox-static)", rootfs::BUSYBOX))?;
        let mut no_vm = None;
        let mut hull_vm = hull.with_file_name("hull-vm");
        if !is_hull {
            no_vm = Some("the runtime is not hull".to_owned());
        } else if !hull_vm.exists() && symlink("hull", &hull_vm).is_err() && !hull_vm.exists() {
            hull_vm = shared.join("hull-vm");
            symlink(&hull, &hull_vm).map_err(|e| format!("{}: {e}", hull_vm.display()))?;
        }
        let lab = std::env::var("HULL_TEST_PLACE").is_ok_and(|place| place == "lab");
        let kernel = match std::env::var_os("HULL_TEST_KERNEL").filter(|path| !path.is_empty()) {
            None => None,
            Some(path) => Some(
                fs::canonicalize(&path)
                    .map_err(|e| format!("HULL_TEST_KERNEL={}: {e}", path.display()))?,
            ),
        };
        if no_vm.is_none() {
            if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
                no_vm = Some(format!("/dev/kvm: {error}"));
            } else if kernel.is_none() && !lab {
                no_vm = Some(
                    "needs HULL_TEST_KERNEL, a guest kernel that runs here, or the lab".to_owned(),
                );
            }
        }
        let debian = std::env::var_os("HULL_TEST_DEBIAN").filter(|path| !path.is_empty());
        let debian = debian.map(PathBuf::from);
        Ok(Setting { hull, hull_vm, kernel, shared, debian, no_vm })
    }

    /// Why behaviours of this wall cannot be run here at all.
    fn refuses(&self, wall: Wall) -> Option<String> {
        // SAFETY: geteuid cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return Some("needs root: namespaces and control groups of its own".to_owned());
        }
        if wall == Wall::MicroVm { self.no_vm.clone() } else { None }
    }

    fn program(&self, wall: Wall) -> &Path {
        match wall {
            Wall::Container => &self.hull,
            Wall::MicroVm => &self.hull_vm,
        }
    }
}

/// `HULL_BIN`, or the one this workspace builds, brought up to date.
fn hull_binary() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("HULL_BIN").filter(|path| !path.is_empty()) {
        return std::path::absolute(&path)
            .ok()
            .filter(|path| path.exists())
            .ok_or_else(|| format!("HULL_BIN={}: not there", path.display()));
    }
    if let Some(cargo) = std::env::var_os("CARGO") {
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "hull", "--package", "hull-agent"])
            .status();
        if !built.is_ok_and(|status| status.success()) {
            return Err("hull could not be built".to_owned());
        }
    }
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let beside = own.parent().and_then(Path::parent).map(|dir| dir.join("hull"));
    beside
        .filter(|path| path.exists())
        .ok_or_else(|| "no `hull` beside the tests: build it (cargo build -p hull -p hull-agent) or set HULL_BIN".to_owned())
}

/// Removes what a driver that was killed long ago left under our names.
fn clear_stale() {
    let old = |path: &Path| {
        fs::symlink_metadata(path)
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > STALE))
    };
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(room::PREFIX) && old(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    for path in cgroup::named("hb-") {
        let idle =
            fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|procs| procs.is_empty());
        if idle && old(&path) {
            let _ = fs::remove_dir(path);
        }
    }
}
