//! The three streams: apart, unchanged, whole.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;
use tests::{Place, subject};

subject! {
    both: stdout_and_stderr_stay_apart, a_hundred_mebibytes_pass_unchanged, output_closed_early_ends_it,
        end_of_input_is_seen, empty_input_is_empty, output_before_the_end_is_whole,
        a_silent_reader_of_stdout_does_not_stop_stderr, every_byte_passes, words_arrive_as_they_are_written,
        detached_container_writes_to_the_callers_streams, input_left_unread_does_no_harm,
        exec_passes_a_mebibyte_through, exec_streams_stay_apart, closed_input_is_no_obstacle;
}

fn stdout_and_stderr_stay_apart(place: &Place) {
    let output =
        place.run(&place.bundle().sh("echo one; echo two >&2; echo three; echo four >&2; exit 6"));
    output.exits(6);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("one\nthree\n", "two\nfour\n"));
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn a_hundred_mebibytes_pass_unchanged(place: &Place) {
    let block = noise(1 << 20);
    let mut running = place
        .running(&place.bundle().args(&["cat"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .patience(Duration::from_secs(150))
        .spawn();
    let (mut input, mut output) =
        (running.take_stdin().expect("a pipe"), running.take_stdout().expect("a pipe"));
    let sent = block.clone();
    let writer = std::thread::spawn(move || {
        for _ in 0..100 {
            input.write_all(&sent).expect("written");
        }
    });
    let mut got = vec![0; block.len()];
    for index in 0..100 {
        output.read_exact(&mut got).expect("read");
        assert!(got == block, "mebibyte {index} is not what was sent");
    }
    assert_eq!(output.read(&mut got).expect("the end"), 0, "more than was sent");
    writer.join().expect("the writer");
    running.wait().ok();
}

fn output_closed_early_ends_it(place: &Place) {
    let bundle = place.bundle().sh("while echo again; do :; done 2>/dev/null; exit 33");
    let mut running = place.running(&bundle).stdout(Stdio::piped()).spawn();
    let mut output = running.take_stdout().expect("a pipe");
    let mut some = [0; 60];
    output.read_exact(&mut some).expect("read");
    assert!(some.starts_with(b"again\nagain\n"));
    drop(output);
    running.wait().exits(33);
}

fn end_of_input_is_seen(place: &Place) {
    place.running(&place.bundle().args(&["wc", "-c"])).input("12345").run().ok().prints("5");
}

fn empty_input_is_empty(place: &Place) {
    place.run(&place.bundle().args(&["wc", "-c"])).ok().prints("0");
}

fn output_before_the_end_is_whole(place: &Place) {
    let mut running = place
        .running(
            &place
                .bundle()
                .sh("dd if=/dev/zero bs=65536 count=128 2>/dev/null; printf end; exit 4"),
        )
        .stdout(Stdio::piped())
        .spawn();
    let mut all = Vec::new();
    running.take_stdout().expect("a pipe").read_to_end(&mut all).expect("read");
    assert_eq!((all.len(), &all[all.len() - 3..]), (128 * 65536 + 3, &b"end"[..]));
    running.wait().exits(4);
}

fn a_silent_reader_of_stdout_does_not_stop_stderr(place: &Place) {
    let bundle =
        place.bundle().sh("(dd if=/dev/zero bs=65536 count=32 2>/dev/null) & echo told >&2; wait");
    let mut running = place.running(&bundle).stdout(Stdio::piped()).spawn();
    tests::eventually("stderr passes a full stdout", || {
        running.stderr().contains("told").then_some(())
    });
    let mut all = Vec::new();
    running.take_stdout().expect("a pipe").read_to_end(&mut all).expect("read");
    assert_eq!(all.len(), 32 * 65536);
    running.wait().ok();
}

fn every_byte_passes(place: &Place) {
    let all: Vec<u8> = (0..=255).collect();
    place
        .running(&place.bundle().sh("od -An -v -tx1 | tr -d ' \\n'"))
        .input(&all)
        .run()
        .ok()
        .prints(&all.iter().map(|b| format!("{b:02x}")).collect::<String>());
}

fn words_arrive_as_they_are_written(place: &Place) {
    let bundle = place.bundle().sh("while read word; do echo got $word; done");
    let mut running = place.running(&bundle).stdin(Stdio::piped()).spawn();
    let mut input = running.take_stdin().expect("a pipe");
    for word in ["one", "two", "three"] {
        writeln!(input, "{word}").expect("written");
        running.says(&format!("got {word}"));
    }
    drop(input);
    running.wait().ok();
}

fn detached_container_writes_to_the_callers_streams(place: &Place) {
    let container = place.start(&place.bundle().sh("echo out; echo err >&2; echo done"));
    container.says("done");
    tests::eventually("stderr arrives", || container.stderr().contains("err").then_some(()));
    container.becomes("stopped");
    assert_eq!(container.stdout(), "out\ndone\n");
}

fn input_left_unread_does_no_harm(place: &Place) {
    let bundle = place.bundle().sh("head -c 3; exit 2");
    let mut running = place.running(&bundle).stdin(Stdio::piped()).spawn();
    let mut input = running.take_stdin().expect("a pipe");
    let writer = std::thread::spawn(move || {
        // The pipe may break: nobody reads the rest.
        let _ = input.write_all(&noise(4 << 20));
    });
    let ended = running.wait();
    ended.exits(2);
    writer.join().expect("the writer");
}

fn exec_passes_a_mebibyte_through(place: &Place) {
    let container = place.start(&place.bundle().args(&["sleep", "1000"]));
    let bytes = noise(1 << 20);
    let mut running = container.exec(&["cat"]).input(&bytes).stdout(Stdio::piped()).spawn();
    let mut got = Vec::new();
    running.take_stdout().expect("a pipe").read_to_end(&mut got).expect("read");
    assert!(got == bytes, "{} bytes came back of {}", got.len(), bytes.len());
    running.wait().ok();
}

fn exec_streams_stay_apart(place: &Place) {
    let container = place.start(&place.bundle().args(&["sleep", "1000"]));
    let output = container.sh("echo one; echo two >&2; exit 8");
    output.exits(8);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("one\n", "two\n"));
}

fn closed_input_is_no_obstacle(place: &Place) {
    let output = place
        .running(&place.bundle().sh("echo alive"))
        .before_exec(|| {
            // SAFETY: closes a descriptor of the child.
            unsafe { libc::close(0) };
            Ok(())
        })
        .run();
    output.ok().prints("alive");
}
