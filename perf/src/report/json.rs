//! The report as JSON. Base units: seconds, bytes, packets.

use serde_json::{Map, Value, json};

use super::histogram::base64;
use super::metric::Metric;
use super::{Report, Verdict, envelope};
use crate::load::interval::Interval;
use crate::load::latency::Percentiles;
use crate::load::run::{Bound, Run};
use crate::load::tally::Tally;

pub(super) fn write(report: &Report) -> String {
    let summary: Map<String, Value> = Metric::all()
        .filter_map(|(key, metric)| {
            let summary = report.summary(metric)?;
            Some((key, json!(summary)))
        })
        .collect();
    let result = json!({
        "runs": report.runs.iter().map(run).collect::<Vec<_>>(),
        "intervals": report.runs.iter().map(intervals).collect::<Vec<_>>(),
        "summary": summary,
        "verdict": report.verdict().name(),
        "interrupted": report.verdict() == Verdict::Interrupted,
        "failed": report.failed(),
    });
    let mut document = envelope::envelope(&report.command, &report.environment, &report.parameters);
    if let Value::Object(result) = result {
        document.extend(result);
    }
    envelope::text(document)
}

fn run(run: &Run) -> Value {
    let mut value = json!({
        "startTime": envelope::time(run.started),
        "durationSeconds": run.duration.as_secs_f64(),
        "packetsPerSecond": run.packets_per_second(),
        "sentPerSecond": run.sent_per_second(),
        "wantedPerSecond": run.wanted_rate,
        "bytesPerSecond": run.bytes_per_second(),
        "latencySeconds": distribution(&run.latency.corrected),
        "serviceTimeSeconds": distribution(&run.latency.service),
        "generatorBusyRatio": run.busy_ratio,
        "generatorOverrun": run.overrun,
        "targetCpuSeconds": run.target_cpu.map(|time| time.as_secs_f64()),
        "generatorBound": run.bound.map(bound),
        "interrupted": run.interrupted,
    });
    add(&mut value, tally(&run.tally));
    value
}

fn intervals(run: &Run) -> Value {
    let interval = |interval: &Interval| {
        let seconds = (interval.end.saturating_sub(interval.start))
            .as_secs_f64()
            .max(f64::MIN_POSITIVE);
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
        let per_second = |count: u64| count as f64 / seconds;
        let mut value = json!({
            "startSeconds": interval.start.as_secs_f64(),
            "endSeconds": interval.end.as_secs_f64(),
            "packetsPerSecond": per_second(interval.tally.received),
            "bytesPerSecond": per_second(interval.tally.bytes_received),
            "latencySeconds": interval.latency.map(|latency| percentiles(&latency)),
        });
        add(&mut value, tally(&interval.tally));
        // Answers to an interval's packets may come in the next one.
        value.as_object_mut().map(|map| map.remove("lost"));
        value
    };
    run.intervals.iter().map(interval).collect()
}

fn tally(tally: &Tally) -> Value {
    json!({
        "sent": tally.sent,
        "received": tally.received,
        "lost": tally.lost(),
        "duplicated": tally.duplicated,
        "reordered": tally.reordered,
        "connected": tally.connected,
        "bytesSent": tally.bytes_sent,
        "bytesReceived": tally.bytes_received,
        "errors": {
            "connect": tally.errors.connect,
            "timeout": tally.errors.timeout,
            "reset": tally.errors.reset,
            "payload": tally.errors.payload,
        },
    })
}

fn distribution(histogram: &hdrhistogram::Histogram<u64>) -> Option<Value> {
    let mut value = percentiles(&Percentiles::of(histogram)?);
    add(&mut value, json!({"histogram": base64(histogram)}));
    Some(value)
}

fn percentiles(of: &Percentiles) -> Value {
    json!({
        "min": of.min, "p50": of.p50, "p90": of.p90, "p99": of.p99, "p999": of.p999, "p9999": of.p9999,
        "max": of.max, "mean": of.mean,
    })
}

const fn bound(bound: Bound) -> &'static str {
    match bound {
        Bound::Busy => "busy",
        Bound::Overrun => "overrun",
        Bound::MissedRate => "missed-rate",
        Bound::Connections => "connections",
    }
}

fn add(to: &mut Value, more: Value) {
    if let (Value::Object(to), Value::Object(more)) = (to, more) {
        to.extend(more);
    }
}
