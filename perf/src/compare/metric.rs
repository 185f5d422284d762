//! The metrics of a peer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::number;

/// One number of a peer in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub(crate) enum Metric {
    LossFree,
    FlatOut,
    CpuFull,
    CpuHalf,
    TesterBound,
    LatencyP50,
    LatencyP99,
    LatencyP999,
    LatencyTypicalP99,
    TesterWait,
    PeerWait,
    CapturedRatio,
    CapturedLow,
    CapturedHigh,
    CaptureCpu,
    Bulk,
    BulkDown,
    BulkMany,
    BulkManyDown,
    Segments,
    SegmentsWrong,
    NewConnections,
    Requests,
    Connections,
    IdleCpu,
    Memory,
}

/// Metrics of one peer in one round.
pub(crate) type Measured = BTreeMap<Metric, f64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Count,
    Seconds,
    Nanoseconds,
    Ratio,
    Bytes,
}

/// A row: the metric, its key in JSON, the heading of its column, its name in a report, its unit.
type Row = (Metric, &'static str, &'static str, &'static str, Unit);

/// In the order of [`Metric`].
#[rustfmt::skip]
const TABLE: [Row; 26] = {
    use Metric::*;
    use Unit::*;
    [
    (LossFree, "lossFreePacketsPerSecond", "LOSS-FREE/S", "loss-free packets/s", Count),
    (FlatOut, "flatOutPacketsPerSecond", "FLAT OUT/S", "packets/s, flat out", Count),
    (CpuFull, "fullLoadCpuSecondsPerPacket", "CPU/PKT FULL", "CPU time per packet, full load", Nanoseconds),
    (CpuHalf, "halfLoadCpuSecondsPerPacket", "CPU/PKT HALF", "CPU time per packet, half load", Nanoseconds),
    (TesterBound, "testerBoundRatio", "TESTER-BOUND", "loss-free rate limited by the tester", Ratio),
    (LatencyP50, "halfLoadLatencySeconds.p50", "P50", "p50 at half load", Seconds),
    (LatencyP99, "halfLoadLatencySeconds.p99", "P99", "p99 at half load", Seconds),
    (LatencyP999, "halfLoadLatencySeconds.p999", "P99.9", "p99.9 at half load", Seconds),
    (LatencyTypicalP99, "halfLoadLatencySeconds.typicalP99", "TYPICAL P99", "typical p99 at half load", Seconds),
    (TesterWait, "halfLoadTesterWaitRatio", "TESTER WAIT", "tester waited for a core", Ratio),
    (PeerWait, "halfLoadPeerWaitRatio", "PEER WAIT", "peer waited for a core", Ratio),
    (CapturedRatio, "flatOutCapturedRatio", "CAPTURED", "packets/s with a capture and without, flat out", Ratio),
    (CapturedLow, "flatOutCapturedRatio.low", "AT LEAST", "the same, at least", Ratio),
    (CapturedHigh, "flatOutCapturedRatio.high", "AT MOST", "the same, at most", Ratio),
    (CaptureCpu, "flatOutCaptureCpuRatio", "CAPTURE CPU", "CPU time of the capture beside the workers, flat out", Ratio),
    (Bulk, "bulkBitsPerSecond", "BULK UP", "bulk TCP up, bit/s", Count),
    (BulkDown, "bulkDownBitsPerSecond", "BULK DOWN", "bulk TCP down, bit/s", Count),
    (BulkMany, "bulkManyBitsPerSecond", "8 UP", "bulk TCP up, 8 connections, bit/s", Count),
    (BulkManyDown, "bulkManyDownBitsPerSecond", "8 DOWN", "bulk TCP down, 8 connections, bit/s", Count),
    (Segments, "udpSegmentBitsPerSecond", "UDP SEGMENT", "UDP_SEGMENT, bit/s", Count),
    (SegmentsWrong, "udpSegmentWrong", "WRONG", "UDP_SEGMENT, datagrams merged or cut", Count),
    (NewConnections, "newConnectionsPerSecond", "CONN/S", "new connections/s", Count),
    (Requests, "requestsPerSecond", "HTTP/S", "HTTP requests/s", Count),
    (Connections, "concurrentConnections", "CONNS", "concurrent connections, of 5,000", Count),
    (IdleCpu, "idleCpuRatio", "IDLE CPU", "idle CPU", Ratio),
    (Memory, "residentBytes", "RSS", "resident memory", Bytes),
    ]
};

/// The metrics of the four tables: packets, their latency, bulk data, connections and resources.
const TABLES: [std::ops::Range<usize>; 4] = [0..5, 5..15, 15..21, 21..26];

impl Metric {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        TABLE.into_iter().map(|row| row.0)
    }

    /// The metrics of each table.
    pub(crate) fn tables() -> [Vec<Self>; 4] {
        TABLES.map(|range| TABLE[range].iter().map(|row| row.0).collect())
    }

    const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// Key in JSON.
    pub(crate) const fn key(self) -> &'static str {
        self.row().1
    }

    /// Heading of a column.
    pub(crate) const fn heading(self) -> &'static str {
        self.row().2
    }

    /// Name in a report.
    pub(crate) const fn title(self) -> &'static str {
        self.row().3
    }

    /// A value of this metric with its unit.
    pub(crate) fn show(self, value: f64) -> String {
        match self.row().4 {
            Unit::Count => number::short(value),
            Unit::Seconds => number::time(value),
            // One unit for all, so that they compare at a glance.
            Unit::Nanoseconds => format!("{:.0}ns", value * 1e9),
            Unit::Ratio => number::percent(value),
            Unit::Bytes => format!("{}B", number::short(value)),
        }
    }
}

impl From<Metric> for &'static str {
    fn from(metric: Metric) -> Self {
        metric.key()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("unknown metric {0}")]
pub(crate) struct UnknownMetric(String);

impl TryFrom<String> for Metric {
    type Error = UnknownMetric;

    fn try_from(key: String) -> Result<Self, UnknownMetric> {
        let found = Self::all().find(|metric| metric.key() == key);
        found.ok_or(UnknownMetric(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_the_metrics_and_unique() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index, "{row:?}");
        }
        for part in [Metric::key, Metric::heading, Metric::title] {
            let mut all: Vec<&str> = Metric::all().map(part).collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), TABLE.len());
        }
        assert_eq!(Metric::tables().concat(), Metric::all().collect::<Vec<_>>());
    }

    #[test]
    fn values_have_their_unit() {
        assert_eq!(Metric::LossFree.show(812_000.0), "812k");
        assert_eq!(Metric::CpuFull.show(1.2e-6), "1200ns");
        assert_eq!(Metric::LatencyP99.show(412e-6), "412us");
        assert_eq!(Metric::IdleCpu.show(0.005), "0.50%");
        assert_eq!(Metric::Memory.show(2e7), "20.0MB");
    }
}
