//! The targets, and whether the results meet them.

use crate::compare::metric::Metric;
use crate::flood::attack::Attack;
use crate::report::number;
use crate::{churn, flood, pipeline};
use clap::ValueEnum;

use super::results::Results;

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) measure: String,
    /// The target as text.
    pub(super) wanted: String,
    /// The result as text.
    pub(super) measured: String,
    /// `None` if it was not measured, or cannot be judged.
    pub(super) met: Option<bool>,
}

/// Cycles per packet by number of flows: a third of VPP's.
const CYCLES: [(u32, f64); 3] = [(1_000, 92.0), (64_000, 107.0), (1_000_000, 255.0)];
/// All packets through the worker.
const OURS: &str = "vl3-lb-native";
/// The balancer's default on veth and TUN links.
const FAST: &str = "vl3-lb-fastpath";
const NOT_MEASURED: &str = "not measured";

/// All targets, in order.
pub(super) fn all(results: &Results) -> Vec<Target> {
    let mut targets = cycles(results.sequential.as_ref());
    targets.push(new_flows(results.pipeline.as_ref()));
    targets.extend(ten_million(results.pipeline.as_ref()));
    for (metric, ours, peer, limit) in [
        (Metric::LossFree, OURS, "reflector-native", Limit::AtLeast(0.95)),
        (
            Metric::LossFree,
            "vl3-lb-generic",
            "reflector-generic",
            Limit::AtLeast(0.95),
        ),
        (Metric::LossFree, OURS, "vpp", Limit::AtLeast(1.1)),
        (Metric::CpuFull, OURS, "nftables", Limit::AtMost(1.0)),
        (Metric::NewConnections, OURS, "haproxy", Limit::AtLeast(2.0)),
        (Metric::Requests, OURS, "haproxy", Limit::AtLeast(2.0)),
    ] {
        targets.push(ratio(results, metric, ours, peer, limit));
    }
    targets.extend(fast_path(results));
    targets.push(added_latency(results));
    let idle = results.median(OURS, Metric::IdleCpu);
    targets.push(judged(
        "idle CPU of vl3-lb",
        "< 1% of a core",
        idle.map(|share| (number::percent(share), share < 0.01)),
    ));
    targets.extend(churn(results.churn.as_ref()));
    let attacks = Attack::value_variants().iter();
    targets.extend(
        attacks.flat_map(|&attack| [FAST, OURS].map(|own| flood(results.flood.as_ref(), attack, own))),
    );
    targets
}

/// The limit of a ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
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

fn cycles(pipeline: Option<&pipeline::Report>) -> Vec<Target> {
    let mut targets = Vec::new();
    for (direction, is_reply) in [("client to backend", false), ("backend to client", true)] {
        for (flows, most) in CYCLES {
            let costs = pipeline
                .and_then(|report| report.of_flows(flows))
                .map(|result| result.costs);
            let cycles = costs.map(|costs| if is_reply { costs.reply } else { costs.request }.cycles);
            targets.push(judged(
                format!(
                    "pipeline, {direction}, {} flows, cycles/packet",
                    number::count(flows.into())
                ),
                format!("<= {most:.0}"),
                cycles.map(|cycles| (format!("{cycles:.0}"), cycles <= most)),
            ));
        }
    }
    targets
}

/// Established flows in the kernel.
fn fast_path(results: &Results) -> Vec<Target> {
    use Limit::{AtLeast, AtMost};
    let mut targets: Vec<Target> = [
        (Metric::Bulk, "direct", AtLeast(0.85)),
        (Metric::BulkDown, "direct", AtLeast(0.85)),
        (Metric::Bulk, "nftables", AtLeast(1.05)),
        (Metric::BulkDown, "nftables", AtLeast(1.05)),
        (Metric::BulkMany, "nftables", AtLeast(1.0)),
        (Metric::BulkManyDown, "nftables", AtLeast(1.0)),
        (Metric::Segments, "nftables", AtLeast(1.05)),
        (Metric::CpuFull, "nftables", AtMost(0.7)),
        (Metric::LossFree, "nftables", AtLeast(1.4)),
        (Metric::Requests, "nftables", AtLeast(1.25)),
        (Metric::Requests, "haproxy", AtLeast(1.8)),
        (Metric::LatencyP99, "nftables", AtMost(1.0)),
        (Metric::NewConnections, OURS, AtLeast(1.0)),
    ]
    .map(|(metric, peer, limit)| ratio(results, metric, FAST, peer, limit))
    .into();
    let wrong = results.median(FAST, Metric::SegmentsWrong);
    targets.push(judged(
        format!("UDP_SEGMENT through {FAST}, datagrams merged or cut"),
        "0",
        wrong.map(|wrong| (format!("{wrong:.0}"), wrong == 0.0)),
    ));
    let of_tun = |peer: &str, metric| Some(results.compare_tun.as_ref()?.summary(peer, metric)?.median);
    for metric in [Metric::Bulk, Metric::BulkDown] {
        let medians = of_tun(FAST, metric).zip(of_tun("nftables", metric));
        targets.push(Target {
            measure: format!("TUN link, {} of {FAST}", metric.title()),
            ..ratio_of(medians, metric, FAST, "nftables", AtLeast(1.05))
        });
    }
    targets
}

/// One metric of two peers, as their ratio.
fn ratio(results: &Results, metric: Metric, ours: &str, peer: &str, limit: Limit) -> Target {
    let medians = results.median(ours, metric).zip(results.median(peer, metric));
    ratio_of(medians, metric, ours, peer, limit)
}

fn ratio_of(medians: Option<(f64, f64)>, metric: Metric, ours: &str, peer: &str, limit: Limit) -> Target {
    let wanted = match limit {
        Limit::AtLeast(limit) => format!(">= {limit}x {peer}"),
        Limit::AtMost(limit) => format!("<= {limit}x {peer}"),
    };
    let outcome = medians.map(|(own, reference)| {
        let ratio = own / reference;
        let met = match limit {
            Limit::AtLeast(limit) => ratio >= limit,
            Limit::AtMost(limit) => ratio <= limit,
        };
        let [own, reference] = [own, reference].map(|value| metric.show(value));
        (format!("{ratio:.2}x ({own} to {reference})"), met)
    });
    judged(format!("{} of {ours}", metric.title()), wanted, outcome)
}

fn new_flows(pipeline: Option<&pipeline::Report>) -> Target {
    let nanos = |&(flows, _): &(u32, f64)| Some(pipeline?.of_flows(flows)?.costs.new_flow.ns);
    let slowest = CYCLES.iter().filter_map(nanos).reduce(f64::max);
    judged(
        "pipeline, new flows on one core, slowest of 1k, 64k, 1M flows",
        ">= 3.00M/s",
        slowest.map(|nanos| {
            let rate = 1e9 / nanos;
            (format!("{}/s", number::short(rate)), rate >= 3e6)
        }),
    )
}

fn ten_million(pipeline: Option<&pipeline::Report>) -> [Target; 2] {
    let of_flows = |flows| pipeline?.of_flows(flows);
    let ten = of_flows(10_000_000);
    let factor = ten
        .zip(of_flows(1_000_000))
        .map(|(ten, one)| ten.costs.request.cycles / one.costs.request.cycles);
    let memory = ten.map(|result| result.memory_bytes);
    [
        judged(
            "10M flows, memory",
            "< 1.20GB",
            memory.map(|bytes| {
                let text = format!("{}B", number::count(bytes as u64));
                (text, bytes < 1_200_000_000)
            }),
        ),
        judged(
            "10M flows, cycles/packet",
            "<= 1.5x of 1M flows",
            factor.map(|factor| (format!("{factor:.2}x"), factor <= 1.5)),
        ),
    ]
}

/// Latency above that of plain routing over the same path. P99 is judged; the typical p99 is shown beside it.
fn added_latency(results: &Results) -> Target {
    let added = |metric| {
        let above_routing = |peer| Some(results.median(peer, metric)? - results.median("routing", metric)?);
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
        // If routing itself was slower than both, there is nothing to compare.
        met: p99
            .filter(|&(own, kernel)| own > 0.0 || kernel > 0.0)
            .map(|(own, kernel)| own <= 1.2 * kernel),
    }
}

fn churn(churn: Option<&churn::Report>) -> [Target; 2] {
    let run = churn.map(|report| &report.runs[0]);
    let p99 = run.map(|run| run.change_seconds.p99);
    let lost = run.map(|run| run.flows_lost);
    [
        judged(
            "churn, p99 from the file's rename to every worker",
            "<= 5.00ms",
            p99.map(|p99| (number::time(p99), p99 <= 0.005)),
        ),
        judged(
            "churn, established flows lost",
            "0",
            lost.map(|lost| (lost.to_string(), lost == 0)),
        ),
    ]
}

/// Legitimate traffic through the peer `own` during an attack, and after it; beside it that through the kernel.
fn flood(flood: Option<&flood::Report>, attack: Attack, own: &str) -> Target {
    let run = |peer| flood?.run(peer, attack);
    let show = |run: &flood::report::Run| {
        format!(
            "{}, {}, {}",
            number::percent(run.during.goodput_ratio),
            number::percent(run.during.new_connections_ratio),
            run.recovery_seconds
                .map_or_else(|| "never".to_owned(), number::time)
        )
    };
    let outcome = run(own).map(|own| {
        let kernel = run("nftables").map_or_else(String::new, |run| format!("; nftables: {}", show(run)));
        let met = own.during.goodput_ratio > 0.95
            && own.during.new_connections_ratio > 0.95
            && own.recovery_seconds.is_some_and(|seconds| seconds <= 5.0);
        (format!("{}{kernel}", show(own)), met)
    });
    judged(
        format!(
            "flood {}, {own}: goodput of established flows, new connections within 1 s, recovery",
            attack.name()
        ),
        "> 95%, > 95%, <= 5.00s",
        outcome,
    )
}
