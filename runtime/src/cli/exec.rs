//! `exec`: one more process in a container.

use super::args::{Error as UsageError, Parsed};
use super::{id, operands_error, tables};
use crate::lifecycle::{self, Context, write_pid_file};
use crate::wall::ExecRequest;
use crate::{Error, Result};
use container::pty::PidfdSocket;
use oci::Status;
use oci::spec::{Capability, Process, User};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// `hull exec`.
pub fn exec(context: &Context, parsed: &Parsed) -> Result<i32> {
    lifecycle::reset_child_signal();
    let process_file = parsed.value("process").map(Path::new);
    if process_file.is_none() && parsed.operands.len() < 2 {
        let command = tables::find("exec").ok_or(Error::Claimless)?;
        return Err(operands_error(command, "requires a container and a command, or --process"));
    }
    let container = context.store.load(&id(parsed)?)?;
    match container.status()? {
        Status::Stopped => return Err(Error::ExecStopped),
        Status::Paused if !parsed.has("ignore-paused") => return Err(Error::ExecPaused),
        _ => {}
    }
    let config = context.store.config(&container)?;
    let mut process = match process_file {
        Some(path) => oci::parse_process(path)?,
        None => {
            let mut process = config.spec.process().clone().unwrap_or_default();
            let command = &parsed.operands[1..];
            let args = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            process.set_args(Some(args)).set_terminal(Some(parsed.has("tty")));
            amend(&mut process, parsed)?;
            process
        }
    };
    if parsed.has("tty") {
        process.set_terminal(Some(true));
    }
    oci::validate_process("process", "", &process)?;

    let absolute = |name| parsed.value(name).map(|p| lifecycle::absolute(Path::new(p))).transpose();
    let console_socket: Option<PathBuf> = absolute("console-socket")?;
    let pidfd_socket =
        absolute("pidfd-socket")?.map(|path| PidfdSocket::connect(&path)).transpose()?;
    let pid_file = absolute("pid-file")?;
    let detach = parsed.has("detach");
    let terminal = process.terminal().unwrap_or(false);
    lifecycle::check_console(terminal, detach, console_socket.is_some())?;
    if !detach && !parsed.has("no-subreaper") {
        lifecycle::set_subreaper()?;
    }
    if terminal && !detach && process.console_size().is_none() {
        // The program may look at the size before the relay could set it.
        process.set_console_size(crate::console::caller_size());
    }
    let cgroup = parsed.texts("cgroup")?;
    // What arrives while the process is made waits until there is somebody to forward it to.
    let _blocked = lifecycle::Blocked::new();
    let mut exec = container.wall().exec(
        &container,
        &ExecRequest {
            process: &process,
            config: &config,
            console_socket: console_socket.as_deref(),
            stdio: None,
            preserve_fds: parsed.number("preserve-fds")?.unwrap_or(0),
            root: context.store.root(),
            cgroup: &cgroup,
            ignore_paused: parsed.has("ignore-paused"),
            detach,
        },
    )?;
    let told = pidfd_socket
        .map_or(Ok(()), |socket| socket.send(exec.pid).map_err(Error::from))
        .and_then(|()| pid_file.map_or(Ok(()), |path| write_pid_file(&path, exec.pid)));
    if let Err(error) = told {
        // Who asked for the pid would never learn which process to end.
        // SAFETY: the child was not waited for, so the pid is its own; kill touches no memory.
        unsafe { libc::kill(exec.pid, libc::SIGKILL) };
        let _ = lifecycle::wait(exec.pid, None);
        return Err(error);
    }
    if detach {
        return Ok(0);
    }
    lifecycle::wait(exec.pid, exec.console.take())
}

/// What the flags change in the container's own process.
fn amend(process: &mut Process, parsed: &Parsed) -> Result<()> {
    if let Some(cwd) = parsed.value("cwd") {
        process.set_cwd(cwd.into());
    }
    let env = parsed.texts("env")?;
    if !env.is_empty() {
        process.env_mut().get_or_insert_default().extend(env);
    }
    if let Some(profile) = parsed.text("apparmor")? {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = parsed.text("process-label")? {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if parsed.has("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(user) = parsed.text("user")? {
        set_user(process.user_mut(), user)?;
    }
    let gids = parsed.texts("additional-gids")?;
    if !gids.is_empty() {
        let parse = |gid: &String| gid.parse().map_err(|_| number("additional-gids", gid));
        let gids = gids.iter().map(parse).collect::<std::result::Result<Vec<u32>, _>>()?;
        let mut all = process.user().additional_gids().clone().unwrap_or_default();
        all.extend(gids);
        process.user_mut().set_additional_gids(Some(all));
    }
    add_capabilities(process, &parsed.texts("cap")?)
}

/// `--user UID[:GID]`; the group stays when none is given.
fn set_user(user: &mut User, text: &str) -> Result<()> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let parse = |id: &str| id.parse::<u32>().map_err(|_| number("user", text));
    user.set_uid(parse(uid)?);
    if let Some(gid) = gid {
        user.set_gid(parse(gid)?);
    }
    Ok(())
}

fn number(flag: &'static str, value: &str) -> UsageError {
    UsageError::Value { flag, value: value.to_owned(), expected: "a numeric id is expected" }
}

/// Adds to the bounding, effective and permitted sets; to the ambient one where something
/// is inheritable (as runc does: it would have no effect otherwise).
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let parse = |name: &String| {
        serde_json::from_value::<Capability>(name.as_str().into()).map_err(|_| UsageError::Value {
            flag: "cap",
            value: name.clone(),
            expected: "a capability's name is expected",
        })
    };
    let added = names.iter().map(parse).collect::<std::result::Result<HashSet<_>, _>>()?;
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    let (bounding, effective, permitted) =
        (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
    if let Some(inheritable) = sets.inheritable() {
        // Others cannot be ambient.
        let mut ambient = sets.ambient().clone().unwrap_or_default();
        ambient.extend(added.intersection(inheritable));
        sets.set_ambient(Some(ambient));
    }
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    process.set_capabilities(Some(sets));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn amended(line: &str) -> Result<Process> {
        let command = tables::find("exec").unwrap();
        let parsed = command.parse(line.split_whitespace().map(OsString::from)).unwrap();
        let text = r#"{"user":{"uid":0,"gid":5},"args":["sh"],"cwd":"/","env":["A=1"],
            "capabilities":{"bounding":["CAP_KILL"],"permitted":["CAP_KILL"]}}"#;
        let mut process: Process = serde_json::from_str(text).unwrap();
        amend(&mut process, &parsed)?;
        Ok(process)
    }

    #[test]
    fn flags_change_the_containers_own_process() {
        let process =
            amended("-e B=2 --env C=3 --cwd /tmp -u 7 -g 8 -g 9 --no-new-privs id sh").unwrap();
        assert_eq!(process.env().as_ref().unwrap(), &["A=1", "B=2", "C=3"]);
        assert_eq!(process.cwd(), Path::new("/tmp"));
        assert_eq!((process.user().uid(), process.user().gid()), (7, 5));
        assert_eq!(process.user().additional_gids().as_ref().unwrap(), &[8, 9]);
        assert_eq!(process.no_new_privileges(), Some(true));
    }

    #[test]
    fn a_group_is_given_after_the_user() {
        let process = amended("--user 1000:100 id sh").unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (1000, 100));
        for line in ["-u root id sh", "-u 1: id sh", "-u : id sh", "-g wheel id sh"] {
            assert!(amended(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_capability_is_added_where_it_has_an_effect() {
        let process = amended("-c CAP_NET_RAW --cap CAP_CHOWN id sh").unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        for set in [sets.bounding(), sets.effective(), sets.permitted()] {
            assert!(set.as_ref().unwrap().contains(&Capability::NetRaw));
            assert!(set.as_ref().unwrap().contains(&Capability::Chown));
        }
        assert!(sets.bounding().as_ref().unwrap().contains(&Capability::Kill));
        assert!(sets.ambient().is_none());
        assert!(amended("-c CAP_MAGIC id sh").is_err());
    }
}
