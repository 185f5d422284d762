//! Messages of gRPC errors, for logs and status.

use tonic::Status;

use crate::one_line::one_line;

/// Bytes of a message that are kept: errors of NSM quote those of all hops.
const LONGEST: usize = 400;

/// The message of `status` on one line, not too long, and without tokens.
pub(crate) fn status_text(status: &Status) -> String {
    let mut text = String::new();
    for word in status.message().split_whitespace() {
        if text.len() + word.len() > LONGEST {
            text.push_str(" ...");
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        // A JSON Web Token begins with `{"`, in base64.
        match word.split_once("eyJ") {
            Some((before, _)) => {
                text.push_str(before);
                text.push_str("TOKEN");
            }
            None => text.push_str(word),
        }
    }
    one_line(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_short_line_without_tokens() {
        let long = format!(
            "no sufficient\nprivileges: \u{1b}[2J token=eyJhbGciOiJFUzI1NiJ9.e30.c2ln {}",
            "x ".repeat(900)
        );
        let text = status_text(&Status::permission_denied(long));
        assert!(
            text.starts_with("no sufficient privileges: \\u{1b}[2J token=TOKEN x x"),
            "{text}"
        );
        assert!(text.ends_with(" ..."));
        assert!(text.len() < LONGEST + 10);
        assert!(!text.contains("eyJ"));
    }
}
