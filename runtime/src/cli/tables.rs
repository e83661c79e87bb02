//! The commands, their options, and the help made from them.

use super::args::{Command, Opt, switch, valued};
use std::fmt::Write;

/// Options before the command.
pub const GLOBAL: &[Opt] = &[
    valued("root", "DIR", "where the state of containers is kept (a tmpfs, preferably)"),
    valued("log", "FILE", "write errors and warnings to this file, too"),
    valued("log-format", "FORMAT", "text or json"),
    switch("debug", "say what is done, and the phases of a microVM's start"),
    switch("systemd-cgroup", "let systemd make the cgroup; cgroupsPath is slice:prefix:name"),
    valued("rootless", "true|false|auto", "whether privileges are missing"),
    valued("criu", "PATH", "ignored: criu is found in $PATH"),
    valued("config", "FILE", "hull.toml to read instead of /etc/hull/hull.toml"),
    valued("isolation", "WALL", "container or microvm, whatever else says otherwise"),
    switch("version", "print the version").short(b'v'),
];

const BUNDLE: Opt =
    valued("bundle", "DIR", "the bundle; the current directory otherwise").short(b'b');
const CONSOLE_SOCKET: Opt =
    valued("console-socket", "PATH", "unix socket that gets the terminal's master");
const PIDFD_SOCKET: Opt =
    valued("pidfd-socket", "PATH", "unix socket that gets a pidfd of the process");
const PID_FILE: Opt = valued("pid-file", "FILE", "write the process id to this file");
const NO_PIVOT: Opt =
    switch("no-pivot", "do not use pivot_root (for a rootfs on top of a ramdisk)");
const NO_NEW_KEYRING: Opt = switch("no-new-keyring", "keep the caller's session keyring");
const PRESERVE_FDS: Opt =
    valued("preserve-fds", "N", "pass N more descriptors, from 3 (or after LISTEN_FDS) on");
const DETACH: Opt = switch("detach", "do not wait for the process").short(b'd');
const NO_SUBREAPER: Opt = switch("no-subreaper", "do not reap what the container orphans");
const FORMAT: Opt = valued("format", "FORMAT", "table or json").short(b'f');

const IMAGE_PATH: Opt = valued("image-path", "DIR", "where criu's images are");
const WORK_PATH: Opt = valued("work-path", "DIR", "where criu's logs go");
const TCP_ESTABLISHED: Opt = switch("tcp-established", "allow open TCP connections");
const EXT_UNIX_SK: Opt = switch("ext-unix-sk", "allow external unix sockets");
const SHELL_JOB: Opt = switch("shell-job", "allow shell jobs");
const TCP_SKIP_IN_FLIGHT: Opt =
    switch("tcp-skip-in-flight", "leave out connections not yet accepted");
const LINK_REMAP: Opt = switch("link-remap", "link unlinked files again");
const FILE_LOCKS: Opt = switch("file-locks", "handle file locks");
const LAZY_PAGES: Opt = switch("lazy-pages", "restore memory on demand by userfaultfd");
const CGROUPS_MODE: Opt =
    valued("manage-cgroups-mode", "MODE", "soft, full, strict or ignore").short(b'm');
const EMPTY_NS: Opt = valued("empty-ns", "TYPE", "make a namespace, do not restore what it holds");
const AUTO_DEDUP: Opt = switch("auto-dedup", "deduplicate memory images");

const fn command(
    name: &'static str,
    operands: &'static str,
    about: &'static str,
    options: &'static [Opt],
    counts: (usize, usize),
) -> Command {
    Command { name, operands, about, options, least: counts.0, most: counts.1, trailing: false }
}

/// All commands but the hidden ones, in the order of the help.
pub const COMMANDS: &[Command] = &[
    command(
        "create",
        "ID",
        "make a container that waits for start",
        &[BUNDLE, CONSOLE_SOCKET, PIDFD_SOCKET, PID_FILE, NO_PIVOT, NO_NEW_KEYRING, PRESERVE_FDS],
        (1, 1),
    ),
    command("start", "ID", "run the program of a created container", &[], (1, 1)),
    command(
        "run",
        "ID",
        "create and start a container",
        &[
            BUNDLE,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            DETACH,
            switch("keep", "do not delete the container when it ends"),
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
        ],
        (1, 1),
    ),
    command("state", "ID", "print the state of a container", &[], (1, 1)),
    command(
        "kill",
        "ID [SIGNAL]",
        "send a signal, SIGTERM otherwise",
        &[switch("all", "to every process of the container").short(b'a')],
        (1, 2),
    ),
    command(
        "delete",
        "ID",
        "remove what is left of a container",
        &[switch("force", "end it with SIGKILL when it runs").short(b'f')],
        (1, 1),
    ),
    command(
        "list",
        "",
        "list the containers of this root",
        &[FORMAT, switch("quiet", "only their ids").short(b'q')],
        (0, 0),
    ),
    Command {
        trailing: true,
        ..command(
            "exec",
            "ID COMMAND [ARG...]",
            "run another process in a container",
            &[
                CONSOLE_SOCKET,
                PIDFD_SOCKET,
                valued("cwd", "DIR", "working directory in the container"),
                valued("env", "NAME=VALUE", "set an environment variable").short(b'e'),
                switch("tty", "allocate a terminal").short(b't'),
                valued("user", "UID[:GID]", "user and group").short(b'u'),
                valued("additional-gids", "GID", "an additional group").short(b'g'),
                valued("process", "FILE", "process.json that says all of it").short(b'p'),
                DETACH,
                PID_FILE,
                valued("process-label", "LABEL", "SELinux label"),
                valued("apparmor", "PROFILE", "AppArmor profile"),
                switch("no-new-privs", "set no_new_privs"),
                valued("cap", "CAP", "add a capability").short(b'c'),
                PRESERVE_FDS,
                valued("cgroup", "[CONTROLLER:]PATH", "an existing cgroup below the container's"),
                switch("ignore-paused", "run in a paused container, too"),
                NO_SUBREAPER,
            ],
            (1, usize::MAX),
        )
    },
    Command {
        trailing: true,
        ..command(
            "ps",
            "ID [PS-OPTION...]",
            "list the processes of a container",
            &[FORMAT],
            (1, usize::MAX),
        )
    },
    command("pause", "ID", "freeze the processes of a container", &[], (1, 1)),
    command("resume", "ID", "let them run again", &[], (1, 1)),
    command(
        "update",
        "ID",
        "change the limits of a container",
        &[
            valued("resources", "FILE", "linux.resources to merge in; - reads stdin").short(b'r'),
            valued("blkio-weight", "N", "weight for block devices, 10 to 1000"),
            valued("cpu-period", "US", "CPU period in microseconds"),
            valued("cpu-quota", "US", "CPU time in a period"),
            valued("cpu-burst", "US", "CPU time saved for later"),
            valued("cpu-share", "N", "CPU weight relative to others"),
            valued("cpu-rt-period", "US", "real-time period"),
            valued("cpu-rt-runtime", "US", "real-time in a period"),
            valued("cpuset-cpus", "LIST", "CPUs to run on"),
            valued("cpuset-mems", "LIST", "memory nodes to use"),
            valued("kernel-memory", "BYTES", "ignored: the kernel has no such limit any more"),
            valued("kernel-memory-tcp", "BYTES", "limit of TCP buffers (cgroup v1)"),
            valued("memory", "BYTES", "memory limit"),
            valued("memory-reservation", "BYTES", "memory to be kept under pressure"),
            valued("memory-swap", "BYTES", "memory and swap together; -1 is no limit"),
            valued("pids-limit", "N", "most processes"),
            valued("l3-cache-schema", "TEXT", "resctrl schema of the L3 cache"),
            valued("mem-bw-schema", "TEXT", "resctrl schema of the memory bandwidth"),
            valued("cpu-idle", "0|1", "run when nothing else wants to"),
        ],
        (1, 1),
    ),
    command(
        "events",
        "ID",
        "print statistics and out-of-memory kills",
        &[
            valued("interval", "DURATION", "time between statistics, 5s otherwise"),
            switch("stats", "print the statistics once"),
        ],
        (1, 1),
    ),
    command(
        "checkpoint",
        "ID",
        "save a container's processes with criu",
        &[
            IMAGE_PATH,
            WORK_PATH,
            valued("parent-path", "DIR", "images of an earlier pre-dump"),
            switch("leave-running", "let the container run on"),
            TCP_ESTABLISHED,
            EXT_UNIX_SK,
            SHELL_JOB,
            TCP_SKIP_IN_FLIGHT,
            LINK_REMAP,
            LAZY_PAGES,
            valued("status-fd", "FD", "criu writes a NUL here when lazy-pages is ready"),
            valued("page-server", "ADDRESS:PORT", "send pages there"),
            FILE_LOCKS,
            switch("pre-dump", "save memory only and let the container run on"),
            CGROUPS_MODE,
            EMPTY_NS,
            AUTO_DEDUP,
        ],
        (1, 1),
    ),
    command(
        "restore",
        "ID",
        "bring a saved container back",
        &[
            CONSOLE_SOCKET,
            IMAGE_PATH,
            WORK_PATH,
            TCP_ESTABLISHED,
            EXT_UNIX_SK,
            SHELL_JOB,
            FILE_LOCKS,
            CGROUPS_MODE,
            BUNDLE,
            DETACH,
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            EMPTY_NS,
            AUTO_DEDUP,
            LAZY_PAGES,
            valued("lsm-profile", "TYPE:NAME", "security profile to restore under"),
            valued("lsm-mount-context", "CONTEXT", "security context of mounts"),
            switch("keep", "do not delete the container when it ends"),
        ],
        (1, 1),
    ),
    command(
        "spec",
        "",
        "write a config.json to start from",
        &[BUNDLE, switch("rootless", "for an ordinary user")],
        (0, 0),
    ),
    command("features", "", "print what is supported, as JSON", &[], (0, 0)),
    command(
        "check",
        "",
        "say what this host has and what is lost without it",
        &[valued("format", "FORMAT", "text or json").short(b'f')],
        (0, 0),
    ),
    command(
        "kernel",
        "list | install [PATH|VERSION] | show NAME | remove NAME",
        "kernels for microVMs",
        &[switch("json", "list as JSON")],
        (1, 2),
    ),
];

/// The command of this name.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

fn options_help(text: &mut String, options: &[Opt]) {
    for option in options {
        let mut names = format!("--{}", option.long);
        if let Some(value) = option.value {
            names.push(' ');
            names.push_str(value);
        }
        if let Some(short) = option.short {
            let _ = write!(names, ", -{}", char::from(short));
        }
        let _ = writeln!(text, "   {names:<34} {}", option.help);
    }
    let _ = writeln!(text, "   {:<34} show help", "--help, -h");
}

/// The help of the whole program, under the name that it was called by.
pub fn help(name: &str) -> String {
    let mut text = format!(
        "NAME:\n   {name} - Open Container Initiative runtime: \
         one bundle, as a container or in a microVM\n\n\
         USAGE:\n   {name} [global options] COMMAND [options] [arguments]\n\nCOMMANDS:\n",
    );
    for command in COMMANDS {
        let _ = writeln!(text, "   {:<12} {}", command.name, command.about);
    }
    text.push_str("\nGLOBAL OPTIONS:\n");
    options_help(&mut text, GLOBAL);
    text
}

/// The help of one command.
pub fn command_help(name: &str, command: &Command) -> String {
    let mut text = format!(
        "NAME:\n   {name} {} - {}\n\nUSAGE:\n   {name} {} [options] {}\n\nOPTIONS:\n",
        command.name, command.about, command.name, command.operands
    );
    options_help(&mut text, command.options);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_is_given_twice() {
        for command in COMMANDS {
            for (index, option) in command.options.iter().enumerate() {
                for other in &command.options[index + 1..] {
                    assert_ne!(option.long, other.long, "{}", command.name);
                    assert!(
                        option.short.is_none() || option.short != other.short,
                        "{}: {} and {}",
                        command.name,
                        option.long,
                        other.long
                    );
                }
            }
        }
    }

    #[test]
    fn the_help_names_every_command_and_option() {
        let all = help("hull");
        for command in COMMANDS {
            assert!(all.contains(command.name));
            let text = command_help("hull", command);
            assert!(command.options.iter().all(|option| text.contains(option.long)));
        }
    }
}
