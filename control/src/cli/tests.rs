use crate::api::{Consistency, Envelope, Flow, FlowEvent, FlowList, FlowTraffic, Report};
use serde_json::{Value, json};
use vl3lb_common::DropReason;
use vl3lb_common::flow_query::FlowState;
use vl3lb_common::stats::CloseCause;

use super::args::Output;
use super::view::View;
use super::{backends, events, flow_events, flows, services, status};
use crate::golden;
use crate::number::Digits;
use crate::observe::flows::{ServiceNames, shown};
use crate::observe::report::fixture;

pub(super) const TABLE: View = View {
    format: Output::Table,
    headings: true,
    color: false,
    digits: Digits::Short,
    terminal: false,
};
const WIDE: View = View {
    format: Output::Wide,
    ..TABLE
};

pub(super) fn flow_list(report: &Report) -> FlowList {
    let names: ServiceNames = fixture::directory()
        .live_services()
        .map(|service| (service.slot, service.name.clone()))
        .collect();
    let items = (0..3)
        .map(|number| shown(&fixture::flow(1, number), &names))
        .collect();
    FlowList {
        envelope: Envelope {
            truncated: true,
            ..report.envelope(items)
        },
        consistency: Consistency::PerFlow,
        matched_total: 48_210,
    }
}

/// Two flows: one that opens and finishes, one whose backend dies; and some that were missed.
fn flow_event_list() -> Vec<FlowEvent> {
    let report = fixture::report();
    let flows = flow_list(&report).envelope.items;
    let opened = Flow {
        state: FlowState::Opening.name().to_owned(),
        age_seconds: 0.0,
        idle_seconds: 0.0,
        inbound: FlowTraffic::default(),
        outbound: FlowTraffic::default(),
        ..flows[0].clone()
    };
    let closed = |number: usize, state: FlowState, cause: CloseCause| FlowEvent::Close {
        time: report.time,
        cause: cause.name().to_owned(),
        flow: Flow {
            state: state.name().to_owned(),
            ..flows[number].clone()
        },
    };
    vec![
        FlowEvent::Open {
            time: report.time,
            flow: opened,
        },
        FlowEvent::Lost {
            time: report.time,
            events: 1234,
        },
        closed(0, FlowState::Closing, CloseCause::Fin),
        closed(1, FlowState::Established, CloseCause::BackendDown),
    ]
}

fn flow_event_table(view: View) -> String {
    let mut listing = flow_events::listing(view);
    for event in flow_event_list() {
        flow_events::push(&mut listing, &event);
    }
    listing.take_lines()
}

fn json_text(value: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap();
    text.push('\n');
    text
}

#[test]
fn tables_are_as_they_were() {
    let report = fixture::report();
    let services = report.envelope(report.services.clone());
    let backends = report.envelope(report.backends.clone());
    let status = report.envelope(vec![report.status.clone()]);
    golden::check("status.txt", &status::screen(&status, TABLE));
    golden::check("services.txt", &services::table(&services, TABLE));
    golden::check("services-wide.txt", &services::table(&services, WIDE));
    let mut one = services.clone();
    one.items.retain(|service| service.name == "ledger");
    let mut its = backends.clone();
    its.items.retain(|backend| backend.service == "finance");
    let events = fixture::event_list(&report);
    golden::check("service.txt", &services::block(&one, &its, &events, TABLE));
    golden::check("events.txt", &events::table(&events, TABLE));
    golden::check("events-wide.txt", &events::table(&events, WIDE));
    golden::check("backends.txt", &backends::table(&backends, TABLE));
    golden::check("backends-wide.txt", &backends::table(&backends, WIDE));
    golden::check("flows.txt", &flows::table(&flow_list(&report), TABLE));
    golden::check("flow-events.txt", &flow_event_table(TABLE));
    golden::check("flow-events-wide.txt", &flow_event_table(WIDE));
    golden::check("flows-wide.txt", &flows::table(&flow_list(&report), WIDE));
    golden::check(
        "reasons.txt",
        &services::reasons(&report.status.totals.drops, TABLE),
    );
}

/// The page that `status --reasons` names.
#[test]
fn each_drop_reason_has_a_section_with_its_remedy() {
    let page = include_str!("../../../docs/drop-reasons.md");
    for reason in DropReason::ALL {
        let heading = format!("\n## {reason}\n");
        let (_, rest) = page
            .split_once(&heading)
            .unwrap_or_else(|| panic!("no heading {heading:?}"));
        let section = rest.split("\n## ").next().unwrap_or_default();
        let words = section.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.starts_with("Class "), "{reason}: {words}");
        let remedy = format!("Remedy: {}.", reason.remedy());
        assert!(
            words.ends_with(&remedy),
            "{reason}: the page has another remedy: {words}"
        );
    }
}

#[test]
fn json_is_as_it_was() {
    let report = fixture::report();
    golden::check(
        "status.json",
        &json_text(&report.envelope(vec![report.status.clone()])),
    );
    golden::check(
        "services.json",
        &json_text(&report.envelope(report.services.clone())),
    );
    golden::check(
        "backends.json",
        &json_text(&report.envelope(report.backends.clone())),
    );
    golden::check("flows.json", &json_text(&flow_list(&report)));
    let lines = flow_event_list()
        .into_iter()
        .map(|event| serde_json::to_string(&event).unwrap() + "\n");
    golden::check("flow-events.jsonl", &lines.collect::<String>());
    golden::check("events.json", &json_text(&fixture::event_list(&report)));
}

#[test]
fn json_reads_back_as_what_was_written() {
    let report = fixture::report();
    let written = json!(report.envelope(report.services.clone()));
    let read: Envelope<crate::api::Service> = serde_json::from_value(written).unwrap();
    assert_eq!(read.items, report.services);
    let list = flow_list(&report);
    let read: FlowList = serde_json::from_value(json!(list)).unwrap();
    assert_eq!(read, list);
    let events = flow_event_list();
    let read: Vec<FlowEvent> = serde_json::from_value(json!(events)).unwrap();
    assert_eq!(read, events);
}

#[test]
fn keys_are_camel_case_as_in_the_configuration() {
    fn keys(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                // Labels of a selector are the user's own words.
                for (key, value) in map.iter().filter(|(key, _)| *key != "selector") {
                    found.push(key.clone());
                    keys(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            _ => {}
        }
    }
    let report = fixture::report();
    let mut found = Vec::new();
    keys(&json!(report.status), &mut found);
    keys(&json!(report.services), &mut found);
    keys(&json!(report.backends), &mut found);
    keys(&json!(flow_list(&report)), &mut found);
    keys(&json!(fixture::event_list(&report)), &mut found);
    keys(&json!(flow_event_list()), &mut found);
    assert!(found.iter().all(|key| !key.contains(['_', '-'])), "{found:?}");
}

#[test]
fn headings_can_be_left_out_and_numbers_exact() {
    let report = fixture::report();
    let services = report.envelope(report.services.clone());
    let view = View {
        headings: false,
        digits: Digits::Exact,
        ..TABLE
    };
    let table = services::table(&services, view);
    assert_eq!(table.lines().count(), 3);
    assert!(table.contains("290000"), "{table}");
}

#[test]
fn the_verdict_is_one_line_with_its_worst_reason() {
    let mut report = fixture::report();
    assert_eq!(
        status::verdict(&report.status),
        "degraded: service ledger: no backend up"
    );
    report.status.ready = false;
    report.status.not_ready_reason = Some("no complete set of services is live yet".to_owned());
    assert_eq!(
        status::verdict(&report.status),
        "not ready: no complete set of services is live yet"
    );
    report.status.ready = true;
    report.status.not_ready_reason = None;
    report.status.warnings.clear();
    assert!(
        status::verdict(&report.status).contains(": services 3: "),
        "{}",
        status::verdict(&report.status)
    );
}

#[test]
fn states_are_words_in_colour() {
    let report = fixture::report();
    let services = report.envelope(report.services.clone());
    let view = View { color: true, ..TABLE };
    let painted = services::table(&services, view);
    assert!(painted.contains("\u{1b}[31mdown\u{1b}[0m") && painted.contains("\u{1b}[32mok\u{1b}[0m"));
}

#[test]
fn a_list_that_was_cut_says_so() {
    let list = flow_list(&fixture::report());
    assert_eq!(
        flows::omission(&list).unwrap(),
        "showing 3 of 48,210; --all shows all, --limit more"
    );
}
