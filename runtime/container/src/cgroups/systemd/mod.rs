//! The systemd driver: the cgroup is a transient unit.
//!
//! A scope needs a process to start with, but the container's first one is cloned into a cgroup
//! that exists. So a process of our own, which does nothing and dies with us, starts the scope and
//! leaves when the container is in.
//!
//! Sources: `org.freedesktop.systemd1(5)`, "Control Group APIs and Delegation" of systemd.

mod bus;
mod holder;
mod properties;
mod text;
mod wire;

use super::error::{Error, Result};
use super::layout::Layout;
use super::place::Unit;
use super::plan::Limits;
use bus::{Bus, Failure};
pub(super) use holder::{Holder, knows_our_numbers};
use oci::spec::LinuxResources;
pub(super) use properties::settle;
use std::collections::HashMap;
use wire::{Value, Writer};

/// Annotations that are properties of the unit.
const ANNOTATION: &str = "org.systemd.property.";

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
    let unreached = |reason| failed("start", name, format!("cannot reach systemd: {reason}"));
    let (mut holder, mut bus) = if slice {
        (Holder::none(), Bus::connect(user).map_err(unreached)?)
    } else {
        let (holder, tried) = Holder::new(user).map_err(|error| failed("start", name, error))?;
        (holder, Bus::first_of(tried.into_iter()).map_err(unreached)?)
    };
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
        list.push(("PIDs".to_owned(), Value::U32s(vec![holder.number()])));
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
        holder.is_at(path);
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

/// Lets systemd move a process into a unit: who may not move it himself out of a group of root's,
/// as from a login, can have this done.
pub(super) fn attach(unit: &str, pid: i32, user: bool) -> Result<()> {
    let mut body = Writer::default();
    body.str(unit);
    body.str("/");
    body.array(4, &[pid as u32], |writer, &pid| writer.u32(pid));
    connect("attach a process to", unit, user)?
        .manager("AttachProcessesToUnit", "ssau", &body)
        .map(drop)
        .map_err(|reason| failed("attach a process to", unit, reason))
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
