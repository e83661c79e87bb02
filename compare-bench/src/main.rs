//! `compare-bench`: the same bundle under both of hull's walls and under other
//! runtimes, measured in one alternated run.
//!
//! It speaks to every runtime by the command line they share and knows nothing
//! of how any of them works. Contenders take turns in an order that moves on
//! each round, so that a slow minute of the machine hits all of them.

mod bundle;
mod contender;
mod error;
mod exec;
mod interrupt;
mod legacy;
mod life;
mod machine;
mod machine_peer;
mod parallel;
mod report;
mod sandbox;
mod spawn;
mod start;
mod stats;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use error::Error;

/// Measures hull's walls beside other runtimes: same bundle, one alternated run.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start: whole `run`, time to first output, create/start/kill/delete, memory.
    Start(StartArgs),
    /// A command in a running container, and `state`.
    Exec(ExecArgs),
}

/// What is compared, and with what.
#[derive(Debug, Args)]
struct Common {
    /// The bundle: a folder with config.json and its rootfs (left as it is).
    #[arg(long, short)]
    bundle: PathBuf,
    /// Rounds; in each every contender has one turn.
    #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Rounds before those that count.
    #[arg(long, default_value_t = 2)]
    warm_up: u32,
    /// Walls of hull: container, microvm, none. Without it: both, and one that
    /// cannot be had here is left out, saying so.
    #[arg(long, value_delimiter = ',')]
    wall: Option<Vec<Wall>>,
    /// Other runtimes, by name or path; `none` for none. Without it: those of
    /// crun, runc and youki that are installed. `qemu` (with --kernel) is a bare
    /// `-M microvm` that boots to an init which ends it.
    #[arg(long, value_delimiter = ',')]
    peer: Option<Vec<String>>,
    /// The hull to measure (the one beside this program, else the one in PATH).
    #[arg(long)]
    hull: Option<PathBuf>,
    /// The guest kernel of the microVM wall (hull's own choice otherwise).
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// Give the bundle what Docker gives a container by default: its mounts,
    /// masked paths, capabilities, device rules and seccomp profile.
    #[arg(long)]
    docker_like: bool,
    /// JSON on stdout in place of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wall {
    Container,
    Microvm,
    None,
}

#[derive(Debug, Args)]
struct StartArgs {
    #[command(flatten)]
    common: Common,
    /// Start this many at a time, all of them `run`; with --count.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: Option<u32>,
    /// How many a parallel round starts in all.
    #[arg(long, default_value_t = 200, requires = "parallel")]
    count: u32,
}

#[derive(Debug, Args)]
struct ExecArgs {
    #[command(flatten)]
    common: Common,
    /// What is executed.
    #[arg(last = true, default_values_t = [String::from("/bin/true")])]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every contender that was asked for by name could be measured.
fn run(cli: Cli) -> Result<bool, Error> {
    interrupt::install()?;
    spawn::adopt_orphans()?;
    let report = match &cli.command {
        Command::Start(args) => match args.parallel {
            Some(at_once) => parallel::measure(&args.common, at_once, args.count)?,
            None => start::measure(&args.common)?,
        },
        Command::Exec(args) => exec::measure(&args.common, &args.command)?,
    };
    let common = match &cli.command {
        Command::Start(args) => &args.common,
        Command::Exec(args) => &args.common,
    };
    if common.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(Error::Report)?);
    } else {
        print!("{report}");
    }
    let asked = common.wall.is_some() || common.peer.is_some();
    Ok(!report.is_empty() && (report.left_out.is_empty() || !asked))
}
