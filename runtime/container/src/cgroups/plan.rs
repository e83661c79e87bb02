//! Where a cgroup goes and what is written there: computed before anything is made.

use super::Request;
use super::devices::rules::{self, Rule, State};
use super::error::Result;
use super::layout::Layout;
use super::limits::{self, Write};
use super::place::{Inner, Unit};
use super::systemd;
use oci::spec::LinuxResources;
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// What will be made; no hierarchy was touched yet.
#[derive(Debug)]
pub struct Plan {
    pub(super) layout: Layout,
    /// Directory by controller; v2 has the empty name.
    pub(super) paths: BTreeMap<String, PathBuf>,
    /// The systemd driver makes this unit first.
    pub(super) unit: Option<Unit>,
    pub(super) limits: Limits,
    pub(super) resources: LinuxResources,
    pub(super) annotations: HashMap<String, String>,
    pub(super) rootless: bool,
    pub(super) owner: Option<(u32, u32)>,
}

/// All writes, each list for the hierarchies it fits.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub v1: Vec<Write>,
    pub v2: Vec<Write>,
    pub devices: Vec<Rule>,
}

impl Limits {
    /// Computes the writes for a machine of this layout. `v2_has` tells which controllers the unified
    /// hierarchy has beside v1 ones.
    pub fn new(
        resources: &LinuxResources,
        layout: &Layout,
        v2_has: &dyn Fn(&str) -> bool,
    ) -> Result<Limits> {
        let devices = rules::parse(resources.devices().as_deref().unwrap_or_default(), true)?;
        let (v1, v2) = if layout.v1.is_empty() {
            let mut v2 = limits::v2::writes(resources)?;
            v2.extend(limits::v2::unified(resources)?);
            (Vec::new(), v2)
        } else {
            // A controller is on one of the two; what is on v2 is written in v2's terms.
            let on_v2 = |controller: &str| layout.v1_of(controller).is_none() && v2_has(controller);
            let mut v1 = limits::v1::writes(resources)?;
            let moved = v1.iter().any(|write| on_v2(&write.controller));
            v1.retain(|write| !on_v2(&write.controller));
            let mut v2 = limits::v2::unified(resources)?;
            if moved {
                v2.extend(
                    limits::v2::writes(resources)?
                        .into_iter()
                        .filter(|write| on_v2(&write.controller)),
                );
            }
            (v1, v2)
        };
        Ok(Limits { v1, v2, devices })
    }
}

/// Computes where the cgroup goes and what is written there.
pub fn plan(request: &Request<'_>) -> Result<Plan> {
    plan_on(request, Layout::read()?)
}

pub(super) fn plan_on(request: &Request<'_>, layout: Layout) -> Result<Plan> {
    let mut resources = request.resources.cloned().unwrap_or_default();
    if request.systemd {
        systemd::settle(&mut resources);
    }
    // Read once, and only when some controller is not on v1.
    let on_v2 = OnceCell::new();
    let v2_has = |controller: &str| {
        let list = on_v2.get_or_init(|| {
            let file = layout.v2.as_ref().map(|v2| v2.mountpoint.join("cgroup.controllers"));
            file.and_then(|file| super::fs::line(&file).ok()).unwrap_or_default()
        });
        list.split_whitespace().any(|known| known == controller)
    };
    let limits = Limits::new(&resources, &layout, &v2_has)?;
    if layout.v1_of("devices").is_some() {
        // Said now rather than half-way.
        State::of(&limits.devices)?;
    }
    let (paths, unit) = if request.systemd {
        let unit = Unit::new(request.path, request.id, request.rootless)?;
        let inner = Inner { path: unit.path(), absolute: true };
        (inner.directories(&layout), Some(unit))
    } else {
        (Inner::new(request.path, request.id)?.directories(&layout), None)
    };
    Ok(Plan {
        layout,
        paths,
        unit,
        limits,
        resources,
        annotations: request.annotations.cloned().unwrap_or_default(),
        rootless: request.rootless,
        owner: request.owner,
    })
}
