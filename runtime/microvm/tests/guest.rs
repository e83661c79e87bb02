//! Both sides of a machine in one program: on the host it is the test, in the
//! guest it is `/init`. A case has a host's half, which builds and watches the
//! machine, and a guest's half, which runs as PID 1 and is chosen by
//! `hull.case=` on the kernel's command line.
//!
//! Needs /dev/kvm and a kernel that runs on it (`HULL_TEST_KERNEL`); without
//! either it says so and passes.

mod guest_side;
mod host_side;

use std::process::ExitCode;

/// One behaviour, seen from both sides.
struct Case {
    name: &'static str,
    host: fn(&host_side::Bench),
    guest: fn(),
}

const CASES: &[Case] = &[
    Case {
        name: "boots_and_resets",
        host: host_side::boots_and_resets,
        guest: guest_side::say_hello,
    },
    Case { name: "panic_is_seen", host: host_side::panic_is_seen, guest: guest_side::exit },
    Case {
        name: "two_processors",
        host: host_side::two_processors,
        guest: guest_side::count_processors,
    },
    Case { name: "entropy", host: host_side::entropy, guest: guest_side::read_entropy },
    Case { name: "streams", host: host_side::streams, guest: guest_side::echo },
    Case {
        name: "a_saved_machine_goes_on",
        host: host_side::a_saved_machine_goes_on,
        guest: guest_side::count,
    },
    Case {
        name: "pause_holds_the_guest",
        host: host_side::pause_holds_the_guest,
        guest: guest_side::tick,
    },
    Case {
        name: "shared_tree",
        host: host_side::tree::shared_tree,
        guest: guest_side::tree::use_tree,
    },
    Case {
        name: "tree_speed",
        host: host_side::tree::tree_speed,
        guest: guest_side::tree::measure_tree,
    },
];

fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest_side::init(CASES);
    }
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let Some(bench) = host_side::Bench::new() else {
        return ExitCode::SUCCESS;
    };
    for case in CASES {
        // What only measures is run when asked for.
        let by_default = !case.name.ends_with("_speed");
        if filter.as_ref().map_or(by_default, |f| case.name.contains(f.as_str())) {
            let start = std::time::Instant::now();
            (case.host)(&bench.for_case(case.name));
            println!("test {} ... ok ({:?})", case.name, start.elapsed());
        }
    }
    ExitCode::SUCCESS
}
