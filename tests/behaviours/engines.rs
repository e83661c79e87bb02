//! Engines that drive the runtime: podman, as it starts on any machine.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tests::wait::within;
use tests::{Call, Output, Place, eventually, subject};

subject! {
    both: podman_runs_and_passes_the_status_on, podman_volumes_are_shared, podman_gives_a_terminal,
        podman_execs_stops_and_reads_logs, podman_maps_126_and_127, podman_sets_user_directory_and_environment,
        podman_limits_are_accepted, podman_passes_input_through;
    container: podman_pauses_and_resumes, podman_host_network_is_the_hosts, podman_restarts_and_lists,
        podman_read_only_and_capabilities_work;
}

/// podman with a store of its own and one image, `busybox`.
struct Podman<'a> {
    place: &'a Place,
    config: PathBuf,
}

impl<'a> Podman<'a> {
    fn new(place: &'a Place) -> Podman<'a> {
        place.needs("podman");
        place.needs("conmon");
        // Its shared memory of locks is named for the whole machine.
        Call::new(&place.dir, "mount").args(["-t", "tmpfs", "none", "/dev/shm"]).ok();
        let config = place.new_file(
            "containers.conf",
            "[containers]\ndefault_ulimits=[\"nofile=1024:20000\",\"nproc=4096:4096\"]\ndefault_sysctls=[]\n[engine]\nhelper_binaries_dir=[\"/usr/libexec/podman\",\"/usr/lib/podman\"]\n",
        );
        let podman = Podman { place, config };
        let bundle = place.bundle_at(place.path("image"));
        let tar = place.path("image.tar");
        Call::new(&place.dir, "tar")
            .arg("-C")
            .arg(bundle.rootfs())
            .arg("-cf")
            .arg(&tar)
            .arg(".")
            .ok();
        podman.call(&["import", tests::place::str(&tar), "busybox"]).ok();
        podman
    }

    fn command(&self, args: &[&str]) -> Call {
        let place = self.place;
        let (root, run) = (place.path("pr"), place.path("pn"));
        Call::new(&place.dir, "podman")
            .env("CONTAINERS_CONF", &self.config)
            .env("TMPDIR", place.new_dir("pt"))
            .env("XDG_RUNTIME_DIR", place.new_dir("px"))
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
            .args(["--storage-driver", "overlay", "--root"])
            .arg(root)
            .arg("--runroot")
            .arg(run)
            .arg("--tmpdir")
            .arg(place.new_dir("pm"))
            .arg("--runtime")
            .arg(&place.program)
            .args(args)
            .patience(Duration::from_secs(120))
    }

    fn call(&self, args: &[&str]) -> Output {
        self.command(args).run()
    }

    /// `podman run` or `create` with what every one of these wants.
    fn run(&self, command: &str, args: &[&str]) -> Call {
        let mut all =
            vec![command.to_owned(), "--cgroup-parent".to_owned(), format!("/{}", self.place.id)];
        if !args.iter().any(|arg| arg.starts_with("--network")) {
            all.push("--network=none".to_owned());
        }
        if let (true, Some(kernel)) = (self.place.is_vm(), &self.place.kernel) {
            all.push("--annotation".to_owned());
            all.push(format!("run.hull.kernel={}", kernel.display()));
        }
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.command(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let _ = self.call(&["rm", "--all", "--force", "--time", "0"]);
        let overlay = self.place.path("pr").join("overlay");
        let _ = Call::new(&self.place.dir, "umount").arg("-l").arg(overlay).run();
        let _ = Call::new(&self.place.dir, "umount").args(["-l", "/dev/shm"]).run();
        // podman leaves the parent it made, for the next container, and conmon's
        // own group until conmon has ended.
        within(Duration::from_secs(20), || {
            for dir in tests::cgroup::named(&self.place.id) {
                let _ = fs::remove_dir(dir);
            }
            tests::cgroup::named(&self.place.id).is_empty().then_some(())
        });
    }
}

fn podman_runs_and_passes_the_status_on(place: &Place) {
    let podman = Podman::new(place);
    podman.run("run", &["--rm", "busybox", "echo", "hello"]).run().ok().prints("hello");
    for code in [0, 1, 42] {
        podman
            .run("run", &["--rm", "busybox", "sh", "-c", &format!("exit {code}")])
            .run()
            .exits(code);
    }
    let output =
        podman.run("run", &["--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3"]).run();
    output.exits(3).prints("out");
    assert!(output.stderr.contains("err"), "{output}");
    podman.call(&["ps", "-aq"]).ok().prints("");
}

fn podman_volumes_are_shared(place: &Place) {
    let podman = Podman::new(place);
    let dir = place.new_dir("volume");
    fs::write(dir.join("in"), "from outside").expect("a file");
    let volume = format!("{}:/data", dir.display());
    podman
        .run(
            "run",
            &["--rm", "-v", &volume, "busybox", "sh", "-c", "cat /data/in; echo inside >/data/out"],
        )
        .run()
        .ok()
        .prints("from outside");
    assert_eq!(fs::read_to_string(dir.join("out")).expect("the file"), "inside\n");
    let read_only = format!("{volume}:ro");
    podman.run("run", &["--rm", "-v", &read_only, "busybox", "touch", "/data/x"]).run().fails();
    podman.run("run", &["--rm", "-v", "named:/n", "busybox", "touch", "/n/x"]).run().ok();
    podman.run("run", &["--rm", "-v", "named:/n", "busybox", "ls", "/n"]).run().ok().prints("x");
}

fn podman_gives_a_terminal(place: &Place) {
    let podman = Podman::new(place);
    let output = podman
        .run(
            "run",
            &[
                "--rm",
                "-t",
                "busybox",
                "sh",
                "-c",
                "test -t 0 && test -t 1 && echo a terminal; exit 4",
            ],
        )
        .run();
    output.exits(4).says("a terminal");
}

fn podman_execs_stops_and_reads_logs(place: &Place) {
    let podman = Podman::new(place);
    podman
        .run(
            "run",
            &[
                "-d",
                "--name",
                "one",
                "busybox",
                "sh",
                "-c",
                "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done",
            ],
        )
        .ok();
    eventually("the log has it", || {
        podman.call(&["logs", "one"]).stdout.contains("ready").then_some(())
    });
    podman.call(&["exec", "one", "sh", "-c", "echo inside; exit 6"]).exits(6).prints("inside");
    podman
        .call(&["exec", "-e", "A=b", "-w", "/tmp", "one", "sh", "-c", "echo $A; pwd"])
        .ok()
        .prints("b\n/tmp");
    podman.call(&["ps", "--format", "{{.Names}} {{.Status}}"]).ok().says("one Up");
    podman.call(&["stop", "--time", "60", "one"]).ok();
    podman.call(&["logs", "one"]).ok().says("bye");
    podman
        .call(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "one"])
        .ok()
        .prints("exited 5");
    podman.call(&["rm", "one"]).ok();
}

fn podman_maps_126_and_127(place: &Place) {
    let podman = Podman::new(place);
    podman.run("run", &["--rm", "busybox", "no-such-program"]).run().exits(127);
    podman.run("run", &["--rm", "busybox", "/etc/passwd"]).run().exits(126);
    podman.run("run", &["-d", "--name", "one", "busybox", "sleep", "1000"]).ok();
    podman.call(&["exec", "one", "no-such-program"]).exits(127);
    podman.call(&["exec", "one", "/etc/passwd"]).exits(126);
    podman.call(&["kill", "one"]).ok();
    podman.call(&["wait", "one"]).ok().prints("137");
}

fn podman_sets_user_directory_and_environment(place: &Place) {
    let podman = Podman::new(place);
    let output = podman
        .run(
            "run",
            &[
                "--rm",
                "--user",
                "1000:29",
                "--workdir",
                "/tmp",
                "--env",
                "A=b c",
                "--hostname",
                "named",
                "busybox",
                "sh",
                "-c",
                "id -u; id -g; pwd; echo $A; hostname",
            ],
        )
        .run();
    output.ok().prints("1000\n29\n/tmp\nb c\nnamed");
}

fn podman_limits_are_accepted(place: &Place) {
    let podman = Podman::new(place);
    let output = podman
        .run("run", &["--rm", "--memory", "200m", "--cpus", "0.5", "--pids-limit", "50", "--ulimit", "nofile=100:200", "--ulimit", "nproc=4096:4096", "busybox", "sh", "-c",
            "ulimit -Sn; ulimit -Hn; i=0; while [ $i -lt 80 ]; do sleep 5 & i=$((i+1)); done; echo all"])
        .run();
    output.says("100\n200").does_not_say("all");
}

fn podman_passes_input_through(place: &Place) {
    let podman = Podman::new(place);
    let text = "a line of text\n".repeat(5000);
    let output = podman.run("run", &["--rm", "-i", "busybox", "cat"]).input(&text).run();
    output.ok();
    assert!(output.stdout == text, "{} bytes came back of {}", output.stdout.len(), text.len());
}

fn podman_pauses_and_resumes(place: &Place) {
    let podman = Podman::new(place);
    podman.run("run", &["-d", "--name", "one", "busybox", "sleep", "1000"]).ok();
    podman.call(&["pause", "one"]).ok();
    podman.call(&["inspect", "--format", "{{.State.Status}}", "one"]).ok().prints("paused");
    podman.call(&["unpause", "one"]).ok();
    podman.call(&["exec", "one", "true"]).ok();
    podman.call(&["rm", "--force", "--time", "0", "one"]).ok();
}

fn podman_host_network_is_the_hosts(place: &Place) {
    let podman = Podman::new(place);
    let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
    podman
        .run("run", &["--rm", "--network=host", "busybox", "readlink", "/proc/self/ns/net"])
        .run()
        .ok()
        .prints(tests::place::str(&own));
}

fn podman_restarts_and_lists(place: &Place) {
    let podman = Podman::new(place);
    podman
        .run("create", &["--name", "one", "busybox", "sh", "-c", "echo run >>/count; sleep 1000"])
        .ok();
    podman.call(&["start", "one"]).ok();
    podman.call(&["restart", "--time", "0", "one"]).ok();
    eventually("it ran twice", || {
        (podman.call(&["exec", "one", "cat", "/count"]).stdout == "run\nrun\n").then_some(())
    });
    podman.call(&["top", "one"]).ok().says("sleep");
    podman.call(&["rm", "--force", "--time", "0", "one"]).ok();
    podman.call(&["ps", "-aq"]).ok().prints("");
}

fn podman_read_only_and_capabilities_work(place: &Place) {
    let podman = Podman::new(place);
    podman.run("run", &["--rm", "--read-only", "busybox", "touch", "/x"]).run().fails();
    let output = podman
        .run(
            "run",
            &[
                "--rm",
                "--cap-drop",
                "all",
                "--cap-add",
                "chown",
                "busybox",
                "grep",
                "CapEff",
                "/proc/self/status",
            ],
        )
        .run();
    output.ok().says("0000000000000001");
    podman
        .run(
            "run",
            &[
                "--rm",
                "--tmpfs",
                "/t:size=1m",
                "busybox",
                "sh",
                "-c",
                "grep -c ' /t tmpfs' /proc/mounts",
            ],
        )
        .run()
        .ok()
        .prints("1");
}
