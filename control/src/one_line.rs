//! Text of others on one line: control characters are escaped, as they could forge lines of a log and steer a terminal.

use std::fmt;

/// Shows a text with its control characters escaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(char::is_control) {
            let mut letters = part.chars();
            match letters.next_back().filter(|last| last.is_control()) {
                Some(control) => write!(f, "{}{}", letters.as_str(), control.escape_default())?,
                None => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// The text with its control characters escaped: mostly as it is.
pub(crate) fn one_line(text: String) -> String {
    if text.contains(char::is_control) {
        OneLine(&text).to_string()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_others_are_not() {
        for (text, shown) in [
            ("a\nb", "a\\nb"),
            ("\u{1b}[2Jx\r", "\\u{1b}[2Jx\\r"),
            ("\u{9b}1m", "\\u{9b}1m"),
            ("é \\n ok", "é \\n ok"),
            ("", ""),
        ] {
            assert_eq!(one_line(text.to_owned()), shown);
        }
    }
}
