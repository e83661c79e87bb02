//! The systemd driver: the cgroup is a transient unit.
//!
//! A scope needs a process to start with, but the container's first one is cloned into a cgroup
//! that exists. So a process of our own, which does nothing and dies with us, starts the scope and
//! leaves when the container is in.
//!
//! Sources: `org.freedesktop.systemd1(5)`, "Control Group APIs and Delegation" of systemd.

mod bus;
mod properties;
mod text;
mod wire;

use super::error::{Error, Result};
use super::layout::Layout;
use super::place::Unit;
use super::plan::Limits;
use bus::{Bus, Failure};
use oci::spec::LinuxResources;
use std::collections::HashMap;
use std::path::PathBuf;
use wire::{Value, Writer};

/// Annotations that are properties of the unit.
const ANNOTATION: &str = "org.systemd.property.";

/// A process that holds a scope open; dropped, it is gone. Of a slice, only its place.
#[derive(Debug)]
pub(super) struct Holder {
    pid: libc::pid_t,
    /// Path of the unit's cgroup below the hierarchy's root, where systemd had to be asked.
    control_group: Option<String>,
}

impl Holder {
    fn new(unit: &str) -> Result<Holder> {
        let us = std::process::id() as libc::pid_t;
        // SAFETY: the child makes system calls only, and never returns.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(failed("start", unit, std::io::Error::last_os_error().to_string()));
        }
        if pid == 0 {
            // SAFETY: async-signal-safe calls; if our parent is gone already, so are we.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid() != us {
                    libc::_exit(0);
                }
                loop {
                    libc::pause();
                }
            }
        }
        Ok(Holder { pid, control_group: None })
    }

    /// The unit's directory in the v2 hierarchy, where only systemd knew it.
    pub(super) fn directory(&self, layout: &Layout) -> Option<PathBuf> {
        let path = self.control_group.as_deref()?.trim_start_matches('/');
        layout.v2.as_ref().map(|v2| v2.mountpoint.join(path))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.pid > 0 {
            // SAFETY: our own child, not waited for by anyone else.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

fn failed(operation: &'static str, unit: &str, reason: impl ToString) -> Error {
    Error::Systemd { operation, unit: unit.to_owned(), reason: reason.to_string() }
}

/// Starts the unit.
pub(super) fn start(
    unit: &Unit,
    resources: &LinuxResources,
    limits: &Limits,
    annotations: &HashMap<String, String>,
    layout: &Layout,
    user: bool,
) -> Result<Holder> {
    let name = unit.name.as_str();
    let slice = name.ends_with(".slice");
    let mut holder =
        if slice { Holder { pid: 0, control_group: None } } else { Holder::new(name)? };
    let v2 = layout.v1.is_empty();
    let mut list = vec![
        ("Description".to_owned(), Value::Str(format!("hull container {name}"))),
        ("DefaultDependencies".to_owned(), Value::Bool(false)),
    ];
    if slice {
        list.push(("Wants".to_owned(), Value::Strs(vec![unit.slice.clone()])));
    } else {
        list.push(("Slice".to_owned(), Value::Str(unit.slice.clone())));
        list.push(("Delegate".to_owned(), Value::Bool(true)));
        list.push(("PIDs".to_owned(), Value::U32s(vec![holder.pid as u32])));
    }
    let accounting = [
        "MemoryAccounting",
        "CPUAccounting",
        "TasksAccounting",
        if v2 { "IOAccounting" } else { "BlockIOAccounting" },
    ];
    list.extend(accounting.map(|name| (name.to_owned(), Value::Bool(true))));
    list.extend(limit_properties(resources, limits, layout)?);
    let mut given: Vec<_> = annotations
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(ANNOTATION)?, value)))
        .collect();
    given.sort();
    for (key, value) in given {
        let property = text::property(key, value).ok_or_else(|| {
            failed(
                "start",
                name,
                format!("annotation {ANNOTATION}{key}: {value:?} is not a property's value"),
            )
        })?;
        list.retain(|(known, _)| *known != property.0);
        list.push(property);
    }
    let mut bus = connect("start", name, user)?;
    let mut body = Writer::default();
    body.str(name);
    body.str("replace");
    body.properties(&list);
    body.array(8, &[] as &[()], |_, ()| {});
    let call = |bus: &mut Bus| bus.manager("StartTransientUnit", "ssa(sv)a(sa(sv))", &body);
    let mut answer = call(&mut bus);
    if let Err(Failure::Answer(error, _)) = &answer
        && error == "org.freedesktop.systemd1.UnitExists"
    {
        // One that failed before is still known until it is reset.
        let mut reset = Writer::default();
        reset.str(name);
        let _ = bus.manager("ResetFailedUnit", "s", &reset);
        answer = call(&mut bus);
    }
    finish("start", name, &mut bus, answer)?;
    if user {
        let interface =
            if slice { "org.freedesktop.systemd1.Slice" } else { "org.freedesktop.systemd1.Scope" };
        let path = bus
            .unit_property(name, interface, "ControlGroup")
            .map_err(|reason| failed("ask about", name, reason))?;
        holder.control_group = Some(path);
    }
    Ok(holder)
}

fn limit_properties(
    resources: &LinuxResources,
    limits: &Limits,
    layout: &Layout,
) -> Result<Vec<(String, Value)>> {
    let mut out = properties::limits(resources, layout.v1.is_empty())?;
    // With v2 alone our own program decides about devices, and systemd has none.
    if layout.v1_of("devices").is_some() {
        let known = super::fs::read_raw("/proc/devices".as_ref()).unwrap_or_default();
        out.extend(properties::devices(&limits.devices, &known)?);
    }
    Ok(out)
}

/// Stops the unit; one that systemd no longer knows is stopped.
pub(super) fn stop(unit: &str, user: bool) -> Result<()> {
    let mut bus = connect("stop", unit, user)?;
    let mut body = Writer::default();
    body.str(unit);
    body.str("replace");
    let answer = bus.manager("StopUnit", "ss", &body);
    if let Err(Failure::Answer(error, _)) = &answer
        && error == "org.freedesktop.systemd1.NoSuchUnit"
    {
        return Ok(());
    }
    finish("stop", unit, &mut bus, answer)?;
    let mut body = Writer::default();
    body.str(unit);
    let _ = bus.manager("ResetFailedUnit", "s", &body);
    Ok(())
}

/// Changes the unit's limits.
pub(super) fn update(
    unit: &str,
    resources: &LinuxResources,
    limits: &Limits,
    layout: &Layout,
    user: bool,
) -> Result<()> {
    let mut list = properties::limits(resources, layout.v1.is_empty())?;
    if resources.devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        list = limit_properties(resources, limits, layout)?;
    }
    if list.is_empty() {
        return Ok(());
    }
    let mut body = Writer::default();
    body.str(unit);
    // Only until the next boot.
    body.u32(1);
    body.properties(&list);
    connect("update", unit, user)?
        .manager("SetUnitProperties", "sba(sv)", &body)
        .map(|_| ())
        .map_err(|reason| failed("update", unit, reason))
}

fn connect(operation: &'static str, unit: &str, user: bool) -> Result<Bus> {
    Bus::connect(user)
        .map_err(|reason| failed(operation, unit, format!("cannot reach systemd: {reason}")))
}

/// Waits for the job that a call gave.
fn finish(
    operation: &'static str,
    unit: &str,
    bus: &mut Bus,
    answer: std::result::Result<wire::Message, Failure>,
) -> Result<()> {
    let mut answer = answer.map_err(|reason| failed(operation, unit, reason))?;
    let job = answer.str().ok_or_else(|| failed(operation, unit, "no job"))?;
    let result = bus.wait_job(&job).map_err(|reason| failed(operation, unit, reason))?;
    if result == "done" {
        Ok(())
    } else {
        Err(failed(operation, unit, format!("the job ended with {result:?}")))
    }
}
