//! An error with its causes, as one line.

use std::error::Error;

use crate::one_line::one_line;

/// An error and its causes on one line, without causes that the text already contains.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    one_line(text)
}
