//! The figures at the top, with their course over the last minutes.

use maud::{Markup, html};

use crate::api::{Report, Status};
use crate::number::{Digits, percent};
use crate::observe::report::{MEASURE_STEP, MEASURES, Measures};

/// Height of a sparkline in its own units.
const HEIGHT: f64 = 20.0;

/// Traffic, new flows, drops, and how full and busy the balancer is.
pub(super) fn tiles(status: &Status, report: &Report, measures: &[Measures]) -> Markup {
    let digits = Digits::Short;
    let totals = &status.totals;
    let new_flows = report.new_flows_per_second();
    let busy: Vec<_> = status
        .workers
        .iter()
        .map(|worker| percent(worker.busy_ratio))
        .collect();
    let busiest = status
        .workers
        .iter()
        .filter_map(|worker| worker.busy_ratio)
        .fold(0.0, f64::max);
    html! {
        h2 { "Now, and in the last " (minutes()) " minutes" }
        dl .tiles {
            (tile("packets/s in", &digits.rate(totals.inbound.packets_per_second), &line(measures, |m| m.packets_in)))
            (tile("packets/s out", &digits.rate(totals.outbound.packets_per_second), &line(measures, |m| m.packets_out)))
            (tile("bit/s in", &digits.bits(totals.inbound.bytes_per_second), &line(measures, |m| m.bytes_in)))
            (tile("bit/s out", &digits.bits(totals.outbound.bytes_per_second), &line(measures, |m| m.bytes_out)))
            (tile("new flows/s", &digits.rate(new_flows), &line(measures, |m| m.new_flows)))
            (tile(
                "drops/s",
                &format!("{} ({})", digits.rate(totals.drops_per_second), percent(totals.drop_ratio)),
                &line(measures, |m| m.drops),
            ))
            (tile(
                "flows",
                &format!("{} of {}", digits.count(totals.flows), digits.count(totals.flow_capacity)),
                &gauge(ratio(totals.flows, totals.flow_capacity)),
            ))
            (tile("workers busy", &busy.join(" "), &gauge(busiest)))
        }
    }
}

fn minutes() -> u64 {
    MEASURE_STEP.as_secs() * MEASURES as u64 / 60
}

fn tile(label: &str, value: &str, picture: &Markup) -> Markup {
    html! {
        div .tile {
            dt { (label) }
            dd { (value) }
            dd { (picture) }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of flows are far below 2^53")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// A sparkline from zero to the largest value; unknown values are gaps at zero.
fn line(measures: &[Measures], value: fn(&Measures) -> Option<f64>) -> Markup {
    let values: Vec<f64> = measures
        .iter()
        .map(|point| value(point).unwrap_or_default().max(0.0))
        .collect();
    let most = values.iter().copied().fold(0.0, f64::max);
    let first = MEASURES - values.len().min(MEASURES);
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(at, value)| {
            let part = if most > 0.0 { value / most } else { 0.0 };
            format!("{},{:.1}", first + at, HEIGHT - 1.0 - part * (HEIGHT - 2.0))
        })
        .collect();
    html! {
        svg viewBox=(format!("0 0 {} {HEIGHT}", MEASURES - 1)) preserveAspectRatio="none" aria-hidden="true" {
            polyline points=(points.join(" ")) {}
        }
    }
}

/// A bar that is full at 1.
fn gauge(part: f64) -> Markup {
    html! {
        svg viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true" {
            rect .track x="0" y="6" width="100" height="8" {}
            rect x="0" y="6" width=(format!("{:.1}", part.clamp(0.0, 1.0) * 100.0)) height="8" {}
        }
    }
}
