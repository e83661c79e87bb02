//! Terminals: handed over by a socket, made in the foreground, resized.

use serde_json::json;
use std::os::unix::process::CommandExt;
use tests::terminal::{self, ConsoleSocket, Terminal};
use tests::{Bundle, Container, Place, subject};

subject! {
    both: terminal_comes_by_the_console_socket, all_three_streams_are_the_terminal, size_is_the_configs,
        resize_is_seen, interrupt_key_reaches_the_foreground, console_device_is_the_terminal,
        closing_the_terminal_hangs_up, exec_gets_a_terminal_of_its_own, exec_terminal_is_resized,
        foreground_run_uses_the_callers_terminal, foreground_terminal_is_put_back,
        foreground_output_has_plain_newlines,
        terminal_without_a_socket_is_refused_when_detached, socket_without_a_terminal_is_refused,
        missing_console_socket_is_named, status_of_a_terminal_process_is_passed_on,
        a_long_path_to_the_socket_works;
    container: terminal_belongs_to_the_user, many_terminals_come_in_turn;
}

fn with_terminal(place: &Place) -> Bundle {
    place.bundle().set("/process/terminal", json!(true)).env("TERM=dumb")
}

fn create<'a>(place: &'a Place, bundle: &Bundle) -> (Container<'a>, Terminal) {
    let socket = ConsoleSocket::new(place.path("tty.sock"));
    let container = Container::named(place, &place.id);
    bundle.save();
    let running = place
        .hull()
        .args(["create", "--bundle"])
        .arg(&bundle.dir)
        .arg("--console-socket")
        .arg(&socket.path)
        .arg(&place.id)
        .spawn();
    let terminal = socket.receive();
    (container.created_by(running), terminal)
}

fn terminal_comes_by_the_console_socket(place: &Place) {
    let (container, mut terminal) =
        create(place, &with_terminal(place).sh("echo hello; read word; echo got $word"));
    container.start();
    terminal.shows("hello\r\n");
    terminal.types("back\n");
    terminal.shows("got back");
    container.becomes("stopped");
}

fn all_three_streams_are_the_terminal(place: &Place) {
    let bundle = with_terminal(place)
        .sh("test -t 0 && test -t 1 && test -t 2 && echo all; echo err >&2; tty");
    let (container, mut terminal) = create(place, &bundle);
    container.start();
    terminal.shows("all");
    terminal.shows("err");
    terminal.shows("/dev/");
    assert!(!terminal.text().contains("not a tty"), "{}", terminal.text());
}

fn size_is_the_configs(place: &Place) {
    let bundle = with_terminal(place)
        .set("/process/consoleSize", json!({"height": 33, "width": 99}))
        .sh("stty size");
    let (container, mut terminal) = create(place, &bundle);
    container.start();
    terminal.shows("33 99");
}

fn resize_is_seen(place: &Place) {
    let bundle =
        with_terminal(place).sh("trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done");
    let (container, mut terminal) = create(place, &bundle);
    container.start();
    terminal.shows("ready");
    terminal.resize(40, 120);
    terminal.shows("40 120");
    terminal.resize(41, 121);
    terminal.shows("41 121");
}

fn interrupt_key_reaches_the_foreground(place: &Place) {
    let bundle = with_terminal(place)
        .sh("trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done");
    let (container, mut terminal) = create(place, &bundle);
    container.start();
    terminal.shows("ready");
    terminal.types("\u{3}");
    terminal.shows("caught");
    container.becomes("stopped");
}

fn console_device_is_the_terminal(place: &Place) {
    let (container, mut terminal) =
        create(place, &with_terminal(place).sh("echo by console >/dev/console; sleep 0.1"));
    container.start();
    terminal.shows("by console");
}

fn closing_the_terminal_hangs_up(place: &Place) {
    let bundle = with_terminal(place)
        .sh("trap 'touch /hung; exit 0' HUP; echo ready; while :; do sleep 0.05; done");
    let (container, mut terminal) = create(place, &bundle);
    container.start();
    terminal.shows("ready");
    drop(terminal);
    container.becomes("stopped");
    assert!(bundle.rootfs().join("hung").exists());
}

fn exec_in(place: &Place, container: &Container, script: &str) -> Terminal {
    let socket = ConsoleSocket::new(place.path("exec.sock"));
    let running = container
        .exec_with(
            &["--tty", "--detach", "--console-socket", tests::place::str(&socket.path)],
            &["sh", "-c", script],
        )
        .spawn();
    let terminal = socket.receive();
    running.wait().ok();
    terminal
}

fn exec_gets_a_terminal_of_its_own(place: &Place) {
    let container = place.start(&place.bundle().args(&["sleep", "1000"]));
    let mut terminal =
        exec_in(place, &container, "test -t 0 && echo yes; read word; echo got $word");
    terminal.shows("yes");
    terminal.types("in\n");
    terminal.shows("got in");
    terminal.ends();
}

fn exec_terminal_is_resized(place: &Place) {
    let container = place.start(&place.bundle().args(&["sleep", "1000"]));
    let mut terminal = exec_in(place, &container, "echo ready; while read go; do stty size; done");
    terminal.shows("ready");
    terminal.resize(17, 71);
    // A size on its way is not overtaken by a key pressed later on the host,
    // but may be inside a guest: pressed until seen.
    terminal.answers("go\n", "17 71");
}

/// `run` in the foreground with a terminal of ours as its own controlling one.
fn run_on(place: &Place, bundle: &Bundle) -> (Terminal, std::process::Child, std::os::fd::OwnedFd) {
    bundle.save();
    let (terminal, inner) = terminal::open();
    terminal.resize(30, 90);
    let mut command = std::process::Command::new(&place.program);
    command
        .arg("--root")
        .arg(place.root())
        .args(["run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id);
    let copy = || inner.try_clone().expect("a copy");
    command.stdin(copy()).stdout(copy()).stderr(copy());
    // SAFETY: system calls only.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    let child = command.spawn().expect("hull starts");
    (terminal, child, inner)
}

fn foreground_run_uses_the_callers_terminal(place: &Place) {
    let bundle = with_terminal(place).sh("stty size; read word; echo got $word; exit 5");
    let (mut terminal, mut child, _inner) = run_on(place, &bundle);
    terminal.shows("30 90");
    terminal.types("it\n");
    terminal.shows("got it");
    let status = tests::eventually("run ends", || child.try_wait().expect("wait"));
    assert_eq!(status.code(), Some(5), "{}", terminal.text());
}

fn foreground_terminal_is_put_back(place: &Place) {
    let modes = |fd: &std::os::fd::OwnedFd| {
        use std::os::fd::AsRawFd;
        // SAFETY: an all-zero termios is filled by tcgetattr.
        unsafe {
            let mut modes: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(fd.as_raw_fd(), &mut modes), 0);
            (modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag)
        }
    };
    let bundle = with_terminal(place).sh("echo ready; read word");
    let (mut terminal, mut child, inner) = run_on(place, &bundle);
    terminal.shows("ready");
    let raw = modes(&inner);
    assert_eq!(raw.3 & (libc::ICANON | libc::ECHO), 0, "the caller's terminal is raw meanwhile");
    terminal.types("end\n");
    tests::eventually("run ends", || child.try_wait().expect("wait"));
    let after = modes(&inner);
    assert_ne!(after.3 & libc::ICANON, 0);
    assert_ne!(after.3 & libc::ECHO, 0);
}

/// The returns are added by a terminal at the far end, if there is one; what goes to a file is as
/// the program wrote it.
fn foreground_output_has_plain_newlines(place: &Place) {
    let bundle = with_terminal(place).sh("echo one; echo two; test -t 1 && sleep 1000");
    bundle.save();
    let (_terminal, inner) = terminal::open();
    let on_terminal = |args: &[&str]| {
        let mut command = std::process::Command::new(&place.program);
        command
            .arg("--root")
            .arg(place.root())
            .args(args)
            .stdin(inner.try_clone().expect("a copy"));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        command
    };
    let dir = tests::place::str(&bundle.dir);
    let mut run = on_terminal(&["run", "--bundle", dir, &place.id]).spawn().expect("hull starts");
    let mut output = run.stdout.take().expect("its output");
    let mut seen = [0; 8];
    std::io::Read::read_exact(&mut output, &mut seen).expect("two lines");
    assert_eq!(seen, *b"one\ntwo\n");
    let exec =
        on_terminal(&["exec", "--tty", &place.id, "sh", "-c", "tty; echo a; echo b"]).output();
    let said = String::from_utf8(exec.expect("hull runs").stdout).expect("text");
    assert!(said.contains("/dev/") && said.ends_with("a\nb\n") && !said.contains('\r'), "{said:?}");
    place.hull().args(["delete", "--force", &place.id]).run();
    tests::eventually("run ends", || run.try_wait().expect("wait"));
}

fn terminal_without_a_socket_is_refused_when_detached(place: &Place) {
    place
        .creating(&with_terminal(place), &place.id)
        .run()
        .complains(&["console socket", "console-socket"]);
    place
        .running(&with_terminal(place))
        .arg("--detach")
        .run()
        .complains(&["console socket", "console-socket"]);
}

fn socket_without_a_terminal_is_refused(place: &Place) {
    let socket = ConsoleSocket::new(place.path("tty.sock"));
    place
        .creating(&place.bundle(), &place.id)
        .arg("--console-socket")
        .arg(&socket.path)
        .run()
        .complains(&["console socket", "console-socket"]);
}

fn missing_console_socket_is_named(place: &Place) {
    place
        .creating(&with_terminal(place), &place.id)
        .arg("--console-socket")
        .arg(place.path("nowhere.sock"))
        .run()
        .complains(&["nowhere.sock", "no such file"]);
}

fn status_of_a_terminal_process_is_passed_on(place: &Place) {
    let (mut terminal, mut child, _inner) =
        run_on(place, &with_terminal(place).sh("echo bye; exit 42"));
    terminal.shows("bye");
    let status = tests::eventually("run ends", || child.try_wait().expect("wait"));
    assert_eq!(status.code(), Some(42));
}

fn a_long_path_to_the_socket_works(place: &Place) {
    place.only_hull();
    let deep = place.new_dir(&format!("{}/{}", "d".repeat(100), "e".repeat(100)));
    // Bound by a short name, as an engine does by its working directory.
    std::env::set_current_dir(&deep).expect("the deep directory");
    let socket = ConsoleSocket::new("tty.sock".into());
    let bundle = with_terminal(place).sh("echo far");
    bundle.save();
    let container = Container::named(place, &place.id);
    let running = place
        .hull()
        .args(["create", "--bundle"])
        .arg(&bundle.dir)
        .arg("--console-socket")
        .arg(deep.join("tty.sock"))
        .arg(&place.id)
        .spawn();
    let mut terminal = socket.receive();
    let container = container.created_by(running);
    container.start();
    terminal.shows("far");
}

fn terminal_belongs_to_the_user(place: &Place) {
    let bundle = with_terminal(place).set("/process/user", json!({"uid": 1000, "gid": 1000})).sh(
        "stat -c 'owner %u' $(readlink /proc/self/fd/0); echo mine > $(readlink /proc/self/fd/0)",
    );
    let (container, mut terminal) = create(place, &bundle);
    container.start();
    terminal.shows("owner 1000");
    terminal.shows("mine");
}

fn many_terminals_come_in_turn(place: &Place) {
    let container = place.start(&place.bundle().args(&["sleep", "1000"]));
    for number in 0..10 {
        let _ = std::fs::remove_file(place.path("exec.sock"));
        exec_in(place, &container, &format!("echo number {number}; read x"))
            .shows(&format!("number {number}"));
    }
}
