//! D-Bus messages, little-endian: just the types that systemd's manager takes and gives.
//!
//! Source: the D-Bus specification, "Type System" and "Message Protocol".

/// Longest message taken; systemd's answers are a few hundred bytes.
pub(super) const MAX_MESSAGE: usize = 1 << 20;

/// A value of a property.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Str(String),
    /// `ay`: bit masks of CPUs and memory nodes.
    Bytes(Vec<u8>),
    /// `au`: processes.
    U32s(Vec<u32>),
    Strs(Vec<String>),
    /// `a(ss)`: devices and what is allowed.
    Pairs(Vec<(String, String)>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Value::Bool(_) => "b",
            Value::I32(_) => "i",
            Value::U32(_) => "u",
            Value::I64(_) => "x",
            Value::U64(_) => "t",
            Value::Double(_) => "d",
            Value::Str(_) => "s",
            Value::Bytes(_) => "ay",
            Value::U32s(_) => "au",
            Value::Strs(_) => "as",
            Value::Pairs(_) => "a(ss)",
        }
    }
}

/// A message being written. Offsets count from its start, which is aligned to 8.
#[derive(Default)]
pub(super) struct Writer(pub Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        while !self.0.len().is_multiple_of(to) {
            self.0.push(0);
        }
    }

    pub fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    pub fn str(&mut self, value: &str) {
        self.u32(value.len() as u32);
        self.0.extend(value.as_bytes());
        self.0.push(0);
    }

    pub fn signature(&mut self, value: &str) {
        self.0.push(value.len() as u8);
        self.0.extend(value.as_bytes());
        self.0.push(0);
    }

    /// An array: its length counts neither itself nor the padding before the first element.
    pub fn array<T>(&mut self, align: usize, items: &[T], mut each: impl FnMut(&mut Writer, &T)) {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        for item in items {
            self.align(align);
            each(self, item);
        }
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(value) => self.u32(u32::from(*value)),
            Value::I32(value) => self.u32(*value as u32),
            Value::U32(value) => self.u32(*value),
            Value::I64(value) => self.u64(*value as u64),
            Value::U64(value) => self.u64(*value),
            Value::Double(value) => self.u64(value.to_bits()),
            Value::Str(value) => self.str(value),
            Value::Bytes(list) => self.array(1, list, |w, byte| w.0.push(*byte)),
            Value::U32s(list) => self.array(4, list, |w, number| w.u32(*number)),
            Value::Strs(list) => self.array(4, list, |w, text| w.str(text)),
            Value::Pairs(list) => self.array(8, list, |w, (first, second)| {
                w.str(first);
                w.str(second);
            }),
        }
    }

    /// `a(sv)`.
    pub fn properties(&mut self, list: &[(String, Value)]) {
        self.array(8, list, |w, (name, value)| {
            w.str(name);
            w.variant(value);
        });
    }
}

/// A method call's target.
pub(super) struct Call<'a> {
    pub destination: Option<&'a str>,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub signature: &'a str,
}

/// A method call, ready to send.
pub(super) fn method_call(serial: u32, call: &Call<'_>, body: &Writer) -> Vec<u8> {
    let mut out = Writer(vec![b'l', 1, 0, 1]);
    out.u32(body.0.len() as u32);
    out.u32(serial);
    let mut fields: Vec<(u8, &str, &str)> =
        vec![(1, "o", call.path), (2, "s", call.interface), (3, "s", call.member)];
    if let Some(destination) = call.destination {
        fields.push((6, "s", destination));
    }
    if !call.signature.is_empty() {
        fields.push((8, "g", call.signature));
    }
    out.array(8, &fields, |w, (code, signature, value)| {
        w.0.push(*code);
        w.signature(signature);
        if *signature == "g" { w.signature(value) } else { w.str(value) }
    });
    out.align(8);
    out.0.extend(&body.0);
    out.0
}

/// What kind of message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Return,
    Error,
    Signal,
    Other,
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Message {
    pub kind: Kind,
    /// The call it answers.
    pub reply_to: u32,
    pub member: String,
    pub error: String,
    body: Vec<u8>,
    at: usize,
}

/// How many bytes a message has, from its first 16.
pub(super) fn message_length(head: &[u8; 16]) -> Option<usize> {
    if head[0] != b'l' {
        return None;
    }
    let word = |at: usize| {
        u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
    };
    let fields = word(12);
    let length = 16usize.checked_add(fields)?.checked_next_multiple_of(8)?.checked_add(word(4))?;
    (length <= MAX_MESSAGE).then_some(length)
}

impl Message {
    /// Parses a whole message.
    pub fn parse(bytes: &[u8]) -> Option<Message> {
        let head: &[u8; 16] = bytes.first_chunk()?;
        if message_length(head)? != bytes.len() {
            return None;
        }
        let fields = u32::from_le_bytes(*bytes.get(12..16)?.first_chunk()?) as usize;
        let kind = match head[1] {
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        };
        let body = bytes.get((16 + fields).next_multiple_of(8)..)?.to_vec();
        let mut out =
            Message { kind, reply_to: 0, member: String::new(), error: String::new(), body, at: 0 };
        let mut reader = Message { body: bytes[..16 + fields].to_vec(), at: 16, ..out.empty() };
        while reader.at < reader.body.len() {
            reader.align(8);
            let code = reader.byte()?;
            match reader.signature()?.as_str() {
                "u" => {
                    let value = reader.u32()?;
                    if code == 5 {
                        out.reply_to = value;
                    }
                }
                "s" | "o" => {
                    let value = reader.str()?;
                    match code {
                        3 => out.member = value,
                        4 => out.error = value,
                        _ => {}
                    }
                }
                "g" => {
                    reader.signature()?;
                }
                _ => return None,
            }
        }
        Some(out)
    }

    fn empty(&self) -> Message {
        Message {
            kind: self.kind,
            reply_to: 0,
            member: String::new(),
            error: String::new(),
            body: Vec::new(),
            at: 0,
        }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.body.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// The next `u` of the body.
    pub fn u32(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.body.get(self.at..)?.first_chunk::<4>()?;
        self.at += 4;
        Some(u32::from_le_bytes(*bytes))
    }

    /// The next `s` or `o` of the body.
    pub fn str(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }

    /// The next `v` of the body, if it holds an `s`.
    pub fn variant_str(&mut self) -> Option<String> {
        (self.signature()? == "s").then_some(())?;
        self.str()
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let end = self.at.checked_add(length)?;
        let text = String::from_utf8(self.body.get(self.at..end)?.to_vec()).ok()?;
        (*self.body.get(end)? == 0).then_some(())?;
        self.at = end + 1;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_laid_out_as_specified() {
        let mut body = Writer::default();
        body.str("ab");
        let call =
            Call { destination: None, path: "/p", interface: "i.f", member: "M", signature: "s" };
        let bytes = method_call(7, &call, &body);
        assert_eq!(&bytes[..4], b"l\x01\x00\x01");
        assert_eq!(bytes[4..8], 7u32.to_le_bytes()); // body: 4 + 2 + 1
        assert_eq!(bytes[8..12], 7u32.to_le_bytes()); // serial
        assert_eq!(message_length(bytes.first_chunk().unwrap()), Some(bytes.len()));
        let mut parsed = Message::parse(&bytes).unwrap();
        assert_eq!((parsed.kind, parsed.member.as_str()), (Kind::Other, "M"));
        assert_eq!(parsed.str().as_deref(), Some("ab"));
        assert_eq!(parsed.str(), None);
    }

    #[test]
    fn properties_are_aligned_to_eight() {
        let mut body = Writer::default();
        body.properties(&[("A".to_owned(), Value::Bool(true)), ("B".to_owned(), Value::U64(5))]);
        let want: &[u8] = &[
            40, 0, 0, 0, 0, 0, 0, 0, // length, padding
            1, 0, 0, 0, b'A', 0, 1, b'b', 0, 0, 0, 0, 1, 0, 0, 0, // "A", "b", true
            1, 0, 0, 0, b'B', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(&body.0[..8], &[body.0.len() as u8 - 8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&body.0[8..24], &want[8..24]);
        assert_eq!(body.0[body.0.len() - 8..], 5u64.to_le_bytes());
        assert_eq!(body.0.len() % 8, 0);
    }

    #[test]
    fn hostile_messages_are_refused() {
        let mut head = [0u8; 16];
        assert_eq!(message_length(&head), None);
        head[0] = b'l';
        head[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(message_length(&head), None);
        head[4..8].copy_from_slice(&0u32.to_le_bytes());
        head[12..16].copy_from_slice(&8u32.to_le_bytes());
        let mut bytes = head.to_vec();
        bytes.extend([3, 1, b's', 0, 255, 255, 255, 255]);
        assert!(Message::parse(&bytes).is_none());
    }
}
