//! Events about limits that are reached, and limits that have room again, from one report to the next.

use std::collections::BTreeMap;

use crate::api::{EventCode, ReasonCount, Report, Severity, Time};
use crate::observe::events::Event;
use vl3lb_common::{DropReason, Duration};

/// A limit has room again when it was not reached for this long.
const QUIET: Duration = Duration::from_secs(10);
/// Drop reasons of an exhausted limit.
const EXHAUSTED: [DropReason; 4] = [
    DropReason::FlowTableFull,
    DropReason::NatPortsExhausted,
    DropReason::ClientLimit,
    DropReason::Overload,
];

/// The limits that are reached, each with the time of the last report of it.
#[derive(Debug, Default)]
pub(super) struct Capacity(BTreeMap<Limit, Time>);

/// A limit that can be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    /// A table that is nearly full: its description, and the subject of the warning.
    Filling(&'static str, String),
    /// Packets of a service, or of none, are dropped for this reason.
    Full(Option<String>, DropReason),
}

impl Capacity {
    /// The events since the last report: limits newly reached, and those with room again.
    ///
    /// Cost: O(services + warnings).
    pub(super) fn update(&mut self, report: &Report) -> Vec<Event> {
        let mut events = Vec::new();
        for (limit, text) in reached(report) {
            if self.0.insert(limit.clone(), report.time).is_none() {
                events.push(limit.reached(text));
            }
        }
        let quiet = |last: &Time| report.time.since(*last) >= QUIET;
        let over: Vec<Limit> = self
            .0
            .extract_if(.., |_, last| quiet(last))
            .map(|(limit, _)| limit)
            .collect();
        events.extend(over.into_iter().map(Limit::relieved));
        events
    }
}

/// The limits that are reached now, each with the text of its event.
fn reached(report: &Report) -> Vec<(Limit, String)> {
    let filling = report.status.warnings.iter().filter_map(|warning| {
        let what = match warning.code.as_str() {
            "flow_table_filling" => "flow table of worker",
            "nat_ports_filling" => "NAT ports towards",
            "flows_evicted" => "flows of service",
            _ => return None,
        };
        let limit = Limit::Filling(what, warning.subject.clone()?);
        Some((limit, warning.text.clone()))
    });
    let of_services = report
        .services
        .iter()
        .flat_map(|service| exhausted(&service.drops, Some(&service.name)));
    let of_none = exhausted(&report.status.totals.drops_without_service, None);
    filling.chain(of_services).chain(of_none).collect()
}

fn exhausted(drops: &[ReasonCount], service: Option<&str>) -> impl Iterator<Item = (Limit, String)> {
    drops.iter().filter_map(move |drop| {
        drop.packets_per_second.filter(|&rate| rate > 0.0)?;
        let reason = EXHAUSTED
            .into_iter()
            .find(|reason| reason.name() == drop.reason)?;
        let on = service.map_or_else(String::new, |service| format!(" of service {service}"));
        let text = format!("packets{on} are dropped: {reason}; {}", reason.remedy());
        Some((Limit::Full(service.map(str::to_owned), reason), text))
    })
}

impl Limit {
    fn reached(self, text: String) -> Event {
        let short = Event::warn(EventCode::CapacityShort, text);
        match self {
            Self::Filling(..) => short.transition("ok", "filling"),
            Self::Full(service, _) => Event {
                severity: Severity::Error,
                service,
                ..short.transition("ok", "full")
            },
        }
    }

    fn relieved(self) -> Event {
        let back = |text| Event::new(EventCode::CapacityBack, text);
        match self {
            Self::Filling(what, subject) => {
                back(format!("{what} {subject}: there is room again")).transition("filling", "ok")
            }
            Self::Full(service, reason) => {
                let on = service
                    .as_ref()
                    .map_or_else(String::new, |service| format!(" of service {service}"));
                let text = format!("packets{on} are not dropped any more: {reason}");
                Event {
                    service,
                    ..back(text).transition("full", "ok")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::api::Warning;
    use crate::observe::report::fixture;

    fn at(seconds: u64) -> Time {
        Time(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn a_limit_emits_one_event_when_reached_and_one_when_relieved() {
        let mut capacity = Capacity::default();
        let mut report = fixture::report();
        // One backend's ports are nearly all in use: another limit.
        report.status.warnings.clear();
        let mut emitted = |report: &mut Report, seconds, rate| {
            report.time = at(seconds);
            let finance = report
                .services
                .iter_mut()
                .find(|service| service.name == "finance");
            let drops = &mut finance.unwrap().drops;
            drops[DropReason::NatPortsExhausted.index()].packets_per_second = Some(rate);
            let events = capacity.update(report).into_iter();
            events
                .map(|event| (event.code, event.service))
                .collect::<Vec<_>>()
        };
        let finance = || Some("finance".to_owned());
        assert_eq!(emitted(&mut report, 0, 0.0), []);
        assert_eq!(
            emitted(&mut report, 1, 3.0),
            [(EventCode::CapacityShort, finance())]
        );
        assert_eq!(emitted(&mut report, 2, 5.0), [], "once");
        assert_eq!(emitted(&mut report, 3, 0.0), [], "it may come again");
        assert_eq!(emitted(&mut report, 4, 1.0), []);
        assert_eq!(emitted(&mut report, 13, 0.0), []);
        assert_eq!(
            emitted(&mut report, 14, 0.0),
            [(EventCode::CapacityBack, finance())]
        );
        assert_eq!(emitted(&mut report, 15, 0.0), []);
    }

    #[test]
    fn a_filling_table_is_named_in_its_event() {
        let mut capacity = Capacity::default();
        let mut report = fixture::report();
        report.status.warnings = vec![Warning {
            severity: Severity::Warn,
            code: "flow_table_filling".to_owned(),
            subject: Some("1".to_owned()),
            since: None,
            text: "flow table of worker 1 is 85% full".to_owned(),
            next: None,
        }];
        let texts =
            |events: Vec<Event>| -> Vec<String> { events.into_iter().map(|event| event.text).collect() };
        assert_eq!(
            texts(capacity.update(&report)),
            ["flow table of worker 1 is 85% full"]
        );
        report.status.warnings.clear();
        report.time = Time(report.time.0 + Duration::from_secs(10));
        assert_eq!(
            texts(capacity.update(&report)),
            ["flow table of worker 1: there is room again"]
        );
    }
}
