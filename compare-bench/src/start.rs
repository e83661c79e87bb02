//! `compare-bench start`: what it takes to bring a container up and down.

use std::time::Duration;

use indicatif::ProgressBar;

use crate::contender::{Contender, Field};
use crate::error::Error;
use crate::life::{self, Life};
use crate::report::Report;
use crate::spawn::{Measured, Output};
use crate::{Common, interrupt, report, sandbox};

/// After `start` the workload still has to begin, a guest to settle, before
/// its memory is looked at.
const SETTLE: Duration = Duration::from_millis(150);
/// Looking at memory takes longer than a container's start: some rounds do.
const MEMORY_ROUNDS: u32 = 8;

/// Rounds of one whole `run` and one life by single commands each.
pub fn measure(common: &Common) -> Result<Report, Error> {
    let mut field = Field::gather(common)?;
    let mut report = Report::new("start", common);
    let bar = progress(common, field.contenders.len());
    report::rounds(common, &mut field, &mut report, &bar, |field, contender, round, report| {
        let holds = field.bundle.can_hold();
        one(contender, holds, round, report)
    })?;
    bar.finish_and_clear();
    Ok(report.finish(field))
}

/// A bar for rounds of turns; hidden where stderr is no terminal.
pub fn progress(common: &Common, contenders: usize) -> ProgressBar {
    let turns = u64::from(common.runs + common.warm_up) * contenders as u64;
    let bar = ProgressBar::new(turns);
    if let Ok(style) =
        indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({eta} left)")
    {
        bar.set_style(style);
    }
    bar
}

fn one(
    contender: &Contender,
    holds: bool,
    round: Option<u32>,
    report: &mut Report,
) -> Result<(), Error> {
    let mut note = |metric, value| {
        if round.is_some() {
            report.note(&contender.name, metric, value);
        }
    };
    let run = whole_run(contender)?;
    note(report::RUN, report::ms(run.wall));
    if let Some(first) = run.first_output {
        note(report::FIRST_OUTPUT, report::ms(first));
    }
    let mut peak = run.peak_kib;
    note(report::PEAK_RUN, report::mib(peak));
    if !holds || !contender.is_runtime() {
        return Ok(());
    }
    interrupt::check()?;

    let (life, create) = Life::create(contender)?;
    let start = life.start()?;
    if round.is_none_or(|round| round < MEMORY_ROUNDS) {
        std::thread::sleep(SETTLE);
        let memory = sandbox::memory(life.pid);
        note(report::PSS, report::mib(memory.pss));
        if memory.guest > 0 {
            note(report::PSS_BESIDE, report::mib(memory.pss - memory.guest));
        }
    }
    let (kill, killed) = life.kill()?;
    let delete = life.delete()?;
    note(report::CREATE, report::ms(create.wall));
    note(report::START, report::ms(start.wall));
    note(report::KILL, report::ms(killed));
    note(report::DELETE, report::ms(delete.wall));
    note(report::LIFE, report::ms(create.wall + start.wall + delete.wall));
    note(report::LIFE_KILL, report::ms(create.wall + start.wall + killed + delete.wall));
    peak =
        [&create, &start, &kill, &delete].into_iter().map(|step| step.peak_kib).max().unwrap_or(0);
    note(report::PEAK_STEPS, report::mib(peak));
    Ok(())
}

/// `run` of the bundle's own command to its end, which has to be a success.
pub fn whole_run(contender: &Contender) -> Result<Measured, Error> {
    let id = life::fresh_id();
    let result = contender.whole_run(&id);
    if result.is_err() && contender.is_runtime() {
        let _ = contender.try_call(&["delete", "--force", &id], Output::Discard);
    }
    result
}
