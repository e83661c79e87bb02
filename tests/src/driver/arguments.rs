//! The command line, as libtest has it.

/// What to run and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    filters: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    /// Only print the names.
    pub list: bool,
    /// How many at once.
    pub threads: usize,
    /// How often a failed one is tried again.
    pub attempts: u32,
}

impl Arguments {
    /// Parses libtest's options that matter here; those that change only the
    /// output are accepted and left alone.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut words = words;
        let mut arguments = Arguments {
            filters: Vec::new(),
            skip: Vec::new(),
            exact: false,
            list: false,
            threads: std::env::var("RUST_TEST_THREADS")
                .ok()
                .and_then(|n| n.parse().ok())
                .unwrap_or_else(default_threads)
                .max(1),
            attempts: super::MORE_ATTEMPTS,
        };
        while let Some(word) = words.next() {
            let (name, mut given) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => {
                    (name.to_owned(), Some(value.to_owned()))
                }
                _ => (word, None),
            };
            let mut value = || {
                given.take().or_else(|| words.next()).ok_or_else(|| format!("{name} needs a value"))
            };
            match name.as_str() {
                "--list" => arguments.list = true,
                "--exact" => arguments.exact = true,
                "--skip" => arguments.skip.push(value()?),
                "--test-threads" => {
                    let text = value()?;
                    arguments.threads =
                        text.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                            format!("--test-threads {text}: not a number above 0")
                        })?;
                }
                "--attempts" => {
                    let text = value()?;
                    let all: u32 =
                        text.parse().map_err(|_| format!("--attempts {text}: not a number"))?;
                    arguments.attempts = all.saturating_sub(1);
                }
                "--format" | "--color" | "-Z" | "--logfile" => {
                    value()?;
                }
                "--nocapture" | "--no-capture" | "--show-output" | "--quiet" | "-q" | "--test"
                | "--include-ignored" | "--ignored" | "--bench" => {}
                other if other.starts_with('-') => return Err(format!("unknown option {other}")),
                _ => arguments.filters.push(name),
            }
        }
        Ok(arguments)
    }

    /// Whether a behaviour of this name is meant.
    pub fn chooses(&self, name: &str) -> bool {
        let hit = |pattern: &String| {
            if self.exact { name == pattern } else { name.contains(pattern.as_str()) }
        };
        (self.filters.is_empty() || self.filters.iter().any(hit)) && !self.skip.iter().any(hit)
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4)
}

#[cfg(test)]
mod tests {
    use super::Arguments;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(words.iter().map(|w| (*w).to_owned()))
    }

    #[test]
    fn filters_choose_by_part_and_skips_take_away() {
        let arguments = parse(&["container::", "--skip", "tty"]).unwrap();
        assert!(arguments.chooses("container::process::umask"));
        assert!(!arguments.chooses("container::tty::resize"));
        assert!(!arguments.chooses("microvm::process::umask"));
    }

    #[test]
    fn exact_names_are_whole_names() {
        let arguments = parse(&["--exact", "a::b"]).unwrap();
        assert!(arguments.chooses("a::b"));
        assert!(!arguments.chooses("a::bc"));
    }

    #[test]
    fn values_come_with_a_sign_or_as_the_next_word() {
        assert_eq!(parse(&["--test-threads=3"]).unwrap().threads, 3);
        assert_eq!(parse(&["--test-threads", "3"]).unwrap().threads, 3);
        assert_eq!(parse(&["--attempts", "1"]).unwrap().attempts, 0);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(parse(&["--frobnicate"]).is_err());
        assert!(parse(&["--test-threads", "none"]).is_err());
        assert!(parse(&["--skip"]).is_err());
    }
}
