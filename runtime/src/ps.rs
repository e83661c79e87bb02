//! The table of `ps`: the host's `ps`, cut down to a container's processes, as runc does.

use crate::{Error, Result};
use std::ffi::OsString;
use std::process::Command;

/// Runs `ps` with the arguments (`-ef` when there are none) and keeps the lines of these pids.
pub(crate) fn table(pids: &[i32], arguments: &[OsString]) -> Result<String> {
    let mut command = Command::new("ps");
    match arguments {
        [] => command.arg("-ef"),
        given => command.args(given),
    };
    let output =
        command.output().map_err(|source| Error::System { operation: "running ps", source })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Program { program: "ps", message });
    }
    filter(&String::from_utf8_lossy(&output.stdout), pids)
}

/// The heading and the lines whose `PID` column is one of these.
fn filter(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let Some(column) = heading.split_ascii_whitespace().position(|name| name == "PID") else {
        let message = "couldn't find PID field in ps output".to_owned();
        return Err(Error::Program { program: "ps", message });
    };
    let mut kept = format!("{heading}\n");
    for line in lines {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PS: &str = "UID          PID    PPID  CMD\n\
                      root           1       0  init\n\
                      root          20       1  sh -c 1\n\
                      root         300      20  sleep 20\n";

    #[test]
    fn only_lines_of_the_containers_pids_are_kept() {
        let table = filter(PS, &[300, 1]).unwrap();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("UID"));
        assert!(lines[1].ends_with("init"));
        assert!(lines[2].ends_with("sleep 20"));
    }

    #[test]
    fn a_table_without_pids_is_an_error() {
        assert!(filter("USER CMD\nroot sh\n", &[1]).is_err());
    }
}
