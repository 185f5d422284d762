//! The bytes that a UDP check sends or expects.

use std::fmt;

use serde::{Serialize, Serializer};

/// The valid texts, for errors.
pub(super) const FORM: &str =
    "a text such as PING, or bytes such as hex:0a1b for others than ASCII, at most 512 bytes";

/// What a text of hexadecimal digits begins with.
const HEX: &str = "hex:";
/// The longest payload: it fits into every path without fragments.
const LONGEST: usize = 512;

/// Bytes, written as they are if they are printable ASCII, else in hexadecimal digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload(Vec<u8>);

impl Payload {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads [`FORM`].
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = match text.strip_prefix(HEX) {
            Some(digits) => from_hex(digits)?,
            None => text.is_ascii().then(|| text.as_bytes().to_vec())?,
        };
        (bytes.len() <= LONGEST).then_some(Self(bytes))
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_printable = self.0.iter().all(|&byte| byte == b' ' || byte.is_ascii_graphic());
        match std::str::from_utf8(&self.0) {
            Ok(text) if is_printable && !text.starts_with(HEX) => f.write_str(text),
            _ => {
                f.write_str(HEX)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let nibbles: Vec<u32> = digits
        .chars()
        .map(|digit| digit.to_digit(16))
        .collect::<Option<_>>()?;
    let (pairs, rest) = nibbles.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| u8::try_from(high << 4 | low).ok());
    if rest.is_empty() { bytes.collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_as_it_is_written() {
        for (text, bytes) in [
            ("PING", &b"PING"[..]),
            ("two words", b"two words"),
            ("hex:00ff", &[0, 255]),
            ("hex:6865783a31", b"hex:1"),
            ("", b""),
        ] {
            let payload = Payload::parse(text).unwrap();
            assert_eq!(payload.bytes(), bytes, "{text}");
            assert_eq!(payload.to_string(), text);
        }
        assert_eq!(Payload::parse("hex:41").unwrap().to_string(), "A");
        assert_eq!(Payload::parse("a\n").unwrap().to_string(), "hex:610a");
    }

    #[test]
    fn odd_digits_other_letters_and_long_texts_are_refused() {
        for text in ["hex:1", "hex:0g", "gr\u{fc}n", &"x".repeat(513)] {
            assert_eq!(Payload::parse(text), None, "{text}");
        }
    }
}
