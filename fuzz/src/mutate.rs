//! Changes to a JSON document that leave it one: what gets past the parser is where plans go wrong.
//!
//! Deterministic: the same document and seed make the same change.

use serde_json::{Map, Number, Value};

/// Strings that mean something somewhere, or nearly do.
const WORDS: &[&str] = &[
    "",
    "/",
    ".",
    "..",
    "/..",
    "/proc",
    "/proc/self/exe",
    "/sys/fs/cgroup",
    "/dev/null",
    "a\0b",
    "\n",
    "%",
    ":",
    "a:b:c",
    "-1",
    "0",
    "18446744073709551616",
    "9223372036854775807",
    "0-4294967295",
    "0-1,3",
    "7-3",
    "all",
    "max",
    "rwm",
    "bind",
    "rbind",
    "ro",
    "idmap",
    "idmap=",
    "size=",
    "mode=9999",
    "rprivate",
    "tmpcopyup",
    "rro",
    "overlay",
    "lowerdir=a:b,upperdir=c,workdir=d",
    "cgroup",
    "tmpfs",
    "mqueue",
    "devpts",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_NOTIFY",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_ARCH_X86",
    "clone",
    "personality",
    "CAP_SYS_ADMIN",
    "RLIMIT_NOFILE",
    "SCHED_DEADLINE",
    "IOPRIO_CLASS_RT",
    "MPOL_BIND",
    "monotonic",
    "net.ipv4.ip_forward",
    "kernel.shm_rmid_forced",
    "memory.max",
    "user.slice:hull:x",
    "container",
    "microvm",
    "run.hull.isolation",
    "org.systemd.property.TasksMax",
    "uint32 5",
    "['a', true]",
    "1.3.0",
    "1.0.2-dev",
    "\u{202e}é",
];

/// Numbers at the edges of the types that fields have.
const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    7,
    63,
    64,
    255,
    256,
    1000,
    4095,
    4096,
    65535,
    65536,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    u32::MAX as i64 + 1,
    i64::MAX,
    i64::MIN,
];

/// The most that a document may grow to, in nodes.
const MOST: usize = 20_000;

/// What a string may be lengthened to, in bytes: more than a page, a path, a unit's name may have.
const LONGEST: usize = 20_000;

/// Where random choices come from (splitmix64 by Steele, Lea and Flood).
#[derive(Debug)]
pub struct Choices(u64);

impl Choices {
    /// The choices of one seed.
    pub fn new(seed: u64) -> Choices {
        Choices(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..count`; 0 of none.
    fn below(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { (self.next() % count as u64) as usize }
    }

    /// One of a list, which must not be empty.
    pub fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// Changes a place of a document, now and then up to four; `donor` lends whole parts.
pub fn mutate(document: &mut Value, donor: &Value, choices: &mut Choices) {
    for _ in 0..=choices.below(3) / 2 * choices.below(4) {
        let count = nodes(document);
        let at = choices.below(count);
        if let Some(place) = node(document, at) {
            change(place, donor, count, choices);
        }
    }
}

fn change(place: &mut Value, donor: &Value, count: usize, choices: &mut Choices) {
    match (choices.below(8), &mut *place) {
        // Another field, or the same one moved under another name.
        (0 | 1, Value::Object(fields)) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            if let Some(name) = names.get(choices.below(names.len()))
                && let Some(value) = fields.remove(name)
                && choices.below(2) == 0
            {
                let name = some_name(donor, choices);
                fields.insert(name, value);
            }
        }
        (2, Value::Object(fields)) => {
            let value = part(donor, choices);
            fields.insert(some_name(donor, choices), value);
        }
        (0 | 1, Value::Array(list)) if !list.is_empty() => {
            let at = choices.below(list.len());
            let copies = [1, 1, 1, 2, 70][choices.below(5)];
            if choices.below(2) == 0 {
                list.remove(at);
            } else if count + copies * nodes(&list[at]) < MOST {
                let copy = list[at].clone();
                list.extend(std::iter::repeat_n(copy, copies));
            }
        }
        (2, Value::Array(list)) => {
            let value = part(donor, choices);
            list.insert(choices.below(list.len() + 1), value);
        }
        (0..=2, Value::Number(number)) => *place = Value::Number(nearby(number, choices)),
        (0, Value::String(text)) => cut(text, choices),
        (1, Value::String(text)) => text.push_str(choices.of(WORDS)),
        (2, Value::String(text)) => {
            let times = 1 + choices.below(300);
            *text = text.repeat(times.min(LONGEST / text.len().max(1)));
        }
        (3, _) if count < MOST => *place = part(donor, choices),
        (4, _) => *place = Value::Number(choices.of(NUMBERS).into()),
        (5 | 6, _) => *place = Value::String(choices.of(WORDS).to_owned()),
        (_, _) => {
            let others = [
                Value::Null,
                Value::Bool(true),
                Value::Bool(false),
                Value::Array(Vec::new()),
                Value::Object(Map::new()),
                Value::Number(u64::MAX.into()),
                Number::from_f64(0.5).map_or(Value::Null, Value::Number),
            ];
            *place = others[choices.below(others.len())].clone();
        }
    }
}

fn nearby(number: &Number, choices: &mut Choices) -> Number {
    let value = number.as_i64().unwrap_or(i64::MAX);
    match choices.below(5) {
        0 => value.wrapping_add(1).into(),
        1 => value.wrapping_sub(1).into(),
        2 => value.wrapping_neg().into(),
        3 => (value as u64).wrapping_mul(1 << choices.below(40)).into(),
        _ => choices.of(NUMBERS).into(),
    }
}

fn cut(text: &mut String, choices: &mut Choices) {
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let at = places.get(choices.below(places.len())).copied().unwrap_or(0);
    if choices.below(2) == 0 {
        text.truncate(at);
    } else {
        text.insert_str(at, choices.of(WORDS));
    }
}

/// Some part of the donor, small ones rather than the whole.
fn part(donor: &Value, choices: &mut Choices) -> Value {
    let mut at = choices.below(nodes(donor)).max(1);
    find(donor, &mut at).cloned().unwrap_or(Value::Null)
}

fn some_name(donor: &Value, choices: &mut Choices) -> String {
    let mut names = Vec::new();
    collect(donor, &mut names);
    match names.is_empty() || choices.below(6) == 0 {
        true => choices.of(WORDS).to_owned(),
        false => choices.of(&names).to_owned(),
    }
}

fn collect<'a>(value: &'a Value, names: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                names.push(name);
                collect(value, names);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, names)),
        _ => {}
    }
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(fields) => fields.values().map(nodes).sum(),
        _ => 0,
    }
}

/// The node of that number, counted from the root, parents before children.
fn find<'a>(value: &'a Value, at: &mut usize) -> Option<&'a Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(list) => list.iter().find_map(|value| find(value, at)),
        Value::Object(fields) => fields.values().find_map(|value| find(value, at)),
        _ => None,
    }
}

/// As [`find`], to change it.
fn node(value: &mut Value, at: usize) -> Option<&mut Value> {
    fn walk<'a>(value: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
        if *at == 0 {
            return Some(value);
        }
        *at -= 1;
        match value {
            Value::Array(list) => list.iter_mut().find_map(|value| walk(value, at)),
            Value::Object(fields) => fields.values_mut().find_map(|value| walk(value, at)),
            _ => None,
        }
    }
    walk(value, &mut { at })
}
