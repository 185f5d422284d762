//! What is measured of a peer.

use crate::report::number;

/// One number of a peer in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    NewConnections,
    Requests,
    Bulk,
    Connections,
    IdleCpu,
    Memory,
}

/// Metrics of one peer in one round.
pub(crate) type Measured = Vec<(Metric, f64)>;

/// How a number is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Count,
    Seconds,
    Nanoseconds,
    Ratio,
    Bytes,
}

impl Metric {
    pub(crate) const ALL: [Self; 17] = [
        Self::LossFree,
        Self::FlatOut,
        Self::CpuFull,
        Self::CpuHalf,
        Self::TesterBound,
        Self::LatencyP50,
        Self::LatencyP99,
        Self::LatencyP999,
        Self::LatencyTypicalP99,
        Self::TesterWait,
        Self::PeerWait,
        Self::NewConnections,
        Self::Requests,
        Self::Bulk,
        Self::Connections,
        Self::IdleCpu,
        Self::Memory,
    ];

    /// All of them as the tables have them: of packets, of their latency, of everything else.
    pub(crate) fn tables() -> [&'static [Self]; 3] {
        let all: &'static [Self] = &Self::ALL;
        let (packets, rest) = all.split_at(5);
        let (latency, rest) = rest.split_at(6);
        [packets, latency, rest]
    }

    /// Key in the summary in JSON; a dot is where a run has an object.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::LossFree => "lossFreePacketsPerSecond",
            Self::FlatOut => "flatOutPacketsPerSecond",
            Self::CpuFull => "fullLoadCpuSecondsPerPacket",
            Self::CpuHalf => "halfLoadCpuSecondsPerPacket",
            Self::TesterBound => "testerBoundRatio",
            Self::LatencyP50 => "halfLoadLatencySeconds.p50",
            Self::LatencyP99 => "halfLoadLatencySeconds.p99",
            Self::LatencyP999 => "halfLoadLatencySeconds.p999",
            Self::LatencyTypicalP99 => "halfLoadLatencySeconds.typicalP99",
            Self::TesterWait => "halfLoadTesterWaitRatio",
            Self::PeerWait => "halfLoadPeerWaitRatio",
            Self::NewConnections => "newConnectionsPerSecond",
            Self::Requests => "requestsPerSecond",
            Self::Bulk => "bulkBitsPerSecond",
            Self::Connections => "concurrentConnections",
            Self::IdleCpu => "idleCpuRatio",
            Self::Memory => "residentBytes",
        }
    }

    /// Heading of a column.
    pub(crate) const fn heading(self) -> &'static str {
        match self {
            Self::LossFree => "LOSS-FREE/S",
            Self::FlatOut => "FLAT OUT/S",
            Self::CpuFull => "CPU/PKT FULL",
            Self::CpuHalf => "CPU/PKT HALF",
            Self::TesterBound => "TESTER-BOUND",
            Self::LatencyP50 => "P50",
            Self::LatencyP99 => "P99",
            Self::LatencyP999 => "P99.9",
            Self::LatencyTypicalP99 => "TYPICAL P99",
            Self::TesterWait => "TESTER WAIT",
            Self::PeerWait => "PEER WAIT",
            Self::NewConnections => "CONN/S",
            Self::Requests => "HTTP/S",
            Self::Bulk => "BULK BIT/S",
            Self::Connections => "CONNS",
            Self::IdleCpu => "IDLE CPU",
            Self::Memory => "RSS",
        }
    }

    /// Name in a report.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::LossFree => "loss-free packets/s",
            Self::FlatOut => "packets/s, flat out",
            Self::CpuFull => "CPU time per packet, full load",
            Self::CpuHalf => "CPU time per packet, half load",
            Self::TesterBound => "loss-free rate limited by the tester",
            Self::LatencyP50 => "p50 at half load",
            Self::LatencyP99 => "p99 at half load",
            Self::LatencyP999 => "p99.9 at half load",
            Self::LatencyTypicalP99 => "typical p99 at half load",
            Self::TesterWait => "tester waited for a core",
            Self::PeerWait => "peer waited for a core",
            Self::NewConnections => "new connections/s",
            Self::Requests => "HTTP requests/s",
            Self::Bulk => "bulk TCP, bit/s",
            Self::Connections => "concurrent connections, of 5,000",
            Self::IdleCpu => "idle CPU",
            Self::Memory => "resident memory",
        }
    }

    const fn unit(self) -> Unit {
        match self {
            Self::LossFree
            | Self::FlatOut
            | Self::NewConnections
            | Self::Requests
            | Self::Bulk
            | Self::Connections => Unit::Count,
            Self::CpuFull | Self::CpuHalf => Unit::Nanoseconds,
            Self::LatencyP50 | Self::LatencyP99 | Self::LatencyP999 | Self::LatencyTypicalP99 => {
                Unit::Seconds
            }
            Self::IdleCpu | Self::TesterBound | Self::TesterWait | Self::PeerWait => Unit::Ratio,
            Self::Memory => Unit::Bytes,
        }
    }

    /// A value of this metric for people.
    pub(crate) fn show(self, value: f64) -> String {
        match self.unit() {
            Unit::Count => number::short(value),
            Unit::Seconds => number::time(value),
            // All in one unit, so that they can be compared at a glance.
            Unit::Nanoseconds => format!("{:.0}ns", value * 1e9),
            Unit::Ratio => number::percent(value),
            Unit::Bytes => format!("{}B", number::short(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_headings_and_titles_are_unique() {
        for part in [Metric::key, Metric::heading, Metric::title] {
            let mut all: Vec<&str> = Metric::ALL.into_iter().map(part).collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), Metric::ALL.len());
        }
    }

    #[test]
    fn each_table_begins_with_its_own_numbers() {
        let [packets, latency, rest] = Metric::tables();
        assert_eq!([packets, latency, rest].concat(), Metric::ALL);
        assert_eq!(
            (packets[0], latency[0], rest[0]),
            (Metric::LossFree, Metric::LatencyP50, Metric::NewConnections)
        );
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
