//! The targets, and whether the results meet them.

use serde_json::Value;

use crate::compare::metric::Metric;
use crate::report::number;

use super::results::{Results, flows};

/// One target.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) measure: String,
    /// What is wanted, in words.
    pub(super) wanted: String,
    /// What was measured, in words.
    pub(super) measured: String,
    /// `None` if it was not measured, or cannot be told.
    pub(super) met: Option<bool>,
}

/// A third of the cycles per packet of VPP's path, by the number of flows.
const CYCLES: [(u64, f64); 3] = [(1_000, 92.0), (64_000, 107.0), (1_000_000, 255.0)];
/// What the balancer runs as on veth links if nothing else is asked for.
const OURS: &str = "vl3-lb-native";
const NOT_MEASURED: &str = "not measured";

/// All targets, in order.
pub(super) fn all(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    for (key, direction) in [("request", "client to backend"), ("reply", "backend to client")] {
        for (count, most) in CYCLES {
            let cycles = flows(&results.sequential, count).and_then(|result| result[key]["cycles"].as_f64());
            let measure = format!(
                "pipeline, {direction}, {} flows, cycles/packet",
                number::short(count_f64(count))
            );
            targets.push(at_most(measure, most, cycles, |value| format!("{value:.0}")));
        }
    }
    targets.push(new_flows(&results.pipeline));
    targets.extend(ten_million(&results.pipeline));
    for mode in ["native", "generic"] {
        targets.push(ratio(
            results,
            Metric::LossFree,
            (&format!("vl3-lb-{mode}"), &format!("reflector-{mode}")),
            (0.95, Order::AtLeast),
        ));
    }
    targets.push(ratio(
        results,
        Metric::LossFree,
        (OURS, "vpp"),
        (1.1, Order::AtLeast),
    ));
    targets.push(ratio(
        results,
        Metric::CpuFull,
        (OURS, "nftables"),
        (1.0, Order::AtMost),
    ));
    for metric in [Metric::NewConnections, Metric::Requests] {
        targets.push(ratio(results, metric, (OURS, "haproxy"), (2.0, Order::AtLeast)));
    }
    targets.push(added_latency(results));
    let idle = results.compare.median(OURS, Metric::IdleCpu);
    targets.push(judged(
        "idle CPU of vl3-lb",
        "< 1% of a core",
        idle.map(|share| (number::percent(share), share < 0.01)),
    ));
    targets.extend(churn(&results.churn));
    targets
}

/// Which side of a ratio is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    AtLeast,
    AtMost,
}

fn judged(measure: impl Into<String>, wanted: impl Into<String>, outcome: Option<(String, bool)>) -> Target {
    let (measured, met) = match outcome {
        Some((measured, met)) => (measured, Some(met)),
        None => (NOT_MEASURED.to_owned(), None),
    };
    Target {
        measure: measure.into(),
        wanted: wanted.into(),
        measured,
        met,
    }
}

fn at_most(measure: String, most: f64, value: Option<f64>, show: impl Fn(f64) -> String) -> Target {
    judged(
        measure,
        format!("<= {}", show(most)),
        value.map(|value| (show(value), value <= most)),
    )
}

/// One number of two peers, as their ratio.
fn ratio(
    results: &Results,
    metric: Metric,
    (ours, other): (&str, &str),
    (limit, order): (f64, Order),
) -> Target {
    let wanted = match order {
        Order::AtLeast => format!(">= {limit}x {other}"),
        Order::AtMost => format!("<= {limit}x {other}"),
    };
    let outcome = results
        .compare
        .median(ours, metric)
        .zip(results.compare.median(other, metric))
        .map(|(own, reference)| {
            let ratio = own / reference;
            let met = match order {
                Order::AtLeast => ratio >= limit,
                Order::AtMost => ratio <= limit,
            };
            (
                format!("{ratio:.2}x ({} to {})", metric.show(own), metric.show(reference)),
                met,
            )
        });
    judged(format!("{} of {ours}", metric.title()), wanted, outcome)
}

fn new_flows(pipeline: &Value) -> Target {
    let slowest = CYCLES
        .into_iter()
        .filter_map(|(count, _)| flows(pipeline, count)?["newFlow"]["ns"].as_f64())
        .reduce(f64::max);
    let outcome = slowest.map(|nanos| {
        let rate = 1e9 / nanos;
        (format!("{}/s", number::short(rate)), rate >= 3e6)
    });
    judged(
        "pipeline, new flows on one core, slowest of 1k, 64k, 1M flows",
        ">= 3.00M/s",
        outcome,
    )
}

fn ten_million(pipeline: &Value) -> [Target; 2] {
    let ten = flows(pipeline, 10_000_000);
    let memory = ten.and_then(|result| result["memoryBytes"].as_f64());
    let cycles = |result: &Value| result["request"]["cycles"].as_f64();
    let factor = ten
        .and_then(cycles)
        .zip(flows(pipeline, 1_000_000).and_then(cycles))
        .map(|(ten, one)| ten / one);
    [
        judged(
            "10M flows, memory",
            "< 1.20GB",
            memory.map(|bytes| (format!("{}B", number::short(bytes)), bytes < 1.2e9)),
        ),
        judged(
            "10M flows, cycles/packet",
            "<= 1.5x of 1M flows",
            factor.map(|factor| (format!("{factor:.2}x"), factor <= 1.5)),
        ),
    ]
}

/// Latency above that of plain routing over the same path. Judged by the p99 of everything; that of a typical window is
/// told with it.
fn added_latency(results: &Results) -> Target {
    let added = |metric| {
        let above_routing =
            |peer| Some(results.compare.median(peer, metric)? - results.compare.median("routing", metric)?);
        above_routing(OURS).zip(above_routing("nftables"))
    };
    let show = |(own, kernel): (f64, f64)| {
        let [own, kernel] = [own, kernel].map(|seconds| {
            if seconds > 0.0 {
                number::time(seconds)
            } else {
                "none".to_owned()
            }
        });
        format!("{own} to {kernel}")
    };
    let p99 = added(Metric::LatencyP99);
    let measured = p99.map_or_else(
        || NOT_MEASURED.to_owned(),
        |p99| {
            let typical = added(Metric::LatencyTypicalP99)
                .map_or_else(String::new, |typical| format!("; typical p99: {}", show(typical)));
            format!("{}{typical}", show(p99))
        },
    );
    Target {
        measure: format!("added p99 latency at half load, {OURS}"),
        wanted: "<= 1.2x nftables".to_owned(),
        measured,
        // Where routing itself was slower than both, there is nothing to compare.
        met: p99
            .filter(|&(own, kernel)| own > 0.0 || kernel > 0.0)
            .map(|(own, kernel)| own <= 1.2 * kernel),
    }
}

fn churn(churn: &Value) -> [Target; 2] {
    let run = &churn["runs"][0];
    let p99 = run["changeSeconds"]["p99"].as_f64();
    let lost = run["flowsLost"].as_u64();
    [
        at_most(
            "churn, p99 from the file's rename to every worker".to_owned(),
            0.005,
            p99,
            number::time,
        ),
        judged(
            "churn, established flows lost",
            "0",
            lost.map(|lost| (lost.to_string(), lost == 0)),
        ),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "numbers of flows, far below 2^53")]
const fn count_f64(count: u64) -> f64 {
    count as f64
}
