//! The allow list: parsed, with the defaults appended, and as v1's two files want it.

use crate::cgroups::error::{Error, Result};
use oci::spec::{LinuxDeviceCgroup, LinuxDeviceType};
use std::fmt;

/// `mknod(2)`; the numbers are those of `BPF_DEVCG_ACC_*`.
pub(crate) const MKNOD: u8 = 1;
/// `open(2)` for reading.
pub(crate) const READ: u8 = 2;
/// `open(2)` for writing.
pub(crate) const WRITE: u8 = 4;
/// All of it.
pub(crate) const ALL: u8 = MKNOD | READ | WRITE;

const FIELD: &str = "devices";

/// What kind of device node; the numbers are those of `BPF_DEVCG_DEV_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Block device.
    Block = 1,
    /// Character device.
    Char = 2,
}

/// Which nodes; `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nodes {
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
}

impl Nodes {
    /// Whether some node is in both.
    fn overlaps(&self, other: &Nodes) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && meet(self.major, other.major) && meet(self.minor, other.minor)
    }
}

/// One rule. Later ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub allow: bool,
    /// `None`: every device, which voids all rules before.
    pub nodes: Option<Nodes>,
    pub access: u8,
}

/// `m`, `rw`, `rwm`.
struct Access(u8);

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.0 & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// What every container may use, as with runc.
pub(crate) fn defaults() -> impl Iterator<Item = Rule> {
    use Kind::{Block, Char};
    [
        (Char, None, None, MKNOD),
        (Block, None, None, MKNOD),
        (Char, Some(1), Some(3), ALL),    // null
        (Char, Some(1), Some(8), ALL),    // random
        (Char, Some(1), Some(7), ALL),    // full
        (Char, Some(5), Some(0), ALL),    // tty
        (Char, Some(1), Some(5), ALL),    // zero
        (Char, Some(1), Some(9), ALL),    // urandom
        (Char, Some(136), None, ALL),     // pts
        (Char, Some(5), Some(2), ALL),    // ptmx
        (Char, Some(10), Some(200), ALL), // net/tun
    ]
    .into_iter()
    .map(|(kind, major, minor, access)| Rule {
        allow: true,
        nodes: Some(Nodes { kind, major, minor }),
        access,
    })
}

/// The spec's rules with the defaults behind. Without any, nothing but the defaults is allowed.
pub(crate) fn parse(spec: &[LinuxDeviceCgroup], with_defaults: bool) -> Result<Vec<Rule>> {
    let mut out = vec![Rule { allow: false, nodes: None, access: ALL }];
    for rule in spec {
        let rule = one(rule)?;
        if rule.nodes.is_none() {
            out.clear();
        }
        if rule.access != 0 {
            out.push(rule);
        }
    }
    let everything = out.iter().all(|rule| rule.allow);
    if with_defaults && !everything {
        out.extend(defaults());
    }
    Ok(out)
}

fn one(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(Kind::Block),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Char),
        LinuxDeviceType::P => return Err(Error::value(FIELD, "a fifo (type p) is no device")),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            // As with runc.
            'a' => 0,
            other => return Err(Error::value(FIELD, format!("{other:?} is not one of r, w, m"))),
        };
    }
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        // BPF compares with a signed immediate; no device number is that large (12 and 20 bits).
        Some(number) => match u32::try_from(number) {
            Ok(number) if i32::try_from(number).is_ok() => Ok(Some(number)),
            _ => Err(Error::value(FIELD, format!("{number} is not a device number"))),
        },
    };
    let (major, minor) = (number(rule.major())?, number(rule.minor())?);
    Ok(match kind {
        None => Rule { allow: rule.allow(), nodes: None, access: ALL },
        Some(kind) => {
            Rule { allow: rule.allow(), nodes: Some(Nodes { kind, major, minor }), access }
        }
    })
}

/// What a v1 hierarchy keeps: a default and exceptions to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub default_allow: bool,
    pub exceptions: Vec<(Nodes, u8)>,
}

impl State {
    /// Runs the rules as v1 would. What v1 cannot express (an exception to an exception) is refused.
    pub fn of(rules: &[Rule]) -> Result<State> {
        let mut state = State::default();
        for rule in rules {
            let Some(nodes) = rule.nodes else {
                state = State { default_allow: rule.allow, exceptions: Vec::new() };
                continue;
            };
            let same = state.exceptions.iter().position(|(known, _)| *known == nodes);
            if rule.allow != state.default_allow {
                match same {
                    Some(at) => state.exceptions[at].1 |= rule.access,
                    None => state.exceptions.push((nodes, rule.access)),
                }
                continue;
            }
            let partial = state.exceptions.iter().any(|(known, access)| {
                *known != nodes && known.overlaps(&nodes) && access & rule.access != 0
            });
            if partial {
                let line = line(&nodes, rule.access);
                let verb = if rule.allow { "allow" } else { "deny" };
                return Err(Error::value(
                    FIELD,
                    format!("cgroup v1 cannot {verb} {line} out of a wider rule before"),
                ));
            }
            if let Some(at) = same {
                state.exceptions[at].1 &= !rule.access;
                if state.exceptions[at].1 == 0 {
                    state.exceptions.remove(at);
                }
            }
        }
        Ok(state)
    }

    /// Parses `devices.list`.
    pub fn parse(list: &str) -> Option<State> {
        let mut state = State::default();
        for row in list.lines() {
            let mut words = row.split_whitespace();
            let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
            if kind == "a" {
                return Some(State { default_allow: true, exceptions: Vec::new() });
            }
            let kind = if kind == "b" { Kind::Block } else { Kind::Char };
            let (major, minor) = numbers.split_once(':')?;
            let number =
                |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
            let nodes = Nodes { kind, major: number(major)?, minor: number(minor)? };
            let mut bits = 0;
            for letter in access.chars() {
                bits |= match letter {
                    'r' => READ,
                    'w' => WRITE,
                    _ => MKNOD,
                };
            }
            state.exceptions.push((nodes, bits));
        }
        Some(state)
    }

    /// The lines for a cgroup fresh or of unknown state: (to `devices.deny`?, line), in order.
    pub fn lines(&self) -> Vec<(bool, String)> {
        let mut out = vec![(!self.default_allow, "a".to_owned())];
        out.extend(
            self.exceptions
                .iter()
                .map(|(nodes, access)| (self.default_allow, line(nodes, *access))),
        );
        out
    }

    /// The lines that turn `from` into this without taking away in between what both allow.
    pub fn lines_from(&self, from: &State) -> Vec<(bool, String)> {
        if self.default_allow || from.default_allow {
            return if self == from && self.exceptions.is_empty() {
                Vec::new()
            } else {
                self.lines()
            };
        }
        let extra = |of: &State, over: &State, deny: bool| -> Vec<(bool, String)> {
            of.exceptions
                .iter()
                .filter_map(|(nodes, access)| {
                    let known = over
                        .exceptions
                        .iter()
                        .find(|(other, _)| other == nodes)
                        .map_or(0, |(_, bits)| *bits);
                    let left = access & !known;
                    (left != 0).then(|| (deny, line(nodes, left)))
                })
                .collect()
        };
        let mut out = extra(self, from, false);
        out.extend(extra(from, self, true));
        out
    }
}

fn line(nodes: &Nodes, access: u8) -> String {
    let kind = if nodes.kind == Kind::Block { 'b' } else { 'c' };
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    format!("{kind} {}:{} {}", number(nodes.major), number(nodes.minor), Access(access))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(value: serde_json::Value) -> Result<Vec<Rule>> {
        let list: Vec<LinuxDeviceCgroup> = serde_json::from_value(value).unwrap();
        parse(&list, false)
    }

    #[test]
    fn nothing_but_the_defaults_is_allowed_without_rules() {
        let state = State::of(&parse(&[], true).unwrap()).unwrap();
        let lines: Vec<_> = state.lines();
        assert_eq!(lines[0], (true, "a".to_owned()));
        assert!(lines.contains(&(false, "c 1:3 rwm".to_owned())));
        assert!(lines.contains(&(false, "c 136:* rwm".to_owned())));
        assert!(lines.contains(&(false, "b *:* m".to_owned())));
    }

    #[test]
    fn allowing_all_needs_no_defaults() {
        let list: Vec<LinuxDeviceCgroup> =
            serde_json::from_value(json!([{"allow": true}])).unwrap();
        let state = State::of(&parse(&list, true).unwrap()).unwrap();
        assert_eq!(state.lines(), [(false, "a".to_owned())]);
    }

    #[test]
    fn a_rule_for_all_voids_those_before() {
        let got = rules(json!([
            {"allow": true, "type": "c", "major": 1, "minor": 2, "access": "r"},
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 8, "minor": -1, "access": "rw"},
        ]))
        .unwrap();
        assert_eq!(
            State::of(&got).unwrap().lines(),
            [(true, "a".to_owned()), (false, "b 8:* rw".to_owned())]
        );
    }

    #[test]
    fn taking_out_of_a_wider_rule_is_refused_on_v1() {
        let list = json!([
            {"allow": true, "type": "c", "access": "rw"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        ]);
        let error = State::of(&rules(list).unwrap()).unwrap_err().to_string();
        assert!(error.contains("c 10:229 rwm"), "{error}");
    }

    #[test]
    fn a_changed_list_takes_nothing_away_in_between() {
        let from = State::parse("c 1:3 rwm\nb 8:0 r\nc *:* m\n").unwrap();
        let to = State::parse("c 1:3 rw\nb 8:0 rw\nc *:* m\n").unwrap();
        assert_eq!(
            to.lines_from(&from),
            [(false, "b 8:0 w".to_owned()), (true, "c 1:3 m".to_owned())]
        );
        assert_eq!(to.lines_from(&to), []);
        let all = State::parse("a *:* rwm\n").unwrap();
        assert_eq!(to.lines_from(&all), to.lines());
    }

    #[test]
    fn wrong_rules_are_refused() {
        for wrong in [
            json!([{"allow": true, "type": "p", "access": "r"}]),
            json!([{"allow": true, "type": "c", "access": "rx"}]),
            json!([{"allow": true, "type": "c", "major": -2, "access": "r"}]),
            json!([{"allow": true, "type": "c", "major": 4294967295u32, "access": "r"}]),
        ] {
            assert!(rules(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
