//! Changing the limits of a living cgroup.
//!
//! A change names only what changes. Where v2 puts two values into one file (`cpu.max`), or counts
//! differently from what the specification says (swap), the present values complete it.

use super::apply::carry_out;
use super::create::write_devices;
use super::devices::{attach, bpf, rules::State};
use super::error::{Error, Result};
use super::fs;
use super::layout::Layout;
use super::limits::{Mode, Write};
use super::plan::Limits;
use super::record::Record;
use super::systemd;
use oci::spec::LinuxResources;
use std::borrow::Cow;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

impl Record {
    /// Changes limits (`update`).
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        let layout = Layout::read()?;
        let v2 = self.paths.get("");
        let controllers = match v2 {
            Some(directory) => {
                fs::read_raw(&directory.join("cgroup.controllers")).unwrap_or_default()
            }
            None => String::new(),
        };
        let has = |name: &str| controllers.split_whitespace().any(|known| known == name);
        let unified = layout.v1.is_empty();
        let mut resources = resources.clone();
        if let (true, Some(directory)) = (unified, v2) {
            complete(&mut resources, directory);
            check_memory(&resources, directory)?;
        }
        if self.unit.is_some() {
            systemd::settle(&mut resources);
        }
        let mut limits = Limits::new(&resources, &layout, &has)?;
        if !unified
            && resources
                .memory()
                .as_ref()
                .is_some_and(|memory| memory.disable_oom_killer() == Some(false))
        {
            limits.v1.push(Write {
                controller: Cow::Borrowed("memory"),
                file: Cow::Borrowed("memory.oom_control"),
                value: "0".to_owned(),
                field: Cow::Borrowed("memory.disableOOMKiller"),
                mode: Mode::Must,
            });
        }
        if let Some(unit) = &self.unit {
            systemd::update(unit, &resources, &limits, &layout, self.user_unit)?;
        }
        carry_out(&limits.v1, &|controller| self.paths.get(controller).cloned(), self.rootless)?;
        let find = |controller: &str| -> Option<PathBuf> {
            v2.filter(|_| has(controller) || controller == "cgroup").cloned()
        };
        carry_out(&limits.v2, &find, self.rootless)?;
        if resources.devices().as_ref().is_some_and(|list| !list.is_empty()) {
            self.change_devices(&limits)?;
        }
        Ok(())
    }

    fn change_devices(&self, limits: &Limits) -> Result<()> {
        if let Some(directory) = self.paths.get("devices") {
            let target = State::of(&limits.devices)?;
            let list = directory.join("devices.list");
            let content = fs::read(&list)?;
            let now = State::parse(&content).ok_or(Error::Parse { path: list, content })?;
            return write_devices(directory, &target.lines_from(&now));
        }
        let Some(directory) = self.paths.get("") else {
            return Err(Error::Missing {
                field: "devices".to_owned(),
                controller: "devices".to_owned(),
            });
        };
        let fd = fs::open(directory, libc::O_RDONLY | libc::O_DIRECTORY)
            .map_err(|source| Error::io("open", directory, source))?;
        attach::attach(directory, fd.as_fd(), &bpf::program(&limits.devices), true)
    }
}

/// A limit in v2's file; `None`: no limit.
fn present(path: &Path) -> Option<Option<i64>> {
    let text = fs::read_raw(path).ok()?;
    match text.trim() {
        "max" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

/// Fills in from the present values what v2's files need together.
fn complete(resources: &mut LinuxResources, directory: &Path) {
    if let Some(cpu) = resources.cpu() {
        let quota = cpu.quota().filter(|&quota| quota != 0);
        let period = cpu.period().filter(|&period| period != 0);
        if quota.is_some() != period.is_some()
            && let Ok(text) = fs::read_raw(&directory.join("cpu.max"))
            && let Some((old_quota, old_period)) = text.trim().split_once(' ')
        {
            let mut changed = cpu.clone();
            if quota.is_none() {
                changed.set_quota(Some(old_quota.parse().unwrap_or(-1)));
            }
            if period.is_none() {
                changed.set_period(old_period.parse().ok());
            }
            resources.set_cpu(Some(changed));
        }
    }
    if let Some(memory) = resources.memory() {
        let limit = memory.limit().filter(|&limit| limit != 0);
        let total = memory.swap().filter(|&swap| swap != 0);
        let now = present(&directory.join("memory.max"));
        let swap_now = present(&directory.join("memory.swap.max"));
        let mut changed = *memory;
        match (limit, total, now, swap_now) {
            (None, Some(total), Some(now), _) if total != -1 => {
                changed.set_limit(Some(now.unwrap_or(-1)));
            }
            // The sum of both stays, as it does on v1.
            (Some(limit), None, Some(Some(now)), Some(Some(swap))) if limit > 0 => {
                changed.set_swap(now.checked_add(swap));
            }
            _ => return,
        }
        resources.set_memory(Some(changed));
    }
}

/// `checkBeforeUpdate`: v2 would reclaim and kill rather than refuse.
fn check_memory(resources: &LinuxResources, directory: &Path) -> Result<()> {
    let Some(memory) =
        resources.memory().as_ref().filter(|m| m.check_before_update() == Some(true))
    else {
        return Ok(());
    };
    // The words are runc's: its users look for them.
    let refuse = |field: &str, what: &str, limit: i64, usage: u64| {
        Err(Error::value(field, format!("rejecting {what} limit {limit} <= usage {usage}")))
    };
    let usage = fs::number(&directory.join("memory.current"))?;
    let total = memory.swap().filter(|&total| total > 0);
    if let Some(total) = total.filter(|&total| total as u64 <= usage) {
        return refuse("memory.swap", "memory+swap", total, usage);
    }
    if let Some(limit) = memory.limit().filter(|&limit| limit > 0) {
        if limit as u64 <= usage {
            return refuse("memory.limit", "memory", limit, usage);
        }
        if let Some(total) = total.filter(|&total| total > limit)
            && let Ok(swap_usage) = fs::number(&directory.join("memory.swap.current"))
            && swap_usage > (total - limit) as u64
        {
            let usage = usage.saturating_add(swap_usage);
            return refuse("memory.swap", "memory+swap", total, usage);
        }
    }
    Ok(())
}
