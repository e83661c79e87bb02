//! `compare-bench exec`: one more process in a container that runs.

use crate::contender::{Contender, Field};
use crate::error::Error;
use crate::life::Life;
use crate::report::Report;
use crate::spawn::Output;
use crate::{Common, interrupt, report, start};

/// One container per contender, kept for all rounds.
pub fn measure(common: &Common, command: &[String]) -> Result<Report, Error> {
    let mut field = Field::gather(common)?;
    if !field.bundle.can_hold() {
        return Err(Error::NoHold);
    }
    field.contenders.retain(Contender::is_runtime);
    let mut report = Report::new("exec", common);
    // Who cannot start is left out before the rounds, which borrow the field.
    let mut index = 0;
    while index < field.contenders.len() {
        interrupt::check()?;
        match Life::create(&field.contenders[index]).and_then(|(life, _)| life.start().map(drop)) {
            Ok(()) => index += 1,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => field.leave_out(index, &error),
        }
    }
    let bar = start::progress(common, field.contenders.len());
    {
        let mut lives = Vec::new();
        for contender in &field.contenders {
            let (life, _) = Life::create(contender)?;
            life.start()?;
            lives.push((contender, life));
        }
        for round in 0..common.warm_up + common.runs {
            let counts = round >= common.warm_up;
            for turn in 0..lives.len() {
                let (contender, life) = &lives[(turn + round as usize) % lives.len()];
                let mut words = vec!["exec", &life.id];
                words.extend(command.iter().map(String::as_str));
                let exec = contender.call("exec", &words, Output::Read)?;
                let state = contender.call("state", &["state", &life.id], Output::Read)?;
                bar.inc(1);
                if !counts {
                    continue;
                }
                let name = &contender.name;
                report.note(name, report::EXEC, report::ms(exec.wall));
                if let Some(first) = exec.first_output {
                    report.note(name, report::FIRST_OUTPUT, report::ms(first));
                }
                report.note(name, report::STATE, report::ms(state.wall));
                report.note(name, report::PEAK_EXEC, report::mib(exec.peak_kib));
            }
        }
        for (_, life) in lives {
            life.kill()?;
            life.delete()?;
        }
    }
    bar.finish_and_clear();
    Ok(report.finish(field))
}
