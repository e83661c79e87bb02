//! Samples gathered by contender and metric, told as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;

use crate::Common;
use crate::contender::{Contender, Field};
use crate::error::Error;
use crate::machine::Machine;
use crate::stats::{Figures, Samples};

/// The unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    Ms,
    Mib,
}

/// A duration in milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// KiB in MiB.
pub fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// A measured quantity; the number is its place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Metric(u8, Unit, &'static str, &'static str);

pub const BATCH: Metric = Metric(0, Unit::Ms, "batch", "all containers");
pub const RUN: Metric = Metric(1, Unit::Ms, "run", "run, the whole process");
pub const FIRST_OUTPUT: Metric = Metric(2, Unit::Ms, "first_output", "until the first output");
pub const CREATE: Metric = Metric(3, Unit::Ms, "create", "create");
pub const START: Metric = Metric(4, Unit::Ms, "start", "start");
pub const KILL: Metric = Metric(5, Unit::Ms, "kill", "kill, until its process is gone");
pub const DELETE: Metric = Metric(6, Unit::Ms, "delete", "delete");
pub const LIFE: Metric = Metric(7, Unit::Ms, "create_start_delete", "create + start + delete");
pub const LIFE_KILL: Metric =
    Metric(8, Unit::Ms, "create_start_kill_delete", "create + start + kill + delete");
pub const EXEC: Metric = Metric(9, Unit::Ms, "exec", "exec, the whole process");
pub const STATE: Metric = Metric(10, Unit::Ms, "state", "state");
pub const PEAK_RUN: Metric =
    Metric(11, Unit::Mib, "peak_run", "peak memory of run (largest process)");
pub const PEAK_STEPS: Metric =
    Metric(12, Unit::Mib, "peak_steps", "peak memory of create/start/kill/delete");
pub const PEAK_EXEC: Metric = Metric(13, Unit::Mib, "peak_exec", "peak memory of exec");
pub const PSS: Metric =
    Metric(14, Unit::Mib, "sandbox_pss", "resident memory of a sleeping sandbox (PSS)");
pub const PSS_BESIDE: Metric =
    Metric(15, Unit::Mib, "sandbox_pss_beside_guest", "of it beside guest memory");

/// A finished or growing report.
#[derive(Debug, Serialize)]
pub struct Report {
    pub what: &'static str,
    pub bundle: String,
    pub docker_like: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
    pub machine: Machine,
    pub runtimes: Vec<Runtime>,
    /// Who was not measured, and why.
    pub left_out: Vec<(String, String)>,
    #[serde(skip)]
    samples: BTreeMap<(String, Metric), Samples>,
}

/// One contender's figures.
#[derive(Debug, Serialize)]
pub struct Runtime {
    pub name: String,
    pub version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// By the metric's name with its unit.
    pub figures: BTreeMap<String, Figures>,
    #[serde(skip)]
    by_metric: BTreeMap<Metric, Figures>,
}

impl Report {
    pub fn new(what: &'static str, common: &Common) -> Self {
        Self {
            what,
            bundle: common.bundle.display().to_string(),
            docker_like: common.docker_like,
            setting: None,
            machine: Machine::here(),
            runtimes: Vec::new(),
            left_out: Vec::new(),
            samples: BTreeMap::new(),
        }
    }

    /// One sample.
    pub fn note(&mut self, name: &str, metric: Metric, value: f64) {
        self.samples.entry((name.to_owned(), metric)).or_default().push(value);
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.runtimes.is_empty()
    }

    /// Samples to figures, for the contenders that lasted.
    pub fn finish(mut self, mut field: Field) -> Self {
        self.left_out = std::mem::take(&mut field.left_out);
        for contender in &field.contenders {
            let by_metric: BTreeMap<Metric, Figures> = self
                .samples
                .iter()
                .filter(|((name, _), _)| *name == contender.name)
                .filter_map(|((_, metric), samples)| Some((*metric, samples.figures()?)))
                .collect();
            let figures =
                by_metric.iter().map(|(metric, figures)| (metric.key(), *figures)).collect();
            self.runtimes.push(Runtime {
                name: contender.name.clone(),
                version: contender.version.clone(),
                note: contender.note.clone(),
                figures,
                by_metric,
            });
        }
        self
    }

    /// Whom the others are compared with: crun, else the first.
    fn reference(&self) -> Option<&Runtime> {
        self.runtimes.iter().find(|runtime| runtime.name == "crun").or(self.runtimes.first())
    }
}

impl Metric {
    fn key(self) -> String {
        let unit = match self.1 {
            Unit::Ms => "ms",
            Unit::Mib => "mib",
        };
        format!("{}_{unit}", self.2)
    }
}

/// Rounds of turns: the order moves on each round; a contender that fails its
/// first turn is left out, a later failure is the measurement's.
pub fn rounds(
    common: &Common,
    field: &mut Field,
    report: &mut Report,
    bar: &ProgressBar,
    mut turn: impl FnMut(&Field, &Contender, Option<u32>, &mut Report) -> Result<(), Error>,
) -> Result<(), Error> {
    let warm_up = common.warm_up.max(1);
    for round in 0..warm_up + common.runs {
        let counted = round.checked_sub(warm_up);
        let mut out = Vec::new();
        let contenders = field.contenders.len();
        for place in 0..contenders {
            let index = (place + round as usize) % contenders;
            let contender = &field.contenders[index];
            bar.set_message(contender.name.clone());
            match turn(field, contender, counted, report) {
                Ok(()) => {}
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) if round == 0 => out.push((index, error)),
                Err(error) => return Err(error),
            }
            bar.inc(1);
        }
        out.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, error) in out {
            field.leave_out(index, &error);
        }
        if field.contenders.is_empty() {
            break;
        }
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            out,
            "{}: {}{}",
            self.what,
            self.bundle,
            if self.docker_like { " (Docker's defaults)" } else { "" }
        )?;
        if let Some(setting) = &self.setting {
            writeln!(out, "{setting}")?;
        }
        writeln!(
            out,
            "Linux {}, {} x {}, cgroup {}",
            machine.kernel, machine.cpus, machine.cpu, machine.cgroup
        )?;
        if machine.lab {
            writeln!(
                out,
                "THE LAB'S TIMES: an emulated machine; they compare with each other and with nothing else"
            )?;
        }
        let reference = self.reference();
        let mut metrics: Vec<Metric> =
            self.runtimes.iter().flat_map(|one| one.by_metric.keys().copied()).collect();
        metrics.sort_unstable();
        metrics.dedup();
        for metric in metrics {
            let unit = if metric.1 == Unit::Ms { "ms" } else { "MiB" };
            let title = format!("{} ({unit})", metric.3);
            let than = reference.map_or("", |runtime| runtime.name.as_str());
            writeln!(
                out,
                "\n{title:<52}{:>9} {:>9} {:>9} {:>9}   x {than}",
                "median", "p99", "min", "max"
            )?;
            let base = reference
                .and_then(|runtime| runtime.by_metric.get(&metric))
                .map(|figures| figures.median);
            for runtime in &self.runtimes {
                let Some(figures) = runtime.by_metric.get(&metric) else { continue };
                write!(
                    out,
                    "  {:<50}{:>9.2} {:>9.2} {:>9.2} {:>9.2}",
                    runtime.name, figures.median, figures.p99, figures.min, figures.max
                )?;
                match base {
                    Some(base) if base > 0.0 => writeln!(out, "   {:.2}", figures.median / base)?,
                    _ => writeln!(out)?,
                }
            }
        }
        writeln!(out)?;
        for runtime in &self.runtimes {
            let samples =
                runtime.by_metric.values().map(|figures| figures.samples).max().unwrap_or(0);
            write!(out, "{}: {samples} samples, {}", runtime.name, runtime.version)?;
            match &runtime.note {
                Some(note) => writeln!(out, "; {note}")?,
                None => writeln!(out)?,
            }
        }
        for (name, why) in &self.left_out {
            writeln!(out, "{name}: not measured: {why}")?;
        }
        Ok(())
    }
}
