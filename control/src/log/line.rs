//! One line of the log, in both forms.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Text,
    /// A JSON object, for machines.
    Json,
}

/// A line without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) target: &'static str,
    pub(super) message: String,
    /// All fields but the message, in the form of the log and ready to append.
    pub(super) fields: String,
}

impl Line {
    /// The line of `event` in `form`.
    pub(super) fn of(event: &Event<'_>, form: Form) -> Self {
        let metadata = event.metadata();
        let mut fields = Fields {
            form,
            message: String::new(),
            rest: String::new(),
        };
        event.record(&mut fields);
        Self {
            level: *metadata.level(),
            target: metadata.target(),
            message: fields.message,
            fields: fields.rest,
        }
    }

    /// The line with the time now and a line feed.
    pub(super) fn written(&self, form: Form) -> String {
        let ts = humantime::format_rfc3339_micros(std::time::SystemTime::now());
        let level = self.level.as_str().to_lowercase();
        let Self {
            target,
            message,
            fields,
            ..
        } = self;
        match form {
            Form::Text => format!("{ts} {level:5} {target}: {message}{fields}\n"),
            Form::Json => {
                let (target, message) = (quoted(target), quoted(message));
                format!(
                    "{{\"ts\":\"{ts}\",\"level\":\"{level}\",\"target\":{target},\"msg\":{message}{fields}}}\n"
                )
            }
        }
    }
}

/// Visits the fields of an event: the message apart, the others ready to append.
struct Fields {
    form: Form,
    message: String,
    rest: String,
}

impl Fields {
    /// `json` and `text` are the value in both forms.
    fn append(&mut self, field: &Field, json: &str, text: &str) {
        let name = field.name();
        // Writing to a string cannot fail.
        match self.form {
            Form::Json => write!(self.rest, ",{}:{json}", quoted(name)).ok(),
            Form::Text => write!(self.rest, " {name}={text}").ok(),
        };
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            let text = if value.contains(|c: char| c.is_whitespace() || c == '"') {
                quoted(value)
            } else {
                value.to_owned()
            };
            self.append(field, &quoted(value), &text);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.append(field, &value.to_string(), &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.append(field, &value.to_string(), &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.append(field, &value.to_string(), &value.to_string());
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
