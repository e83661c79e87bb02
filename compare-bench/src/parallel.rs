//! `compare-bench start --parallel N --count M`: M containers, N at a time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::contender::{Contender, Field};
use crate::error::Error;
use crate::report::Report;
use crate::{Common, interrupt, report, start};

/// Rounds in which each contender starts `count` containers.
pub fn measure(common: &Common, at_once: u32, count: u32) -> Result<Report, Error> {
    let mut field = Field::gather(common)?;
    let mut report = Report::new("start in parallel", common);
    report.setting = Some(format!("{count} containers, {at_once} at a time"));
    let bar = start::progress(common, field.contenders.len());
    report::rounds(common, &mut field, &mut report, &bar, |_, contender, round, report| {
        // A warm-up needs no more than one container per thread.
        let count = if round.is_some() { count } else { at_once.min(count) };
        let (whole, each) = batch(contender, at_once, count)?;
        if round.is_some() {
            report.note(&contender.name, report::BATCH, report::ms(whole));
            for one in each {
                report.note(&contender.name, report::RUN, report::ms(one));
            }
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(report.finish(field))
}

/// The time of all, and of each.
fn batch(
    contender: &Contender,
    at_once: u32,
    count: u32,
) -> Result<(Duration, Vec<Duration>), Error> {
    let next = AtomicU32::new(0);
    let results: Mutex<Result<Vec<Duration>, Error>> =
        Mutex::new(Ok(Vec::with_capacity(count as usize)));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(count) {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    let one = interrupt::check().and_then(|()| start::whole_run(contender));
                    let mut results =
                        results.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    match (&mut *results, one) {
                        (Ok(all), Ok(measured)) => all.push(measured.wall),
                        (Ok(_), Err(error)) => {
                            *results = Err(error);
                            next.store(count, Ordering::Relaxed);
                        }
                        (Err(_), _) => {}
                    }
                }
            });
        }
    });
    let whole = began.elapsed();
    let each = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())?;
    Ok((whole, each))
}
