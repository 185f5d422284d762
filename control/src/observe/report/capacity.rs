//! What becomes full, from one report to the next.

use std::collections::BTreeMap;

use crate::api::{EventCode, ReasonCount, Report, Severity, Time};
use vl3lb_common::{DropReason, Duration};

use super::Happening;

/// Something that is at its limit now and then has room again only after so long without.
const QUIET: Duration = Duration::from_secs(10);
/// Drops that mean that something is full.
const FULL: [DropReason; 2] = [DropReason::FlowTableFull, DropReason::NatPortsExhausted];

/// What is full or nearly so.
#[derive(Debug, Default)]
pub struct Capacity(BTreeMap<Limit, Time>);

/// Something that has a limit. The value of [`Capacity`] is when it was last at it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    /// Of a table that is nearly full, in words: the code and the subject of the warning.
    Filling(&'static str, String),
    /// Of packets of a service that are dropped.
    Full(Option<String>, DropReason),
}

impl Capacity {
    /// What became short since the last report, and what has room again.
    pub fn follow(&mut self, report: &Report) -> Vec<Happening> {
        let mut happenings = Vec::new();
        for (limit, text) in reached(report) {
            if self.0.insert(limit.clone(), report.time).is_none() {
                happenings.push(limit.short(text));
            }
        }
        let quiet = |last: &Time| report.time.since(*last) >= QUIET;
        let over: Vec<Limit> = self
            .0
            .extract_if(.., |_, last| quiet(last))
            .map(|(limit, _)| limit)
            .collect();
        happenings.extend(over.into_iter().map(Limit::back));
        happenings
    }
}

/// Limits that are reached, and how that is said.
fn reached(report: &Report) -> Vec<(Limit, String)> {
    let filling = report.status.warnings.iter().filter_map(|warning| {
        let what = match warning.code.as_str() {
            "flow_table_filling" => "flow table of worker",
            "nat_ports_filling" => "NAT ports towards",
            _ => return None,
        };
        let limit = Limit::Filling(what, warning.subject.clone()?);
        Some((limit, warning.text.clone()))
    });
    let of_services = report
        .services
        .iter()
        .flat_map(|service| full(&service.drops, Some(&service.name)));
    let of_none = full(&report.status.totals.drops_without_service, None);
    filling.chain(of_services).chain(of_none).collect()
}

fn full(drops: &[ReasonCount], service: Option<&str>) -> impl Iterator<Item = (Limit, String)> {
    drops.iter().filter_map(move |drop| {
        drop.packets_per_second.filter(|&rate| rate > 0.0)?;
        let reason = FULL.into_iter().find(|reason| reason.name() == drop.reason)?;
        let on = service.map_or_else(String::new, |service| format!(" of service {service}"));
        let text = format!("packets{on} are dropped: {reason}; {}", reason.remedy());
        Some((Limit::Full(service.map(str::to_owned), reason), text))
    })
}

impl Limit {
    fn short(self, text: String) -> Happening {
        let short = Happening::warn(EventCode::CapacityShort, text);
        match self {
            Self::Filling(..) => short.turn("ok", "filling"),
            Self::Full(service, _) => Happening {
                severity: Severity::Error,
                service,
                ..short.turn("ok", "full")
            },
        }
    }

    fn back(self) -> Happening {
        let back = |text| Happening::new(EventCode::CapacityBack, text);
        match self {
            Self::Filling(what, subject) => {
                back(format!("{what} {subject}: there is room again")).turn("filling", "ok")
            }
            Self::Full(service, reason) => {
                let on = service
                    .as_ref()
                    .map_or_else(String::new, |service| format!(" of service {service}"));
                let text = format!("packets{on} are not dropped any more: {reason}");
                Happening {
                    service,
                    ..back(text).turn("full", "ok")
                }
            }
        }
    }
}
