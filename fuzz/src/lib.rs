//! Hostile documents: what hull does with them before it does anything to the machine.
//!
//! [`load`], [`plan`] and [`frames`] take any bytes and must return; a panic, an endless loop or
//! memory without bounds is a fault. `fuzz_targets/` hands them to libFuzzer (`cargo fuzz run plan
//! fuzz/corpus/plan fuzz/seeds`), and the tests here run some thousand mutations of `seeds/` every
//! time. Must not know how a plan is carried out.

mod mutate;

use config::{Flags, HullToml, Inputs, VmSize};
use container::cgroups::Stats;
use container::{CreateRequest, Rootless};
use hull_agent::link::{Answer, Decoder, MAX_REPORT, PREAMBLE_LEN, Preamble, Report};
use serde_json::Value;
use std::path::Path;

pub use mutate::{Choices, mutate};

/// A bundle that is nowhere.
const BUNDLE: &str = "/nonexistent/bundle";

/// What a microVM has where the document's own wish is refused.
const SIZE: VmSize = VmSize { vcpus: 2, memory: 512 << 20 };

/// Complete documents to begin with.
pub const SEEDS: &[&str] = &[
    include_str!("../seeds/every-field.json"),
    include_str!("../seeds/engine.json"),
    include_str!("../seeds/vm.json"),
];

/// Reads documents of every kind that come from outside.
pub fn load(data: &[u8]) {
    if let Ok(config) = oci::parse(data) {
        let _ = oci::validate(&config);
    }
    let _ = oci::parse_resources(data);
    let _ = serde_json::from_slice::<oci::State>(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = HullToml::parse(text);
    }
}

/// Loads a `config.json` and plans it for both walls; the error is why it did not get that far.
pub fn plan(data: &[u8]) -> Result<(), oci::Error> {
    let config = oci::parse(data)?;
    oci::validate(&config)?;
    let flags = Flags::default();
    let chosen =
        config::decide(&Inputs { flags: &flags, argv0: None, config: &config, file: None });
    let size = chosen.map_or(SIZE, |decision| decision.vm);
    for (rootless, systemd_cgroup) in [(Rootless::No, false), (Rootless::Yes, true)] {
        let _ = container::Plan::new(&CreateRequest {
            id: "fuzzed",
            config: &config,
            bundle: Path::new(BUNDLE),
            state_dir: Path::new(BUNDLE),
            cache_dir: None,
            console_socket: None,
            plain_newlines: false,
            stdio: None,
            preserve_fds: 0,
            no_pivot: false,
            no_new_keyring: false,
            systemd_cgroup,
            rootless,
            foreground: false,
            guard: None,
        });
    }
    let _ = hull::microvm_wall::plan::plan(&config, "fuzzed", Path::new(BUNDLE), size);
    Ok(())
}

/// Takes bytes for what a guest's agent says to the host, in pieces as they may come.
pub fn frames(data: &[u8]) {
    if let Some(start) = data.first_chunk::<PREAMBLE_LEN>() {
        let _ = Preamble::decode(start);
    }
    let mut decoder = Decoder::new(MAX_REPORT);
    let mut rest = data;
    while let Some((&size, after)) = rest.split_first() {
        let (piece, after) = after.split_at(after.len().min(usize::from(size) + 1));
        rest = after;
        decoder.push(piece);
        loop {
            match decoder.take::<Report>() {
                Ok(Some(Report::Reply { result: Ok(Answer::Stats(stats)), .. })) => {
                    let _ = serde_json::from_value::<Stats>(stats);
                }
                Ok(Some(Report::Exited { status, .. })) => {
                    let _ = status.code();
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                // The host gives such a guest up.
                Err(_) => return,
            }
        }
    }
}

/// One change to a document that parses, or `None`.
pub fn mutated(data: &[u8], seed: u64) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(data).ok()?;
    let mut choices = Choices::new(seed);
    let donor = serde_json::from_str(choices.of(SEEDS)).ok()?;
    mutate(&mut document, &donor, &mut choices);
    serde_json::to_vec(&document).ok()
}

/// A custom mutator's work for JSON: mostly a change that leaves a document, sometimes `bytes`,
/// libFuzzer's own change of bytes. `data[..size]` is changed, up to `room` bytes; the new size.
pub fn mutate_in_place(
    data: &mut [u8],
    size: usize,
    room: usize,
    seed: u32,
    bytes: impl FnOnce(&mut [u8], usize, usize) -> usize,
) -> usize {
    if !seed.is_multiple_of(8)
        && let Some(changed) = mutated(&data[..size], seed.into())
        && changed.len() <= room
    {
        data[..changed.len()].copy_from_slice(&changed);
        return changed.len();
    }
    bytes(data, size, room)
}

/// Runs the files named on the command line: a finding again, without a fuzzer.
pub fn replay(run: impl Fn(&[u8])) -> std::io::Result<()> {
    for path in std::env::args_os().skip(1) {
        println!("{}", Path::new(&path).display());
        run(&std::fs::read(&path)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_documents_that_are_planned() {
        for seed in SEEDS {
            plan(seed.as_bytes()).unwrap();
        }
    }

    #[test]
    fn changed_documents_are_planned_or_refused() {
        let (mut planned, mut tried) = (0, 0);
        for seed in SEEDS {
            let mut document = seed.as_bytes().to_vec();
            for round in 0..600 {
                let changed = mutated(&document, round).unwrap();
                load(&changed);
                tried += 1;
                // Changes pile up as long as they leave something to plan.
                document = if plan(&changed).is_ok() && round % 10 != 9 {
                    planned += 1;
                    changed
                } else {
                    seed.as_bytes().to_vec()
                };
            }
        }
        // Were all of them refused by the parser, nothing would be tried.
        assert!(planned > tried / 5, "only {planned} of {tried} got as far as plans");
    }

    #[test]
    fn a_change_is_the_same_each_time() {
        let seed = SEEDS[0].as_bytes();
        assert_eq!(mutated(seed, 7), mutated(seed, 7));
        assert_ne!(mutated(seed, 7), mutated(seed, 8));
    }
}
