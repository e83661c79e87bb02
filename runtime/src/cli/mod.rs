//! The command line: words, flags, output and exit status of runc's, and hull's own.

mod args;
mod create;
mod criu;
mod exec;
mod features;
mod log;
mod manage;
mod query;
mod signal;
mod tables;
mod update;

pub use args::Error as UsageError;

use crate::lifecycle::{self, Context, Id, Store};
use crate::wall::Rootless;
use crate::{Error, Result};
use args::{Command, Parsed};
use config::{Flags, WallKind};
use log::Log;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The status of a command that failed.
const FAILURE: i32 = 1;

/// What stands between the program's name and the error when `run` fails.
const RUN: &str = " run failed: ";

/// The status of `exec` when it could not run the program, as runc's.
const EXEC_FAILURE: i32 = 255;

/// Runs a command line, the program's name first; returns the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let mut arguments = arguments.into_iter();
    let argv0 = arguments.next().unwrap_or_else(|| "hull".into());
    let (globals, rest) = match split(arguments) {
        Ok(split) => split,
        Err(error) => {
            Log::default().error("", &error.to_string());
            return FAILURE;
        }
    };
    let log = Log {
        file: globals.value("log").map(PathBuf::from),
        json: globals.value("log-format") == Some(OsStr::new("json")),
        debug: globals.has("debug"),
    };
    log.install();
    match dispatch(argv0, &globals, rest) {
        Ok(status) => status,
        Err(Failure { status, context, error }) => {
            // A reader that went away is no failure of the command's.
            if let Error::System { source, .. } = &*error
                && source.kind() == io::ErrorKind::BrokenPipe
            {
                return FAILURE;
            }
            match &*error {
                // All is made, and the program is what fails: as if it said so itself.
                Error::Container(container::Error::Program(_)) if context.ends_with(RUN) => {
                    log.plain_error(&context, &error.to_string());
                }
                error => log.error(&context, &error.to_string()),
            }
            status
        }
    }
}

/// A failed command: its exit status and what stands before the error.
#[derive(Debug)]
struct Failure {
    status: i32,
    context: String,
    error: Box<Error>,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure { status: FAILURE, context: String::new(), error: Box::new(error.into()) }
    }
}

/// Options before the command, then the command with its own.
fn split(
    arguments: impl Iterator<Item = OsString>,
) -> std::result::Result<(Parsed, Vec<OsString>), UsageError> {
    let mut parsed = args::parse(tables::GLOBAL, true, arguments)?;
    let rest = std::mem::take(&mut parsed.operands);
    Ok((parsed, rest))
}

fn dispatch(
    argv0: OsString,
    globals: &Parsed,
    rest: Vec<OsString>,
) -> std::result::Result<i32, Failure> {
    let called = Path::new(&argv0).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if globals.has("version") {
        print(&version(&called))?;
        return Ok(0);
    }
    let mut rest = rest.into_iter();
    let name = rest.next();
    let name = match name.as_deref().and_then(OsStr::to_str) {
        None | Some("help" | "h") => {
            let topic = rest.next();
            let command = topic.as_deref().and_then(OsStr::to_str).and_then(tables::find);
            print(&command.map_or_else(
                || tables::help(&called),
                |command| tables::command_help(&called, command),
            ))?;
            return Ok(0);
        }
        Some(name) => name,
    };
    if globals.help {
        print(&tables::help(&called))?;
        return Ok(0);
    }
    let Some(command) = tables::find(name) else {
        return Err(Error::UnknownCommand(name.to_owned()).into());
    };
    let parsed = command.parse(rest)?;
    if parsed.help {
        print(&tables::command_help(&called, command))?;
        return Ok(0);
    }
    check_choice("log-format", globals.value("log-format"), &["text", "json"])?;
    let context = context(argv0, globals)?;
    if command.name == "list"
        && globals.has("root")
        && let Err(source) = std::fs::metadata(context.store.root())
    {
        // A mistyped one is not to look like one without containers.
        return Err(Error::file("reading", context.store.root(), source).into());
    }
    // The words of runc's, which engines show to their users.
    let failed = |what: &'static str, status| {
        let context = format!("{called}{what}");
        move |error: Error| Failure { status, context, error: Box::new(error) }
    };
    match command.name {
        "create" => create::create(&context, &parsed).map_err(failed(" create failed: ", FAILURE)),
        "run" => create::run(&context, &parsed).map_err(failed(RUN, FAILURE)),
        "exec" => exec::exec(&context, &parsed).map_err(failed(" exec failed: ", EXEC_FAILURE)),
        "start" => {
            lifecycle::reset_child_signal();
            Ok(done(lifecycle::start(&context, &id(&parsed)?))?)
        }
        other => Ok(simple(other, &context, &parsed)?),
    }
}

/// The commands whose errors need no words before them.
fn simple(name: &str, context: &Context, parsed: &Parsed) -> Result<i32> {
    match name {
        "state" => done(query::state(context, &id(parsed)?)),
        "list" => done(query::list(context, parsed)),
        "ps" => done(query::ps(context, &id(parsed)?, parsed)),
        "spec" => done(query::spec(parsed)),
        "features" => done(features::features()),
        "kill" => done(manage::kill(context, &id(parsed)?, parsed)),
        "delete" => done(manage::delete(context, &id(parsed)?, parsed)),
        "pause" => done(lifecycle::pause(context, &id(parsed)?)),
        "resume" => done(lifecycle::resume(context, &id(parsed)?)),
        "update" => done(update::update(context, &id(parsed)?, parsed)),
        "events" => done(manage::events(context, &id(parsed)?, parsed)),
        "checkpoint" => criu::checkpoint(context, parsed),
        "restore" => criu::restore(context, parsed),
        "check" => done(check(parsed)),
        "kernel" => done(kernel(parsed)),
        other => Err(Error::UnknownCommand(other.to_owned())),
    }
}

fn done(result: Result<()>) -> Result<i32> {
    result.map(|()| 0)
}

fn id(parsed: &Parsed) -> Result<Id> {
    Id::parse(parsed.operands.first().map(OsString::as_os_str).unwrap_or_default())
}

fn context(argv0: OsString, globals: &Parsed) -> Result<Context> {
    let rootless = match globals.text("rootless")? {
        None | Some("auto") => Rootless::Auto,
        Some("true" | "1" | "t") => Rootless::Yes,
        Some("false" | "0" | "f") => Rootless::No,
        Some(value) => {
            let expected = "true, false or auto is expected";
            return Err(
                UsageError::Value { flag: "rootless", value: value.into(), expected }.into()
            );
        }
    };
    let isolation = match globals.text("isolation")? {
        None => None,
        Some(value) => Some(value.parse::<WallKind>().map_err(|()| UsageError::Value {
            flag: "isolation",
            value: value.to_owned(),
            expected: "container or microvm is expected",
        })?),
    };
    let root = match globals.value("root") {
        Some(root) => lifecycle::absolute(Path::new(root))?,
        None => default_root(),
    };
    Ok(Context {
        store: Store::new(root),
        flags: Flags { isolation },
        argv0,
        config_file: globals.value("config").map(PathBuf::from),
        systemd_cgroup: globals.has("systemd-cgroup"),
        rootless,
        debug: globals.has("debug"),
    })
}

/// `/run/hull`; for an ordinary user, and for one who plays root in a user namespace, a
/// directory of the user's own. Engines do not always say whom the namespace belongs to; who is
/// called root in there is the root of a system of its own.
fn default_root() -> PathBuf {
    let of_system = || PathBuf::from("/run/hull");
    let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) else {
        return of_system();
    };
    // SAFETY: geteuid cannot fail and touches no memory.
    let root = unsafe { libc::geteuid() } == 0;
    let named_root = std::env::var_os("USER").is_some_and(|name| name == "root");
    if root && (named_root || !container::Rootless::Auto.decide()) {
        return of_system();
    }
    Path::new(&runtime).join("hull")
}

fn check_choice(flag: &'static str, value: Option<&OsStr>, choices: &[&str]) -> Result<()> {
    match value.map(OsStr::to_string_lossy) {
        Some(value) if !choices.contains(&value.as_ref()) => {
            let expected = "not one of its choices";
            Err(UsageError::Value { flag, value: value.into_owned(), expected }.into())
        }
        _ => Ok(()),
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Error::System { operation: "writing to stdout", source })
}

/// Under the name that the program was called by: engines look for `runc version` in it.
fn version(called: &str) -> String {
    // Set by scripts/build.
    let commit = option_env!("HULL_COMMIT").unwrap_or("unknown");
    let version = env!("CARGO_PKG_VERSION");
    format!("{called} version {version}\ncommit: {commit}\nspec: {}\n", oci::SPEC_VERSION)
}

fn check(parsed: &Parsed) -> Result<()> {
    check_choice("format", parsed.value("format"), &["text", "json"])?;
    let format = match parsed.value("format").and_then(OsStr::to_str) {
        Some("json") => crate::check::Format::Json,
        _ => crate::check::Format::Text,
    };
    crate::check::run(format, &mut io::stdout().lock())
        .map_err(|source| Error::System { operation: "writing to stdout", source })
}

fn kernel(parsed: &Parsed) -> Result<()> {
    use crate::kernel::cli::{Command as Kernel, run};
    let words: Vec<_> = parsed.operands.iter().map(|word| word.to_string_lossy()).collect();
    let command = match (words[0].as_ref(), words.get(1)) {
        ("install", source) => Kernel::Install { source: source.map(|text| text.to_string()) },
        ("list", None) => Kernel::List { json: parsed.has("json") },
        ("show", Some(name)) => Kernel::Show { name: name.to_string() },
        ("remove", Some(name)) => Kernel::Remove { name: name.to_string() },
        _ => {
            let expected =
                "takes list, install [PATH|VERSION], show NAME or remove NAME".to_owned();
            return Err(UsageError::Operands { command: "kernel", expected }.into());
        }
    };
    Ok(run(&command, &crate::kernel::default_store(), &mut io::stdout().lock())?)
}

/// A command's own usage error, for its operands.
fn operands_error(command: &Command, expected: &str) -> Error {
    UsageError::Operands { command: command.name, expected: expected.to_owned() }.into()
}
