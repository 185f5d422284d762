//! `flows --all`: a stream of all flows, printed as it arrives.

use std::borrow::Cow;

use crate::api::{Flow, FlowStreamEnd, FlowStreamLine};

use super::args::Output;
use super::client::{Client, lines_of, read, unreadable};
use super::exit::Failure;
use super::flows;
use super::table::Listing;
use super::terms::Query;
use super::view::{View, note, print};

/// Prints all flows that match without keeping them.
///
/// Errors: a stream that ends without its trailer.
pub(super) async fn stream_flows(client: &Client, filters: &Query, view: View) -> Result<(), Failure> {
    let all = ("all".to_owned(), "true".to_owned());
    let query: Query = filters.iter().cloned().chain([all]).collect();
    let mut parts = client.lines("/api/v1/flows", &query).await?;
    let mut printer = Printer::new(view);
    let mut end = None;
    while let Some(part) = parts.next().await? {
        let mut text = String::new();
        for line in lines_of(&part) {
            match read(line)? {
                FlowStreamLine::Flow(flow) => printer.flow(line, &flow, &mut text),
                FlowStreamLine::End { end: trailer } => end = Some(trailer),
            }
        }
        text.push_str(&printer.take_rows());
        print(text.as_bytes())?;
    }
    let end = end.ok_or_else(|| client.cut_short())?;
    print(printer.finish(&end)?.as_bytes())?;
    for warning in &end.warnings {
        note(&format!("warning: {}", warning.text));
    }
    Ok(())
}

/// Writes flows in the format of the view.
struct Printer {
    format: Output,
    listing: Listing,
    /// Whether no flow was written yet.
    empty: bool,
}

impl Printer {
    fn new(view: View) -> Self {
        Self {
            format: view.format,
            listing: flows::listing(view),
            empty: true,
        }
    }

    /// Appends a flow, which was read from `line`.
    fn flow(&mut self, line: &[u8], flow: &Flow, text: &mut String) {
        let line: Cow<'_, str> = String::from_utf8_lossy(line);
        match self.format {
            Output::Json => {
                text.push_str(if self.empty { "{\"items\":[\n" } else { ",\n" });
                text.push_str(&line);
            }
            Output::Jsonl => {
                text.push_str(&line);
                text.push('\n');
            }
            Output::Table | Output::Wide => flows::push(&mut self.listing, flow),
        }
        self.empty = false;
    }

    /// The rows of the flows since the last call; empty if the format has no table.
    fn take_rows(&mut self) -> String {
        match self.format {
            Output::Table | Output::Wide => self.listing.take_lines(),
            Output::Json | Output::Jsonl => String::new(),
        }
    }

    /// The rest of the output.
    fn finish(mut self, end: &FlowStreamEnd) -> Result<String, Failure> {
        if self.format != Output::Json {
            return Ok(self.take_rows());
        }
        let begin = if self.empty { "{\"items\":[" } else { "\n" };
        let fields = serde_json::to_string(end).map_err(|error| unreadable(&error))?;
        // The fields of the trailer follow in the object of the items.
        let fields = fields.trim_start_matches('{');
        Ok(format!("{begin}],{fields}\n"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cli::tests::{TABLE, flow_list};
    use crate::observe::report::fixture;

    fn printed(format: Output, count: usize) -> String {
        let list = flow_list(&fixture::report());
        let end = FlowStreamEnd {
            api_version: list.envelope.api_version,
            time: list.envelope.time,
            generation: list.envelope.generation,
            window_seconds: list.envelope.window_seconds,
            consistency: list.consistency,
            matched_total: count as u64,
            truncated: false,
            warnings: Vec::new(),
        };
        let mut printer = Printer::new(View { format, ..TABLE });
        let mut text = String::new();
        for flow in &list.envelope.items[..count] {
            let line = serde_json::to_vec(flow).unwrap();
            printer.flow(&line, flow, &mut text);
            text.push_str(&printer.take_rows());
        }
        text + &printer.finish(&end).unwrap()
    }

    #[test]
    fn a_stream_as_json_is_one_document() {
        for count in [0, 1, 3] {
            let document: Value = serde_json::from_str(&printed(Output::Json, count)).unwrap();
            assert_eq!(document["items"].as_array().unwrap().len(), count);
            assert_eq!(document["matchedTotal"], count);
            assert_eq!(document["apiVersion"], "v1");
        }
    }

    #[test]
    fn a_stream_as_lines_has_flows_only() {
        let lines = printed(Output::Jsonl, 3);
        assert_eq!(lines.lines().count(), 3);
        assert!(
            lines.lines().all(|line| line.starts_with("{\"protocol\"")),
            "{lines}"
        );
    }

    #[test]
    fn a_stream_as_a_table_has_headings_once() {
        assert_eq!(printed(Output::Table, 3).lines().count(), 4);
        assert_eq!(printed(Output::Table, 0).lines().count(), 1);
    }
}
