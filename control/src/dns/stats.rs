//! Counters of the DNS server. Many tasks write them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hickory_proto::op::ResponseCode;
use vl3lb_common::Duration;

/// Upper bounds of the time that a question takes, in microseconds: 100 us to 2.5 s.
pub const DURATION_BOUNDS: [u64; 10] = [
    100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 2_500_000,
];

/// Response codes that are told apart.
const RCODES: [(ResponseCode, &str); 6] = [
    (ResponseCode::NoError, "noerror"),
    (ResponseCode::FormErr, "formerr"),
    (ResponseCode::ServFail, "servfail"),
    (ResponseCode::NXDomain, "nxdomain"),
    (ResponseCode::NotImp, "notimp"),
    (ResponseCode::Refused, "refused"),
];

/// What the DNS server did.
#[derive(Debug, Default)]
pub struct DnsStats {
    answers: [AtomicU64; RCODES.len()],
    other: AtomicU64,
    durations: [AtomicU64; DURATION_BOUNDS.len() + 1],
    duration_micros: AtomicU64,
    listeners: AtomicU64,
}

impl DnsStats {
    /// Counts an answer.
    pub(super) fn count(&self, code: ResponseCode, took: Duration) {
        let known = RCODES.iter().position(|(known, _)| *known == code);
        let counter = known
            .and_then(|index| self.answers.get(index))
            .unwrap_or(&self.other);
        counter.fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = DURATION_BOUNDS.partition_point(|&bound| bound < micros);
        if let Some(counter) = self.durations.get(bucket) {
            counter.fetch_add(1, Relaxed);
        }
        self.duration_micros.fetch_add(micros, Relaxed);
    }

    pub(super) fn set_listeners(&self, count: usize) {
        self.listeners.store(count as u64, Relaxed);
    }

    /// Answers by response code, in lower case; `other` last.
    pub fn by_rcode(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = RCODES.iter().map(|(_, name)| *name).chain(["other"]);
        let counters = self.answers.iter().chain([&self.other]);
        names.zip(counters.map(|counter| counter.load(Relaxed)))
    }

    /// Answers per bucket of [`DURATION_BOUNDS`] (not cumulative), the last one above them all.
    pub fn durations(&self) -> [u64; DURATION_BOUNDS.len() + 1] {
        std::array::from_fn(|bucket| self.durations[bucket].load(Relaxed))
    }

    /// Sum of all durations, in microseconds.
    pub fn duration_micros(&self) -> u64 {
        self.duration_micros.load(Relaxed)
    }

    /// Addresses that are listened on now.
    pub fn listeners(&self) -> u64 {
        self.listeners.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_code_and_duration() {
        let stats = DnsStats::default();
        stats.count(ResponseCode::NoError, Duration::from_micros(100));
        stats.count(ResponseCode::NXDomain, Duration::from_micros(101));
        stats.count(ResponseCode::YXDomain, Duration::from_secs(60));
        let counted: Vec<_> = stats.by_rcode().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("noerror", 1), ("nxdomain", 1), ("other", 1)]);
        let durations = stats.durations();
        assert_eq!((durations[0], durations[1], durations[10]), (1, 1, 1));
        assert_eq!(stats.duration_micros(), 60_000_201);
    }
}
