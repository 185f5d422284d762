//! Counters: each worker writes its own, and all threads may read them at any time.
//!
//! A counter has one writer, so adding is a plain load and store without a locked instruction.
//! Slots are stable and may be reused; a reader subtracts the values from when the slot was assigned.

use std::ops::Deref;

use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::backend::{BackendSlot, MAX_BACKENDS, MAX_SERVICES, ServiceSlot};
use crate::drop_reason::DropReason;
pub use crate::histogram::{CONNECT_BOUNDS, DURATION_BOUNDS, Histogram};
pub use crate::port_statistics::{PortCounters, PortStatistics};

/// A counter or gauge with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes back `n` that was added a moment ago. Only the owning worker may call this.
    #[inline]
    pub fn take_back(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(n), Relaxed);
    }

    /// Sets a gauge. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The current value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A gauge by which the control side decides: whoever reads a value sees everything that its writer did before. A
/// [`Counter`] promises nothing about other words, and on ARM they do become visible in another order.
#[derive(Debug, Default)]
pub struct Signal(AtomicU64);

impl Signal {
    /// Sets the value. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Release);
    }

    /// The current value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Acquire)
    }
}

/// Why a flow ended. Label values of `service_flows_closed_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CloseCause {
    /// Both sides sent FIN.
    Fin,
    /// One side sent RST.
    Rst,
    /// Idle for longer than its state allows.
    Idle,
    /// Its backend was removed and the drain time is over.
    Drain,
    /// Its backend is down.
    BackendDown,
    /// The interface is gone or has another address.
    InterfaceLost,
    /// A finished flow that made room for a new one.
    Reclaimed,
    /// A half-open TCP flow or a UDP flow that made room for a new one.
    Evicted,
    /// A program of this host uses its NAT port, or the port is reserved.
    PortTaken,
}

impl CloseCause {
    /// All causes, in the order of their discriminants.
    pub const ALL: [Self; 9] = [
        Self::Fin,
        Self::Rst,
        Self::Idle,
        Self::Drain,
        Self::BackendDown,
        Self::InterfaceLost,
        Self::Reclaimed,
        Self::Evicted,
        Self::PortTaken,
    ];
    /// Number of causes.
    pub const COUNT: usize = Self::ALL.len();

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Rst => "rst",
            Self::Idle => "idle",
            Self::Drain => "drain",
            Self::BackendDown => "backend_down",
            Self::InterfaceLost => "interface_lost",
            Self::Reclaimed => "reclaimed",
            Self::Evicted => "evicted",
            Self::PortTaken => "port_taken",
        }
    }
}

/// Why a backend failed a new flow. Label values of `backend_flows_failed_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FlowFailure {
    /// RST after SYN.
    Reset,
    /// No SYN-ACK until the flow timed out.
    Timeout,
    /// ICMP unreachable about the flow.
    Unreachable,
}

impl FlowFailure {
    /// All failures, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Reset, Self::Timeout, Self::Unreachable];
    /// Number of failures.
    pub const COUNT: usize = Self::ALL.len();

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Packets and bytes of one direction. Bytes count IP packets, without the Ethernet header.
#[derive(Debug, Default)]
pub struct Traffic {
    pub packets: Counter,
    pub bytes: Counter,
}

impl Traffic {
    /// Counts one packet.
    #[inline]
    pub fn count(&self, bytes: u64) {
        self.packets.add(1);
        self.bytes.add(bytes);
    }

    /// Takes back a packet that was counted and then not sent.
    pub fn uncount(&self, bytes: u64) {
        self.packets.take_back(1);
        self.bytes.take_back(bytes);
    }

    fn absorb(&self, other: &Self) {
        self.packets.add(other.packets.get());
        self.bytes.add(other.bytes.get());
    }
}

/// A counter for each drop reason, by [`DropReason::index`].
#[derive(Debug)]
pub struct DropCounters([Counter; DropReason::COUNT]);

/// By hand, since arrays of more than 32 elements have no default.
impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Deref for DropCounters {
    type Target = [Counter; DropReason::COUNT];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// One worker's counters of one service.
#[derive(Debug, Default)]
pub struct ServiceStats {
    /// Client to backend.
    pub inbound: Traffic,
    /// Backend to client.
    pub outbound: Traffic,
    pub flows_opened: Counter,
    pub flows_closed: [Counter; CloseCause::COUNT],
    pub drops: DropCounters,
    pub connect: Histogram<{ CONNECT_BOUNDS.len() + 1 }>,
    pub duration: Histogram<{ DURATION_BOUNDS.len() + 1 }>,
}

impl ServiceStats {
    /// Adds all counts of `other`. For sums and copies made on the control side.
    pub fn absorb(&self, other: &Self) {
        self.inbound.absorb(&other.inbound);
        self.outbound.absorb(&other.outbound);
        self.flows_opened.add(other.flows_opened.get());
        absorb_each(&self.flows_closed, &other.flows_closed);
        absorb_each(&*self.drops, &*other.drops);
        self.connect.absorb(&other.connect);
        self.duration.absorb(&other.duration);
    }

    /// Flows that are open now, on this worker.
    pub fn flows(&self) -> u64 {
        let closed: u64 = self.flows_closed.iter().map(Counter::get).sum();
        self.flows_opened.get().saturating_sub(closed)
    }
}

/// One worker's counters of one backend.
#[derive(Debug, Default)]
pub struct BackendStats {
    /// Client to backend.
    pub inbound: Traffic,
    /// Backend to client.
    pub outbound: Traffic,
    /// Flows that are open now.
    pub flows: Counter,
    /// NAT ports in use: one for each flow, also for a finished one that is kept for stragglers. The
    /// backend's slot is free when no worker has any.
    pub nat_ports: Signal,
    pub flows_opened: Counter,
    /// TCP flows whose SYN it answered by SYN-ACK.
    pub flows_answered: Counter,
    /// TCP flows whose client repeated its SYN, as it was not answered for a second.
    pub flows_unanswered: Counter,
    pub flows_failed: [Counter; FlowFailure::COUNT],
}

impl BackendStats {
    /// Adds all counts of `other`. For sums and copies made on the control side.
    pub fn absorb(&self, other: &Self) {
        self.inbound.absorb(&other.inbound);
        self.outbound.absorb(&other.outbound);
        self.flows.add(other.flows.get());
        self.nat_ports.set(self.nat_ports.get() + other.nat_ports.get());
        self.flows_opened.add(other.flows_opened.get());
        self.flows_answered.add(other.flows_answered.get());
        self.flows_unanswered.add(other.flows_unanswered.get());
        absorb_each(&self.flows_failed, &other.flows_failed);
    }
}

pub(crate) fn absorb_each(sums: &[Counter], others: &[Counter]) {
    for (sum, other) in sums.iter().zip(others) {
        sum.add(other.get());
    }
}

/// All counters of one worker.
#[derive(Debug)]
pub struct WorkerStats {
    services: Box<[ServiceStats]>,
    backends: Box<[BackendStats]>,
    /// Drops that belong to no service.
    pub drops: DropCounters,
    pub received: Counter,
    pub transmitted: Counter,
    pub bursts: Counter,
    /// Times that the worker slept and was woken.
    pub wakeups: Counter,
    /// Packets passed on to the worker that owns their flow.
    pub handoffs: Counter,
    /// Rejects sent: ICMP errors and TCP resets.
    pub answers: Counter,
    /// Rejects not sent because of their rate limit.
    pub answers_suppressed: Counter,
    /// Super-packets that were segmented.
    pub segmented: Counter,
    /// Segments of services with `clientAddress: toa` without room for the client's address.
    pub addresses_left_out: Counter,
    /// IPv4 packets that were fragmented.
    pub fragmented: Counter,
    /// Fragments that came before the first one of their datagram and waited for it.
    pub fragments_waited: Counter,
    /// Affinity entries evicted before they expired because the table was full.
    pub affinity_evicted: Counter,
    /// Events for the control side that found their ring full.
    pub events_lost: Counter,
    /// Time spent on bursts that had packets, in nanoseconds.
    pub busy_nanos: Counter,
    /// The CPU core that the worker is pinned to, and how often that has changed.
    pub core: Counter,
    pub core_moves: Counter,
    /// When the worker's loop last ran: nanoseconds on the workers' clock.
    pub heartbeat: Counter,
    /// Generation of the snapshot in use.
    pub generation: Signal,
    /// Live flows, and the capacity of this worker's part of the table.
    pub flow_entries: Counter,
    pub flow_capacity: Counter,
    /// Free frames of this worker.
    pub frames_free: Counter,
    /// Flows in the in-kernel path, and what its program did for them.
    pub fast_path: FastPathStats,
    /// Packets lost in the port's queues, read every 10 ms while the worker is awake.
    pub port: PortCounters,
}

/// One worker's part of the in-kernel path. Its packets count for services and backends too, but not as received or
/// transmitted by the worker.
#[derive(Debug, Default)]
pub struct FastPathStats {
    /// Flows that are in it now.
    pub flows: Counter,
    /// Flows put into it.
    pub promoted: Counter,
    /// Flows that found no room in it.
    pub full: Counter,
    /// What the program forwarded: client to backend, backend to client.
    pub traffic: [Traffic; 2],
}

impl Default for WorkerStats {
    fn default() -> Self {
        Self {
            services: std::iter::repeat_with(ServiceStats::default)
                .take(MAX_SERVICES)
                .collect(),
            backends: std::iter::repeat_with(BackendStats::default)
                .take(MAX_BACKENDS)
                .collect(),
            drops: DropCounters::default(),
            received: Counter::default(),
            transmitted: Counter::default(),
            bursts: Counter::default(),
            wakeups: Counter::default(),
            handoffs: Counter::default(),
            answers: Counter::default(),
            answers_suppressed: Counter::default(),
            segmented: Counter::default(),
            addresses_left_out: Counter::default(),
            fragmented: Counter::default(),
            fragments_waited: Counter::default(),
            affinity_evicted: Counter::default(),
            events_lost: Counter::default(),
            busy_nanos: Counter::default(),
            core: Counter::default(),
            core_moves: Counter::default(),
            heartbeat: Counter::default(),
            generation: Signal::default(),
            flow_entries: Counter::default(),
            flow_capacity: Counter::default(),
            frames_free: Counter::default(),
            fast_path: FastPathStats::default(),
            port: PortCounters::default(),
        }
    }
}

impl WorkerStats {
    /// The counters of a service. Slots come from snapshots, which stay below [`MAX_SERVICES`].
    #[inline]
    pub fn service(&self, slot: ServiceSlot) -> &ServiceStats {
        &self.services[slot.index()]
    }

    /// The counters of a backend. Slots come from snapshots, which stay below [`MAX_BACKENDS`].
    #[inline]
    pub fn backend(&self, slot: BackendSlot) -> &BackendStats {
        &self.backends[slot.index()]
    }

    /// Counts a packet that was not forwarded.
    #[inline]
    pub fn drop_packet(&self, service: Option<ServiceSlot>, reason: DropReason) {
        match service {
            Some(slot) => self.service(slot).drops[reason.index()].add(1),
            None => self.drops[reason.index()].add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_count_at_their_upper_bounds() {
        let histogram = Histogram::<{ CONNECT_BOUNDS.len() + 1 }>::default();
        for micros in [1, 50, 51, 3_000_000, 3_000_001] {
            histogram.observe(micros, &CONNECT_BOUNDS);
        }
        let counts = histogram.counts();
        assert_eq!((counts[0], counts[1], counts[14], counts[15]), (2, 1, 1, 1));
        assert_eq!(histogram.sum_micros(), 6_000_103);
    }

    #[test]
    fn drops_without_a_service_are_counted_separately() {
        let stats = WorkerStats::default();
        stats.drop_packet(Some(ServiceSlot(3)), DropReason::NoBackend);
        stats.drop_packet(None, DropReason::Malformed);
        assert_eq!(
            stats.service(ServiceSlot(3)).drops[DropReason::NoBackend.index()].get(),
            1
        );
        assert_eq!(stats.drops[DropReason::Malformed.index()].get(), 1);
        assert_eq!(stats.drops[DropReason::NoBackend.index()].get(), 0);
    }
}

/// All interleavings, by the model checker. See [`crate::sync`].
#[cfg(all(test, feature = "loom"))]
mod interleavings {
    use loom::sync::Arc;

    use super::*;

    /// A slot is freed when its last NAT port is free and no worker uses an older snapshot: whoever sees the generation
    /// sees the ports that flows of the older one have taken.
    #[test]
    fn who_sees_a_signal_sees_what_was_before_it() {
        loom::model(|| {
            let words = Arc::new((Counter::default(), Signal::default(), Signal::default()));
            let worker = {
                let words = Arc::clone(&words);
                loom::thread::spawn(move || {
                    let (packets, ports, generation) = &*words;
                    packets.add(7);
                    ports.set(1);
                    generation.set(2);
                    ports.set(0);
                })
            };
            let (packets, ports, generation) = &*words;
            let was_freed = generation.get() == 2 && ports.get() == 0;
            if generation.get() == 2 {
                assert_eq!(packets.get(), 7);
            }
            if was_freed {
                worker.join().unwrap();
                assert_eq!(
                    ports.get(),
                    0,
                    "a port that was taken before the generation was seen"
                );
            }
        });
    }
}
