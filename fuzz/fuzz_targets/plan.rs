//! libFuzzer's entry to [`hull_fuzz::plan`]; built without cargo-fuzz it runs the files it is given.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = hull_fuzz::plan(data);
});

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, room: usize, seed: u32| {
    hull_fuzz::mutate_in_place(data, size, room, seed, libfuzzer_sys::fuzzer_mutate)
});

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    hull_fuzz::replay(|data| {
        let _ = hull_fuzz::plan(data);
    })
}
