//! `services NAME --lookup CLIENT[:PORT]`: which backend a new flow would get, and why.

use crate::api::{Envelope, Lookup, LookupClient, LookupResult};

use super::args::ServicesArgs;
use super::backends;
use super::exit::{Failure, FailureKind};
use super::table::{Cell, Table, Tone, number, text};
use super::view::View;
use crate::number::percent;

/// Parses the flag's value.
pub(super) fn client(text: &str) -> Result<LookupClient, String> {
    text.parse()
        .map_err(|()| format!("allowed {}", LookupClient::ALLOWED))
}

/// The service, which must be one and named exactly.
pub(super) fn service(args: &ServicesArgs) -> Result<&str, Failure> {
    match args.service.as_slice() {
        [name] if !name.contains('*') => Ok(name),
        _ => Err(Failure::new(
            FailureKind::Refused,
            "--lookup: needs the name of one service, without wildcards",
        )
        .hint("vl3-lb services NAME --lookup CLIENT[:PORT]")),
    }
}

/// The answer in one line, the checks behind it, and the backends.
pub(super) fn screen(answer: &Envelope<Lookup>, view: View) -> String {
    let mut screen = String::new();
    for lookup in &answer.items {
        screen.push_str(&verdict(lookup));
        screen.push('\n');
        let mut checks = Table::new(&[text("CHECK"), text("RESULT"), text("WHY")]);
        for step in &lookup.steps {
            let tone = match step.result {
                LookupResult::Pass => Tone::Plain,
                LookupResult::Decides => Tone::Good,
                LookupResult::Refuses => Tone::Bad,
            };
            checks.push(vec![
                step.check.as_str().into(),
                Cell::toned(step.result.name(), tone),
                step.text.as_str().into(),
            ]);
        }
        screen.push_str(&checks.take_lines(view.headings, view.color));
        screen.push('\n');
        screen.push_str(&candidates(lookup, view));
    }
    screen
}

/// `finance TCP: a new flow of 172.16.1.100:40000 goes to 172.16.1.2:8081, opened by worker 0`.
fn verdict(lookup: &Lookup) -> String {
    let client = LookupClient {
        address: lookup.client,
        port: lookup.client_port,
    };
    let subject = format!(
        "{} {}: a new flow of {client}",
        lookup.service,
        lookup.protocol.name()
    );
    match (&lookup.refused, lookup.backend, lookup.worker) {
        (Some(reason), ..) => format!("{subject} is refused: {reason}"),
        (None, Some(backend), Some(worker)) => {
            format!("{subject} goes to {backend}, opened by worker {worker}")
        }
        _ => format!("{subject} goes to a backend that depends on its port"),
    }
}

fn candidates(lookup: &Lookup, view: View) -> String {
    let mut table = Table::new(&[
        text("BACKEND"),
        text("STATE"),
        number("WEIGHT"),
        number("SHARE"),
        number("FLOWS"),
        text("NOTE"),
    ]);
    for candidate in &lookup.candidates {
        let chosen = lookup.backend == Some(candidate.backend);
        let note = match (chosen, candidate.note.as_str()) {
            (true, "") => "this one".to_owned(),
            (true, note) => format!("this one, {note}"),
            (false, note) => note.to_owned(),
        };
        table.push(vec![
            candidate.backend.to_string().into(),
            Cell::toned(candidate.state.name(), backends::tone(candidate.state)),
            candidate.weight.to_string().into(),
            percent(candidate.share_ratio.or(Some(0.0))).into(),
            view.digits.count(candidate.flows).into(),
            note.into(),
        ]);
    }
    table.take_lines(view.headings, view.color)
}
