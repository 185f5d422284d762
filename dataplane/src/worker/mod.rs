//! One pinned thread that owns one port, one engine and its flows.
//!
//! The loop of a worker, [`Worker::step`]: receive a burst from its queues and from the other workers, let
//! the engine decide, transmit. It reads the clock once per round, and neither locks nor allocates nor logs
//! on the packet path. It polls while packets arrive; 50 us after the last one, or at once under a CPU quota
//! (`quota.rs`), it sleeps until a packet, another worker or the control side wakes it.
//!
//! The control side reaches a worker through its [`Inbox`] only.

mod deliver;
mod doorbell;
pub(crate) mod handoff;
mod inbox;
#[cfg(all(test, feature = "loom"))]
mod interleavings;
mod pinning;
mod query;
mod quota;
pub(crate) mod relay;
mod sleep;
#[cfg(test)]
mod tests;
mod thread;
mod waiting;

use std::sync::Arc;

use vl3lb_common::stats::{PortStatistics, WorkerStats};
use vl3lb_common::{DropReason, Duration, Timestamp};

use crate::clock::Clock;
use crate::pipeline::{Engine, Origin, Ticket, Unsent, Verdict};
use crate::port::{Frame, Port, fitting_frames, packet_frames, packets_in};

pub(crate) use doorbell::Doorbell;
use handoff::Handoff;
pub(crate) use inbox::Inbox;
pub(crate) use pinning::Pinning;
use relay::Relay;
pub(crate) use thread::spawn;
use waiting::Waiting;

/// Frames taken from each source in one round.
const BURST: usize = 64;
/// Frames that may wait for room in the transmit ring; the newest beyond that are dropped.
const BACKLOG: usize = 512;
/// Free frames below which no fragment waits for the first one of its datagram.
const LEAST_FREE: usize = 128;
/// Time between two sweeps under load.
const SWEEP_INTERVAL: Duration = Duration::from_micros(500);
/// Time between two readings of the kernel's counters, by which overload is noticed.
const STATISTICS_INTERVAL: Duration = Duration::from_millis(10);
/// Rounds in which a stopping worker processes packets that have already arrived.
const LAST_ROUNDS: usize = 64;

/// A worker's whole state. It moves into its thread, and out again when it has stopped.
#[derive(Debug)]
pub(crate) struct Worker<P: Port> {
    port: P,
    engine: Engine,
    handoff: Handoff<P::Frame>,
    /// For packets of clients that have no room at their home.
    overflow: Handoff<P::Frame>,
    /// Present if a worker cannot transmit by itself.
    relay: Option<Relay<P::Frame>>,
    inbox: Arc<Inbox>,
    stats: Arc<WorkerStats>,
    /// Packets to decide about; the verdict on each and the number of its frames.
    burst: Vec<P::Frame>,
    verdicts: Vec<(Verdict, usize)>,
    /// One packet to be handed over or segmented.
    packet: Vec<P::Frame>,
    /// Fragments that wait for the first one of their datagram.
    waiting: Waiting<P::Frame>,
    /// One of them that need not wait any longer.
    resumed: Vec<P::Frame>,
    /// Packets to send.
    outgoing: Vec<P::Frame>,
    sweep_due: Timestamp,
    statistics_due: Timestamp,
    /// The port's statistics as last read.
    statistics: PortStatistics,
    /// Packets since then.
    interval_packets: u64,
    /// When the last round began, if it had packets.
    busy_since: Option<Timestamp>,
    /// The port's descriptor reports an error: sleep on the doorbell alone.
    polling_disabled: bool,
    pinning: Pinning,
    /// How long to poll without a packet before sleeping.
    busy_poll_timeout: Duration,
    /// Whether segments or fragments of a packet are among the packets to send that came in this round.
    segmented: bool,
}

impl<P: Port> Worker<P> {
    /// A worker that has not started.
    pub(crate) fn new(
        port: P,
        engine: Engine,
        [handoff, overflow]: [Handoff<P::Frame>; 2],
        relay: Option<Relay<P::Frame>>,
        inbox: Arc<Inbox>,
        stats: Arc<WorkerStats>,
    ) -> Self {
        let busy_poll_timeout = quota::busy_poll_timeout(quota::cpus(), handoff.workers());
        Self {
            port,
            engine,
            handoff,
            overflow,
            relay,
            inbox,
            stats,
            burst: Vec::with_capacity(4 * BURST),
            verdicts: Vec::with_capacity(4 * BURST),
            packet: Vec::with_capacity(BURST),
            waiting: Waiting::new(),
            resumed: Vec::with_capacity(BURST),
            outgoing: Vec::with_capacity(4 * BACKLOG),
            sweep_due: Timestamp::default(),
            statistics_due: Timestamp::default(),
            statistics: PortStatistics::default(),
            interval_packets: 0,
            busy_since: None,
            polling_disabled: false,
            pinning: Pinning::default(),
            busy_poll_timeout,
            segmented: false,
        }
    }

    /// Runs until a stop is requested, then processes packets that have already arrived.
    pub(crate) fn run(&mut self, clock: Clock) {
        let mut last_work = clock.now();
        while !self.inbox.is_stopped() {
            let now = clock.now();
            if self.step(now) {
                last_work = now;
            } else if now.since(last_work) < self.busy_poll_timeout {
                // Another thread may need this core to produce the next packet.
                std::thread::yield_now();
            } else {
                self.sleep(clock);
            }
        }
        for _ in 0..LAST_ROUNDS {
            if !self.step(clock.now()) {
                break;
            }
        }
    }

    /// One round of the loop. Returns whether there was any work.
    pub(crate) fn step(&mut self, now: Timestamp) -> bool {
        self.stats.heartbeat.set(now.0);
        self.count_busy_time(now);
        let switched = self.switch_snapshot();
        self.engine.update_capture(now);

        let received = self.receive_from_queues(now);
        let handed_over = self.receive_from_workers(now);
        self.resume_waiting(now);
        let relayed = self.receive_to_relay();
        self.send(now);

        let packets = received + handed_over;
        self.interval_packets += packets;
        if packets > 0 {
            self.stats.bursts.add(1);
            self.busy_since = Some(now);
        }
        let queried = self.answer_query(now);
        self.housekeeping(now);
        // A full burst: more packets wait, which the next ones of their flows must not overtake.
        let is_drained = packets < BURST as u64 && self.outgoing.is_empty();
        self.engine.tend_fast_path(now, is_drained);
        let is_noting = self.engine.note_flows(now);
        let is_folding = self.engine.is_folding() || self.engine.is_reviewing_captured();
        let is_behind = self.engine.is_urgent() || is_folding || is_noting;
        packets > 0 || relayed || switched || queried || is_behind
    }

    /// Counts the time since the begin of the last round, if it had packets.
    fn count_busy_time(&mut self, now: Timestamp) {
        if let Some(since) = self.busy_since.take() {
            let nanos = now.0.saturating_sub(since.0);
            self.stats.busy_nanos.add(nanos);
            self.pinning.note_round(Duration::from_nanos(nanos));
        }
    }

    fn switch_snapshot(&mut self) -> bool {
        let Some(snapshot) = self.inbox.snapshots.take() else {
            return false;
        };
        let generation = snapshot.generation;
        let used = self.engine.set_snapshot(snapshot);
        self.inbox.snapshots.give_back(used);
        // Last, because its readers rely on the switch.
        self.stats.generation.set(generation.0);
        true
    }

    fn receive_from_queues(&mut self, now: Timestamp) -> u64 {
        self.port.receive(&mut self.burst, BURST);
        let received = self.forward(Origin::Queue, now);
        self.stats.received.add(received);
        received
    }

    /// Packets of flows that this worker owns, received by others. Wakes the workers that packets were
    /// handed over to in this round.
    fn receive_from_workers(&mut self, now: Timestamp) -> u64 {
        self.handoff.receive(&mut self.burst, BURST);
        let handed_over = self.forward(Origin::Handoff, now);
        self.overflow.receive(&mut self.burst, BURST);
        let overflowed = self.forward(Origin::Overflow, now);
        self.handoff.ring();
        self.overflow.ring();
        handed_over + overflowed
    }

    /// Packets that this worker transmits for others.
    fn receive_to_relay(&mut self) -> bool {
        match &mut self.relay {
            Some(relay) => relay.receive(&mut self.outgoing, BURST) > 0,
            None => false,
        }
    }

    /// The engine decides about all packets of the burst; then the verdicts are carried out in order.
    /// Returns the number of packets.
    fn forward(&mut self, origin: Origin, now: Timestamp) -> u64 {
        self.engine
            .forward_burst(&mut self.burst, origin, now, &mut self.verdicts);
        // Before the SYNs for which those connections made room: they may have the same NAT ports.
        self.reset_orphans(now);
        let packets = self.verdicts.len() as u64;
        let (mut burst, mut verdicts) = (
            std::mem::take(&mut self.burst),
            std::mem::take(&mut self.verdicts),
        );
        let mut frames = burst.drain(..);
        for (verdict, count) in verdicts.drain(..) {
            self.carry_out(verdict, frames.by_ref().take(count), origin, now);
        }
        drop(frames);
        (self.burst, self.verdicts) = (burst, verdicts);
        packets
    }

    /// Carries out the verdict on a packet, which came in by `origin`.
    #[inline(always)]
    fn carry_out(
        &mut self,
        verdict: Verdict,
        mut packet: impl Iterator<Item = P::Frame>,
        origin: Origin,
        now: Timestamp,
    ) {
        match verdict {
            Verdict::Transmit => {
                let start = self.outgoing.len();
                self.outgoing.extend(packet);
                if self.outgoing.len() > start + 1 && !self.port.is_sendable(&self.outgoing[start..]) {
                    self.drop_outgoing(start, Unsent::Whole, DropReason::TxRefused, now);
                }
            }
            Verdict::Deliver => {
                self.packet.extend(packet);
                self.deliver(now);
            }
            Verdict::Reject => {
                if let Some(mut answer) = packet.next() {
                    let is_local = answer.is_local();
                    answer.set_continues(false);
                    if is_local {
                        self.packet.push(answer);
                        self.deliver(now);
                    } else {
                        self.outgoing.push(answer);
                    }
                }
                packet.for_each(|frame| self.port.release(frame));
            }
            Verdict::Segment { .. } | Verdict::Fragment { .. } | Verdict::Insert { .. } => {
                self.packet.extend(packet);
                self.segmented = true;
                self.engine
                    .make_anew(verdict, &mut self.port, &self.packet, now, &mut self.outgoing);
                self.packet.drain(..).for_each(|frame| self.port.release(frame));
            }
            Verdict::Wait(ticket) => self.keep(ticket, packet, origin, now),
            Verdict::Handoff(to) | Verdict::Overflow(to) => {
                self.packet.extend(packet);
                let rings = match verdict {
                    Verdict::Overflow(_) => &mut self.overflow,
                    _ => &mut self.handoff,
                };
                if rings.send(to, &mut self.packet) {
                    self.stats.handoffs.add(1);
                } else {
                    self.engine
                        .drop_unsent(&self.packet, Unsent::Whole, DropReason::HandoffFull, now);
                    self.packet.drain(..).for_each(|frame| self.port.release(frame));
                }
            }
            Verdict::Drop => packet.for_each(|frame| self.port.release(frame)),
        }
    }

    /// Keeps a fragment that came before the first one of its datagram, unless few frames are free.
    fn keep(
        &mut self,
        ticket: Ticket,
        packet: impl Iterator<Item = P::Frame>,
        origin: Origin,
        now: Timestamp,
    ) {
        if self.port.free_frames() >= LEAST_FREE {
            self.waiting.keep(ticket, origin, packet);
            return;
        }
        self.packet.extend(packet);
        let reason = DropReason::UmemExhausted;
        self.engine.drop_undecided(&self.packet, reason, now);
        self.packet.drain(..).for_each(|frame| self.port.release(frame));
    }

    /// Goes on with fragments whose first one has come, and drops those that waited in vain.
    fn resume_waiting(&mut self, now: Timestamp) {
        let mut packet = std::mem::take(&mut self.resumed);
        while let Some(release) = self.engine.next_release() {
            while let Some(origin) = self.waiting.take(release.ticket, &mut packet) {
                let verdict = match release.outcome {
                    Ok(()) => self.engine.resume(&mut packet, origin, now),
                    Err(reason) => {
                        self.engine.drop_undecided(&packet, reason, now);
                        Verdict::Drop
                    }
                };
                self.carry_out(verdict, packet.drain(..), origin, now);
            }
        }
        self.resumed = packet;
    }

    /// Transmits as many packets as there is room for, and drops those that exceed the backlog.
    fn send(&mut self, now: Timestamp) {
        if self.outgoing.is_empty() && self.port.in_flight() == 0 {
            return;
        }
        match &mut self.relay {
            // Counted by the worker that sends them.
            Some(relay) if relay.is_needed() => relay.transmit(&mut self.outgoing),
            _ => {
                let before = packets_in(&self.outgoing);
                self.port.transmit(&mut self.outgoing);
                self.stats.transmitted.add(before - packets_in(&self.outgoing));
            }
        }
        let keep = fitting_frames(&self.outgoing, BACKLOG);
        // Those are of this round.
        let unsent = if std::mem::take(&mut self.segmented) {
            Unsent::Part
        } else {
            Unsent::Whole
        };
        self.drop_outgoing(keep, unsent, DropReason::TxRingFull, now);
    }

    /// Drops the packets to send from frame `start` on.
    fn drop_outgoing(&mut self, start: usize, unsent: Unsent, reason: DropReason, now: Timestamp) {
        let mut rest = &self.outgoing[start..];
        while !rest.is_empty() {
            let (packet, after) = rest.split_at(packet_frames(rest));
            self.engine.drop_unsent(packet, unsent, reason, now);
            rest = after;
        }
        for frame in self.outgoing.drain(start..) {
            self.port.release(frame);
        }
    }

    /// Timed work: sweeps and statistics.
    fn housekeeping(&mut self, now: Timestamp) {
        self.stats.frames_free.set(self.port.free_frames() as u64);
        if now >= self.sweep_due || self.engine.is_urgent() {
            self.engine.sweep(now);
            self.sweep_due = now + SWEEP_INTERVAL;
        }
        self.reset_orphans(now);
        if now >= self.statistics_due {
            let lost = self.read_statistics();
            self.engine
                .end_interval(std::mem::take(&mut self.interval_packets), lost, now);
            self.review_pinning(now);
            self.statistics_due = now + STATISTICS_INTERVAL;
        }
    }

    /// Returns the number of packets that the port has lost since the last reading.
    fn read_statistics(&mut self) -> u64 {
        let now = self.port.statistics();
        self.stats.port.add_since(&self.statistics, &now);
        let before = std::mem::replace(&mut self.statistics, now);
        now.lost_since(&before)
    }

    /// Releases every frame that this worker still has, and returns its port and engine. Call it when all
    /// workers have stopped: others may hand packets over to this one until then.
    pub(crate) fn close(mut self) -> (P, Engine) {
        for _ in 0..LAST_ROUNDS {
            self.port.transmit(&mut self.outgoing);
            if self.outgoing.is_empty() && self.port.in_flight() == 0 {
                break;
            }
        }
        self.read_statistics();
        let mut waiting = self.handoff.drain();
        waiting.extend(self.overflow.drain());
        if let Some(relay) = &mut self.relay {
            waiting.extend(relay.drain());
        }
        for frame in waiting
            .into_iter()
            .chain(self.outgoing)
            .chain(self.burst)
            .chain(self.packet)
            .chain(self.waiting.into_frames())
        {
            self.port.release(frame);
        }
        (self.port, self.engine)
    }
}
