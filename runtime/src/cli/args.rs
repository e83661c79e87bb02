//! Reading a command line by a table of options.
//!
//! A parser of our own, because what engines and scripts send is what runc's accepts: options
//! after the container's id, `--flag=false`, a long option with one dash. It is small on
//! purpose, too: a runtime is started for every `state`, and builds no tree of commands.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// One option of a command.
#[derive(Debug)]
pub struct Opt {
    /// Its long name, without dashes.
    pub long: &'static str,
    /// Its one-letter name.
    pub short: Option<u8>,
    /// What its value is called; without one it is a switch.
    pub value: Option<&'static str>,
    /// One line about it.
    pub help: &'static str,
}

/// A switch.
pub const fn switch(long: &'static str, help: &'static str) -> Opt {
    Opt { long, short: None, value: None, help }
}

/// An option with a value.
pub const fn valued(long: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt { long, short: None, value: Some(value), help }
}

impl Opt {
    /// The same with a one-letter name.
    pub const fn short(self, letter: u8) -> Opt {
        Opt { short: Some(letter), ..self }
    }
}

/// What a command takes.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What follows the options, as the help shows it.
    pub operands: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Its options.
    pub options: &'static [Opt],
    /// Least number of operands.
    pub least: usize,
    /// Most operands.
    pub most: usize,
    /// The first operand ends the options: what follows belongs to the program that is run.
    pub trailing: bool,
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An option that the command does not have.
    #[error("flag provided but not defined: {0}")]
    Unknown(String),
    /// An option without the value it needs.
    #[error("flag needs an argument: --{0}")]
    NoValue(&'static str),
    /// A value that is not what the option takes.
    #[error("invalid value {value:?} for flag --{flag}: {expected}")]
    Value {
        /// The option.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Too few or too many operands.
    #[error("{command:?} {expected}")]
    Operands {
        /// The command.
        command: &'static str,
        /// How many it takes.
        expected: String,
    },
}

/// A command line that was read.
#[derive(Debug)]
pub struct Parsed {
    given: Vec<(&'static Opt, Option<OsString>)>,
    /// What is not an option.
    pub operands: Vec<OsString>,
    /// `--help` was among the options.
    pub help: bool,
}

/// Reads options and operands. With `trailing`, the first operand ends the options.
pub fn parse(
    options: &'static [Opt],
    trailing: bool,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Parsed, Error> {
    let mut parsed = Parsed { given: Vec::new(), operands: Vec::new(), help: false };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        if bytes == b"--" {
            parsed.operands.extend(arguments);
            break;
        }
        if bytes.len() < 2 || bytes[0] != b'-' {
            parsed.operands.push(argument);
            if trailing {
                parsed.operands.extend(arguments);
                break;
            }
            continue;
        }
        let name = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
        let (name, attached) = match name.iter().position(|&byte| byte == b'=') {
            Some(at) => (&name[..at], Some(OsString::from_vec(name[at + 1..].to_vec()))),
            None => (name, None),
        };
        let unknown = || Error::Unknown(String::from_utf8_lossy(&bytes[1..]).into_owned());
        let found = options.iter().find(|option| {
            option.long.as_bytes() == name || option.short.is_some_and(|short| name == [short])
        });
        match found {
            Some(option) => parsed.take(option, attached, &mut arguments)?,
            None if name == b"help" || name == b"h" => parsed.help = true,
            // `-it`: switches in a row.
            None if bytes[1] != b'-' && attached.is_none() => {
                for letter in name {
                    let option = options
                        .iter()
                        .find(|option| option.short == Some(*letter) && option.value.is_none())
                        .ok_or_else(unknown)?;
                    parsed.given.push((option, None));
                }
            }
            None => return Err(unknown()),
        }
    }
    Ok(parsed)
}

impl Parsed {
    fn take(
        &mut self,
        option: &'static Opt,
        attached: Option<OsString>,
        arguments: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Error> {
        if option.value.is_some() {
            let value = attached.or_else(|| arguments.next()).ok_or(Error::NoValue(option.long))?;
            self.given.push((option, Some(value)));
            return Ok(());
        }
        match attached.as_deref().map(OsStr::as_bytes) {
            None | Some(b"true" | b"TRUE" | b"True" | b"t" | b"T" | b"1") => {
                self.given.push((option, None));
            }
            Some(b"false" | b"FALSE" | b"False" | b"f" | b"F" | b"0") => {
                self.given.retain(|(given, _)| given.long != option.long);
            }
            Some(other) => {
                let value = String::from_utf8_lossy(other).into_owned();
                let expected = "true or false is expected";
                return Err(Error::Value { flag: option.long, value, expected });
            }
        }
        Ok(())
    }

    /// Whether a switch is on.
    pub fn has(&self, long: &str) -> bool {
        self.given.iter().any(|(option, _)| option.long == long)
    }

    /// The last value of an option.
    pub fn value(&self, long: &str) -> Option<&OsStr> {
        let given = self.given.iter().rfind(|(option, _)| option.long == long);
        given.and_then(|(_, value)| value.as_deref())
    }

    /// All values of an option that may be repeated.
    pub fn values<'a>(&'a self, long: &'a str) -> impl Iterator<Item = &'a OsStr> {
        self.given
            .iter()
            .filter(move |(option, _)| option.long == long)
            .filter_map(|(_, value)| value.as_deref())
    }

    /// The last value of an option, as text.
    pub fn text(&self, long: &'static str) -> Result<Option<&str>, Error> {
        self.value(long).map(|value| text(long, value)).transpose()
    }

    /// All values of an option, as text.
    pub fn texts(&self, long: &'static str) -> Result<Vec<String>, Error> {
        self.values(long).map(|value| text(long, value).map(str::to_owned)).collect()
    }

    /// The last value of an option, as a number.
    pub fn number<T: std::str::FromStr>(&self, long: &'static str) -> Result<Option<T>, Error> {
        let Some(value) = self.text(long)? else { return Ok(None) };
        value.trim().parse().map(Some).map_err(|_| Error::Value {
            flag: long,
            value: value.to_owned(),
            expected: "a number in range is expected",
        })
    }
}

fn text<'a>(flag: &'static str, value: &'a OsStr) -> Result<&'a str, Error> {
    value.to_str().ok_or_else(|| Error::Value {
        flag,
        value: value.to_string_lossy().into_owned(),
        expected: "UTF-8 is expected",
    })
}

impl Command {
    /// Reads the arguments that follow the command's name.
    pub fn parse(&self, arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, Error> {
        let parsed = parse(self.options, self.trailing, arguments)?;
        let count = parsed.operands.len();
        if !parsed.help && !(self.least..=self.most).contains(&count) {
            return Err(Error::Operands { command: self.name, expected: self.expected() });
        }
        Ok(parsed)
    }

    fn expected(&self) -> String {
        let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
        match (self.least, self.most) {
            (least, most) if least == most => {
                format!("requires exactly {least} {}", plural(least))
            }
            (least, usize::MAX) => format!("requires a minimum of {least} {}", plural(least)),
            (0, most) => format!("requires a maximum of {most} {}", plural(most)),
            (least, most) => format!("requires {least} to {most} arguments"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[Opt] = &[
        valued("bundle", "DIR", "").short(b'b'),
        valued("env", "K=V", "").short(b'e'),
        switch("detach", "").short(b'd'),
        switch("tty", "").short(b't'),
        switch("keep", ""),
    ];

    fn read(trailing: bool, line: &str) -> Result<Parsed, Error> {
        parse(OPTIONS, trailing, line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_may_follow_the_id() {
        let parsed = read(false, "id --bundle /b -d").unwrap();
        assert_eq!(parsed.operands, ["id"]);
        assert_eq!(parsed.value("bundle"), Some(OsStr::new("/b")));
        assert!(parsed.has("detach"));
    }

    #[test]
    fn a_program_keeps_its_own_options() {
        let parsed = read(true, "-t id ls -d --tty -- x").unwrap();
        assert_eq!(parsed.operands, ["id", "ls", "-d", "--tty", "--", "x"]);
        assert!(parsed.has("tty") && !parsed.has("detach"));
    }

    #[test]
    fn every_spelling_of_an_option_is_understood() {
        for line in ["--bundle=/b", "--bundle /b", "-bundle /b", "-b /b", "-b=/b", "--b /b"] {
            let parsed = read(false, line).unwrap();
            assert_eq!(parsed.value("bundle"), Some(OsStr::new("/b")), "{line}");
        }
        for (line, on) in
            [("--keep", true), ("--keep=true", true), ("--keep --keep=false", false), ("", false)]
        {
            assert_eq!(read(false, line).unwrap().has("keep"), on, "{line}");
        }
        let parsed = read(false, "-dt").unwrap();
        assert!(parsed.has("tty") && parsed.has("detach"));
    }

    #[test]
    fn the_last_value_counts_or_all_do() {
        let parsed = read(false, "-e A=1 --env=B=2").unwrap();
        assert_eq!(parsed.value("env"), Some(OsStr::new("B=2")));
        assert_eq!(parsed.texts("env").unwrap(), ["A=1", "B=2"]);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |line| read(false, line).unwrap_err();
        assert_eq!(error("--nope"), Error::Unknown("-nope".into()));
        assert_eq!(error("-dx"), Error::Unknown("dx".into()));
        assert_eq!(error("--bundle"), Error::NoValue("bundle"));
        assert!(matches!(error("--keep=maybe"), Error::Value { flag: "keep", .. }));
        let parsed = read(false, "-b 1x").unwrap();
        assert!(parsed.number::<u32>("bundle").is_err());
    }

    #[test]
    fn a_lone_dash_is_an_operand() {
        assert_eq!(read(false, "- -d").unwrap().operands, ["-"]);
    }

    #[test]
    fn a_wrong_number_of_operands_is_said_as_runc_says_it() {
        const ONE: Command = Command {
            name: "start",
            operands: "",
            about: "",
            options: OPTIONS,
            least: 1,
            most: 1,
            trailing: false,
        };
        let error = ONE.parse([]).unwrap_err();
        assert_eq!(error.to_string(), "\"start\" requires exactly 1 argument");
    }
}
