//! Counters of the DNS server, written by many tasks.

use std::sync::{Mutex, PoisonError};

use hickory_proto::op::ResponseCode;
use vl3lb_common::Duration;
use vl3lb_common::stats::{Counter, Histogram};

use super::limit::Decision;

/// Upper bounds of the response time, in microseconds: 100 us to 2.5 s.
pub const DURATION_BOUNDS: [u64; 10] = [
    100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 2_500_000,
];
const BUCKETS: usize = DURATION_BOUNDS.len() + 1;

/// Response codes with a counter of their own.
const RCODES: [(ResponseCode, &str); 6] = [
    (ResponseCode::NoError, "noerror"),
    (ResponseCode::FormErr, "formerr"),
    (ResponseCode::ServFail, "servfail"),
    (ResponseCode::NXDomain, "nxdomain"),
    (ResponseCode::NotImp, "notimp"),
    (ResponseCode::Refused, "refused"),
];

/// Counters of the DNS server.
#[derive(Debug, Default)]
pub struct DnsStats {
    /// Held by the writer: counters have one writer at a time.
    writer: Mutex<()>,
    responses: [Counter; RCODES.len()],
    other: Counter,
    durations: Histogram<BUCKETS>,
    listeners: Counter,
    truncated: Counter,
    dropped: Counter,
}

impl DnsStats {
    /// Counts a response.
    pub(super) fn count(&self, code: ResponseCode, took: Duration) {
        let index = RCODES.iter().position(|(known, _)| *known == code);
        let counter = index
            .and_then(|index| self.responses.get(index))
            .unwrap_or(&self.other);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        counter.add(1);
        self.durations.observe(micros, &DURATION_BOUNDS);
    }

    /// Counts a response that the limits truncate or drop.
    pub(super) fn count_limited(&self, decision: Decision) {
        let counter = match decision {
            Decision::Send => return,
            Decision::Truncate => &self.truncated,
            Decision::Drop => &self.dropped,
        };
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        counter.add(1);
    }

    pub(super) fn set_listeners(&self, count: usize) {
        self.listeners.set(count as u64);
    }

    /// Responses by code, in lower case; `other` last.
    pub fn by_rcode(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = RCODES.iter().map(|(_, name)| *name).chain(["other"]);
        let counters = self.responses.iter().chain([&self.other]);
        names.zip(counters.map(Counter::get))
    }

    /// UDP responses over the limits per source and for all: sent truncated, and not sent.
    pub fn limited(&self) -> (u64, u64) {
        (self.truncated.get(), self.dropped.get())
    }

    /// Response times, in the buckets of [`DURATION_BOUNDS`].
    pub const fn durations(&self) -> &Histogram<BUCKETS> {
        &self.durations
    }

    /// Number of addresses that are listened on.
    pub fn listeners(&self) -> u64 {
        self.listeners.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_counted_by_code_and_duration() {
        let stats = DnsStats::default();
        stats.count(ResponseCode::NoError, Duration::from_micros(100));
        stats.count(ResponseCode::NXDomain, Duration::from_micros(101));
        stats.count(ResponseCode::YXDomain, Duration::from_secs(60));
        let counted: Vec<_> = stats.by_rcode().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("noerror", 1), ("nxdomain", 1), ("other", 1)]);
        let durations = stats.durations().counts();
        assert_eq!((durations[0], durations[1], durations[10]), (1, 1, 1));
        assert_eq!(stats.durations().sum_micros(), 60_000_201);
    }

    #[test]
    fn writers_on_many_threads_lose_no_count() {
        let stats = DnsStats::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        stats.count(ResponseCode::NoError, Duration::from_micros(1));
                    }
                });
            }
        });
        assert_eq!(stats.by_rcode().next(), Some(("noerror", 40_000)));
    }
}
