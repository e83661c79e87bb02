//! libFuzzer's entry to [`hull_fuzz::frames`]; built without cargo-fuzz it runs the files it is given.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    hull_fuzz::frames(data);
});

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    hull_fuzz::replay(|data| {
        hull_fuzz::frames(data);
    })
}
