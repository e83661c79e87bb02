//! Waiting for what must come, without trusting a fixed time: a loaded machine
//! with two cores may take a minute for what takes a millisecond elsewhere.

use std::time::{Duration, Instant};

/// How long anything that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(75);

/// Asks until there is an answer.
///
/// # Panics
/// When there is none within [`PATIENCE`]; `what` names it.
#[track_caller]
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, ask) {
        Some(answer) => answer,
        None => panic!("waited {} s in vain: {what}", PATIENCE.as_secs()),
    }
}

/// Whether it becomes true within the time.
pub fn holds_within(time: Duration, mut ask: impl FnMut() -> bool) -> bool {
    within(time, || ask().then_some(())).is_some()
}

/// Asks until there is an answer or the time is over.
pub fn within<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
