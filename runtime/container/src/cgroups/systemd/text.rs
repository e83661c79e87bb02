//! Values of `org.systemd.property.*` annotations: GVariant's text form, as runc takes it.
//!
//! Source: GVariant "Text Format"; the types are those that unit properties have.

use super::wire::Value;

/// Parses `'text'`, `true`, `5`, `uint64 5`, `['a', 'b']`.
pub(super) fn parse(text: &str) -> Option<Value> {
    let text = text.trim();
    if let Some(list) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return strings(list).map(Value::Strs);
    }
    if let Some((kind, number)) = text.split_once(' ') {
        let number = number.trim();
        return match kind {
            "int32" => number.parse().ok().map(Value::I32),
            "uint32" => number.parse().ok().map(Value::U32),
            "int64" => number.parse().ok().map(Value::I64),
            "uint64" => number.parse().ok().map(Value::U64),
            "double" => number.parse().ok().map(Value::Double),
            "boolean" => number.parse().ok().map(Value::Bool),
            "string" => quoted(number)
                .map(|(value, rest)| (rest.is_empty()).then_some(Value::Str(value)))?,
            _ => {
                quoted(text).and_then(|(value, rest)| rest.is_empty().then_some(Value::Str(value)))
            }
        };
    }
    match text {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        _ => {
            match quoted(text) {
                Some((value, "")) => Some(Value::Str(value)),
                _ => text.parse().ok().map(Value::I32).or_else(|| {
                    text.contains('.').then(|| text.parse().ok().map(Value::Double))?
                }),
            }
        }
    }
}

fn strings(list: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let (value, after) = quoted(rest)?;
        out.push(value);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(out)
}

/// A text in quotes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next().filter(|(_, quote)| matches!(quote, '\'' | '"'))?;
    let mut out = String::new();
    while let Some((at, letter)) = chars.next() {
        match letter {
            '\\' => out.push(chars.next()?.1),
            letter if letter == quote => return Some((out, &text[at + letter.len_utf8()..])),
            letter => out.push(letter),
        }
    }
    None
}

/// The name and value as systemd wants them: it has times in microseconds only, annotations may give
/// `…Sec` in seconds.
pub(super) fn property(name: &str, text: &str) -> Option<(String, Value)> {
    let letters = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    letters.then_some(())?;
    let value = parse(text)?;
    let Some(stem) = name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) else {
        return Some((name.to_owned(), value));
    };
    const MICROS: u64 = 1_000_000;
    let micros = match value {
        Value::I32(seconds) => u64::try_from(seconds).ok()?.checked_mul(MICROS)?,
        Value::I64(seconds) => u64::try_from(seconds).ok()?.checked_mul(MICROS)?,
        Value::U32(seconds) => u64::from(seconds).checked_mul(MICROS)?,
        Value::U64(seconds) => seconds.checked_mul(MICROS)?,
        Value::Double(seconds) if (0.0..1e12).contains(&seconds) => (seconds * 1e6) as u64,
        _ => return None,
    };
    Some((format!("{stem}USec"), Value::U64(micros)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(parse("'a b'"), Some(Value::Str("a b".into())));
        assert_eq!(parse(r#""it\"s""#), Some(Value::Str("it\"s".into())));
        assert_eq!(parse("true"), Some(Value::Bool(true)));
        assert_eq!(parse("-5"), Some(Value::I32(-5)));
        assert_eq!(parse("uint64 5"), Some(Value::U64(5)));
        assert_eq!(parse("1.5"), Some(Value::Double(1.5)));
        assert_eq!(parse("['a', 'b']"), Some(Value::Strs(vec!["a".into(), "b".into()])));
        assert_eq!(parse("[]"), Some(Value::Strs(vec![])));
        for wrong in ["", "'a", "'a'b", "['a' 'b']", "uint64 x", "word"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        assert_eq!(
            property("TimeoutStopSec", "uint64 10"),
            Some(("TimeoutStopUSec".into(), Value::U64(10_000_000)))
        );
        assert_eq!(
            property("TimeoutStopUSec", "uint64 10"),
            Some(("TimeoutStopUSec".into(), Value::U64(10)))
        );
        assert_eq!(
            property("CollectMode", "'inactive'"),
            Some(("CollectMode".into(), Value::Str("inactive".into())))
        );
        assert_eq!(property("Bad Name", "1"), None);
    }
}
