//! The sums of the workers' counters at one moment, and the window of rates.
//!
//! Raw counts by slot. The baseline of a slot's owner is never below an older sample of a previous owner,
//! so the larger of the two is where the owner's counts start.

use std::collections::VecDeque;
use std::sync::Arc;

use vl3lb_common::snapshot::{BackendSlot, ServiceSlot};
use vl3lb_common::stats::{
    BackendStats, CONNECT_BOUNDS, CloseCause, Counter, DURATION_BOUNDS, FlowFailure, ServiceStats, Traffic,
    WorkerStats,
};
use vl3lb_common::{DropReason, Duration, Timestamp};

/// Rates are measured over this long.
const WINDOW: Duration = Duration::from_secs(10);
/// A shorter window has no rates: they would be noise.
const SHORTEST: Duration = Duration::from_millis(500);

/// Monotonic counts.
type Counts<const N: usize> = [u64; N];

fn read<const N: usize>(counters: &[Counter; N]) -> Counts<N> {
    std::array::from_fn(|index| counters[index].get())
}

fn add<const N: usize>(sum: &mut Counts<N>, counts: Counts<N>) {
    for (sum, count) in sum.iter_mut().zip(counts) {
        *sum += count;
    }
}

fn combine<const N: usize>(a: Counts<N>, b: Counts<N>, with: fn(u64, u64) -> u64) -> Counts<N> {
    std::array::from_fn(|index| with(a[index], b[index]))
}

/// Packets and bytes of both directions, and flows opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FlowCounts {
    /// Packets in, bytes in, packets out, bytes out, flows opened.
    counts: Counts<5>,
}

impl FlowCounts {
    fn read(inbound: &Traffic, outbound: &Traffic, opened: &Counter) -> Self {
        Self {
            counts: [
                inbound.packets.get(),
                inbound.bytes.get(),
                outbound.packets.get(),
                outbound.bytes.get(),
                opened.get(),
            ],
        }
    }

    pub(super) const fn packets_in(self) -> u64 {
        self.counts[0]
    }

    pub(super) const fn bytes_in(self) -> u64 {
        self.counts[1]
    }

    pub(super) const fn packets_out(self) -> u64 {
        self.counts[2]
    }

    pub(super) const fn bytes_out(self) -> u64 {
        self.counts[3]
    }

    pub(super) const fn opened(self) -> u64 {
        self.counts[4]
    }
}

/// Buckets of the time from SYN to SYN-ACK.
pub(super) const CONNECT_BUCKETS: usize = CONNECT_BOUNDS.len() + 1;
/// Buckets of the life of flows.
pub(super) const DURATION_BUCKETS: usize = DURATION_BOUNDS.len() + 1;

/// Counts of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServiceCounts {
    pub(super) flows: FlowCounts,
    pub(super) closed: Counts<{ CloseCause::COUNT }>,
    pub(super) drops: Counts<{ DropReason::COUNT }>,
    pub(super) connect: Counts<CONNECT_BUCKETS>,
    pub(super) duration: Counts<DURATION_BUCKETS>,
    /// Sums of both distributions, in microseconds.
    pub(super) sums: Counts<2>,
}

/// By hand, since arrays of more than 32 elements have no default.
impl Default for ServiceCounts {
    fn default() -> Self {
        Self {
            flows: FlowCounts::default(),
            closed: Counts::default(),
            drops: [0; DropReason::COUNT],
            connect: Counts::default(),
            duration: Counts::default(),
            sums: Counts::default(),
        }
    }
}

impl ServiceCounts {
    /// The current counts of `stats`.
    pub(super) fn read(stats: &ServiceStats) -> Self {
        Self {
            flows: FlowCounts::read(&stats.inbound, &stats.outbound, &stats.flows_opened),
            closed: read(&stats.flows_closed),
            drops: read(&stats.drops),
            connect: stats.connect.counts(),
            duration: stats.duration.counts(),
            sums: [stats.connect.sum_micros(), stats.duration.sum_micros()],
        }
    }

    fn add(&mut self, other: &Self) {
        add(&mut self.flows.counts, other.flows.counts);
        add(&mut self.closed, other.closed);
        add(&mut self.drops, other.drops);
        add(&mut self.connect, other.connect);
        add(&mut self.duration, other.duration);
        add(&mut self.sums, other.sums);
    }

    fn combine(&self, other: &Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            flows: FlowCounts {
                counts: combine(self.flows.counts, other.flows.counts, with),
            },
            closed: combine(self.closed, other.closed, with),
            drops: combine(self.drops, other.drops, with),
            connect: combine(self.connect, other.connect, with),
            duration: combine(self.duration, other.duration, with),
            sums: combine(self.sums, other.sums, with),
        }
    }

    /// The increase since `start`.
    pub(super) fn since(&self, start: &Self) -> Self {
        self.combine(start, u64::saturating_sub)
    }

    /// Open flows.
    pub(super) fn open(&self) -> u64 {
        self.flows.opened().saturating_sub(self.closed.iter().sum())
    }
}

/// Counts of one backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct BackendCounts {
    pub(super) flows: FlowCounts,
    pub(super) failed: Counts<{ FlowFailure::COUNT }>,
    /// Gauges: open flows, NAT ports in use.
    pub(super) open: u64,
    pub(super) nat_ports: u64,
}

impl BackendCounts {
    /// The current counts of `stats`.
    pub(super) fn read(stats: &BackendStats) -> Self {
        Self {
            flows: FlowCounts::read(&stats.inbound, &stats.outbound, &stats.flows_opened),
            failed: read(&stats.flows_failed),
            open: stats.flows.get(),
            nat_ports: stats.nat_ports.get(),
        }
    }

    fn add(&mut self, other: &Self) {
        add(&mut self.flows.counts, other.flows.counts);
        add(&mut self.failed, other.failed);
        self.open += other.open;
        self.nat_ports += other.nat_ports;
    }

    /// Gauges are as they are in `self`.
    fn combine(&self, other: &Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            flows: FlowCounts {
                counts: combine(self.flows.counts, other.flows.counts, with),
            },
            failed: combine(self.failed, other.failed, with),
            ..*self
        }
    }

    /// The increase since `start`.
    pub(super) fn since(&self, start: &Self) -> Self {
        self.combine(start, u64::saturating_sub)
    }
}

/// Counts of one worker that rates are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WorkerCounts {
    pub(super) busy_nanos: u64,
    pub(super) bursts: u64,
    pub(super) received: u64,
    pub(super) affinity_evicted: u64,
    /// rx_dropped, rx_ring_full, fill_ring_empty, rx_invalid, tx_invalid.
    pub(super) xsk: Counts<5>,
}

impl WorkerCounts {
    fn read(stats: &WorkerStats) -> Self {
        let port = &stats.port;
        Self {
            busy_nanos: stats.busy_nanos.get(),
            bursts: stats.bursts.get(),
            received: stats.received.get(),
            affinity_evicted: stats.affinity_evicted.get(),
            xsk: [
                &port.rx_dropped,
                &port.rx_ring_full,
                &port.fill_ring_empty,
                &port.rx_invalid,
                &port.tx_invalid,
            ]
            .map(Counter::get),
        }
    }
}

/// All counters at one moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    services: Vec<ServiceCounts>,
    backends: Vec<BackendCounts>,
    pub(super) workers: Vec<WorkerCounts>,
    /// Drops that belong to no service.
    pub(super) drops: Counts<{ DropReason::COUNT }>,
    /// Seconds that the CPU limit took away.
    pub(super) throttled: Option<f64>,
}

impl Sample {
    /// Adds up the counters of all workers, for the first `services` and `backends` slots.
    ///
    /// Cost: O(workers x slots).
    pub(super) fn read(
        at: Timestamp,
        workers: &[Arc<WorkerStats>],
        services: usize,
        backends: usize,
        throttled: Option<f64>,
    ) -> Self {
        let mut sample = Self {
            at,
            services: vec![ServiceCounts::default(); services],
            backends: vec![BackendCounts::default(); backends],
            workers: workers.iter().map(|stats| WorkerCounts::read(stats)).collect(),
            drops: [0; DropReason::COUNT],
            throttled,
        };
        for stats in workers {
            add(&mut sample.drops, read(&stats.drops));
            for (slot, sum) in (0..).map(ServiceSlot).zip(&mut sample.services) {
                sum.add(&ServiceCounts::read(stats.service(slot)));
            }
            for (slot, sum) in (0..).map(BackendSlot).zip(&mut sample.backends) {
                sum.add(&BackendCounts::read(stats.backend(slot)));
            }
        }
        sample
    }

    /// Counts of the owner of `slot`, who began at `baseline`.
    pub(super) fn service(&self, slot: ServiceSlot, baseline: Option<&ServiceStats>) -> ServiceCounts {
        let counts = self.services.get(slot.index()).copied().unwrap_or_default();
        let start = baseline.map(ServiceCounts::read).unwrap_or_default();
        counts.since(&start)
    }

    /// As [`Self::service`].
    pub(super) fn backend(&self, slot: BackendSlot, baseline: Option<&BackendStats>) -> BackendCounts {
        let counts = self.backends.get(slot.index()).copied().unwrap_or_default();
        let start = baseline.map(BackendCounts::read).unwrap_or_default();
        counts.since(&start)
    }
}

/// The samples of the last seconds, oldest first.
#[derive(Debug, Default)]
pub(super) struct Window {
    samples: VecDeque<Arc<Sample>>,
}

impl Window {
    /// Adds a sample and forgets those that are too old.
    pub(super) fn push(&mut self, sample: Sample) {
        let now = sample.at;
        self.samples.push_back(Arc::new(sample));
        // The oldest that is kept is at least as old as the window.
        while self
            .samples
            .get(1)
            .is_some_and(|second| now.since(second.at) >= WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// The sample that one taken at `now` is compared with.
    pub(super) fn start(&self, now: Timestamp) -> Option<Arc<Sample>> {
        self.samples
            .front()
            .filter(|oldest| now.since(oldest.at) >= SHORTEST)
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_duration(Duration::from_secs(seconds))
    }

    fn sample(seconds: u64) -> Sample {
        Sample::read(at(seconds), &[], 0, 0, None)
    }

    #[test]
    fn the_window_keeps_ten_seconds() {
        let mut window = Window::default();
        assert!(window.start(at(0)).is_none());
        for second in 0..=25 {
            window.push(sample(second));
        }
        assert_eq!(window.start(at(25)).unwrap().at, at(15));
        assert_eq!(window.samples.len(), 11);
    }

    #[test]
    fn a_window_that_is_too_short_has_no_rate() {
        let mut window = Window::default();
        window.push(sample(5));
        assert!(window.start(at(5)).is_none());
        assert_eq!(window.start(at(6)).unwrap().at, at(5));
    }

    #[test]
    fn the_owner_of_a_reused_slot_starts_at_its_baseline() {
        let workers = [Arc::new(WorkerStats::default()), Arc::new(WorkerStats::default())];
        let slot = ServiceSlot(1);
        let count = |packets| {
            for worker in &workers {
                worker.service(slot).inbound.packets.add(packets);
                worker.service(slot).flows_opened.add(1);
            }
        };
        count(100);
        let before = Sample::read(at(0), &workers, 2, 0, None);
        count(10);
        let baseline = ServiceStats::default();
        for worker in &workers {
            baseline.absorb(worker.service(slot));
        }
        count(3);
        let now = Sample::read(at(1), &workers, 2, 0, None);
        let counts = now.service(slot, Some(&baseline));
        assert_eq!((counts.flows.packets_in(), counts.flows.opened()), (6, 2));
        let start = before.service(slot, Some(&baseline));
        assert_eq!(counts.since(&start).flows.packets_in(), 6);
    }
}
