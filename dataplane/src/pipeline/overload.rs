//! Overload by new flows and by packets of no flow, such as a flood of SYNs, ACKs or datagrams with forged sources: what the
//! worker cannot take is refused without state and without a response, before a packet of an established flow is lost.
//!
//! The measure is the receive ring. When the kernel has lost packets there in three intervals in a row, and a good part
//! of the packets would open flows or belong to none, the worker admits half of the new flows that it admitted until then; less after
//! each further interval with a loss, more after each without. Once nothing was refused for a second, it is over.
//!
//! Under overload, new flows are admitted in this order:
//!
//! 1. those of proven sources ([`ProvenSources`]), each up to a rate of its own;
//! 2. retransmissions of refused SYNs ([`RefusedSyns`]): what a client does that is not proven, and a flood does not;
//! 3. all others.
//!
//! The steer program does that before a packet costs a copy into the worker's ring ([`crate::shed`]); where there is none, the
//! worker does it. A loss in front of one worker is one of all that share the interface.
//!
//! Packets that belong to no flow and open none are strays; the program admits a thousand of them per second, since a client
//! may wait for the reset of a connection that is gone. It knows the flows from [`KnownFlows`].
//!
//! The last two have the admitted rate, each for itself. A refused SYN costs a look at two tables of fixed size. It is not
//! answered: a SYN cookie would cost a transmission, which is what a worker runs out of first (perf/README.md).

use vl3lb_common::{Duration, Timestamp};

use super::known_flows::{self, KnownFlows};
use super::limit::{Limit, Rate, TokenBucket};
use super::proven::{LIFETIME, ProvenSources};
use super::refused_syns::{RefusedSyns, Syn};
use crate::flow::{FlowId, FlowTable};
use crate::shed::Shed;

/// New flows per second that are admitted in any case.
const LEAST: u64 = 1_000;
/// Packets per second that belong to no flow and open none, which the program admits.
const STRAYS: u64 = 1_000;
/// Intervals with a loss before new flows are refused: one may be a moment without the processor.
const LOSSES: u32 = 3;
/// If fewer packets than one in this many would open flows, refusing them is no remedy.
const SHARE: u64 = 4;
/// Overload is over when nothing was refused for this long.
const QUIET: Duration = Duration::from_secs(1);
/// An interval that took longer admits no more new flows in the next one, in nanoseconds.
const LONGEST_INTERVAL: u64 = 20_000_000;
/// Under overload, new flows of one proven source.
const OF_SOURCE: Rate = Rate::new(20_000, 2_000);

/// A worker's admission of new flows.
#[derive(Debug)]
pub(super) struct Overload {
    proven: ProvenSources,
    refused: RefusedSyns,
    of_source: Limit,
    interval: Interval,
    /// Intervals with a loss in a row.
    losses: u32,
    /// Present under overload.
    shedding: Option<Shedding>,
    /// Where a program in the kernel refuses instead of the worker.
    shed: Option<Shed>,
    /// What it knows of this worker's flows.
    known: KnownFlows,
}

/// What came in since the last look at the receive ring.
#[derive(Debug, Clone, Copy, Default)]
struct Interval {
    since: Timestamp,
    /// Packets that would open flows or belong to none, but for those of proven sources under overload.
    offered: u64,
    admitted: u64,
}

/// How many new flows are admitted.
#[derive(Debug, Clone, Copy)]
struct Shedding {
    per_second: u64,
    retransmitted: TokenBucket,
    others: TokenBucket,
    /// When one was refused last.
    refused_at: Timestamp,
}

impl Overload {
    pub(super) fn new() -> Self {
        Self {
            proven: ProvenSources::default(),
            refused: RefusedSyns::default(),
            of_source: Limit::new(Rate::new(u64::MAX, u64::MAX), OF_SOURCE),
            interval: Interval::default(),
            losses: 0,
            shedding: None,
            shed: None,
            known: KnownFlows::default(),
        }
    }

    /// From now on a program refuses new flows under overload, or the worker does it alone.
    pub(super) fn set_shed(&mut self, shed: Option<Shed>) {
        self.shed = shed;
        self.known = KnownFlows::default();
    }

    /// Notes a flow that was opened, if load is shed, so that its packets pass.
    #[inline]
    pub(super) fn opened(&self, flows: &FlowTable, id: FlowId, now: Timestamp) {
        if self.known.is_needed()
            && let Some(shed) = &self.shed
        {
            known_flows::note(flows, id, shed, now);
        }
    }

    /// Notes some more of the flows of before, if load is shed.
    #[inline]
    pub(super) fn note_flows(&mut self, flows: &FlowTable, now: Timestamp) {
        if self.known.is_walking()
            && let Some(shed) = &self.shed
        {
            self.known.walk(flows, shed, now);
        }
    }

    /// Whether flows of before are to be noted.
    pub(super) const fn is_noting(&self) -> bool {
        self.known.is_walking()
    }

    /// The program of this worker's interface, if it sheds load.
    pub(super) const fn shed(&self) -> Option<&Shed> {
        self.shed.as_ref()
    }

    /// Counts a packet that belongs to no flow and opens none.
    pub(super) const fn count_stray(&mut self) {
        self.interval.offered += 1;
    }

    /// Whether `source` has completed a handshake lately.
    fn is_proven(&self, source: &[u8; 16], now: Timestamp) -> bool {
        let oldest = Timestamp(now.0.saturating_sub(nanos(LIFETIME)));
        let elsewhere = |shed: &Shed| shed.is_proven(source, oldest);
        self.proven.knows(source, now) || self.shed.as_ref().is_some_and(elsewhere)
    }

    /// Whether new flows are refused.
    pub(super) const fn is_active(&self) -> bool {
        self.shedding.is_some()
    }

    /// Notes that `source` has completed a handshake.
    pub(super) fn prove(&mut self, source: &[u8; 16], now: Timestamp) {
        self.proven.prove(source, now);
        if let Some(shed) = &self.shed {
            shed.prove(source, now);
        }
    }

    /// Whether a packet may open a flow; `syn` unless it is a datagram. The program judges whole packets only.
    #[inline]
    pub(super) fn admits(
        &mut self,
        source: &[u8; 16],
        syn: Option<Syn>,
        is_whole: bool,
        now: Timestamp,
    ) -> bool {
        if self.shedding.is_none() {
            self.interval.offered += 1;
            self.interval.admitted += 1;
            return true;
        }
        self.admits_under_overload(source, syn, is_whole, now)
    }

    #[inline(never)]
    fn admits_under_overload(
        &mut self,
        source: &[u8; 16],
        syn: Option<Syn>,
        is_whole: bool,
        now: Timestamp,
    ) -> bool {
        let is_proven = self.is_proven(source, now);
        if is_proven && self.of_source.allows(source, now) {
            return true;
        }
        self.interval.offered += 1;
        // The program passes proven sources whatever they send, and others as the worker has said.
        if self.shed.is_some() && is_whole && !is_proven {
            self.interval.admitted += 1;
            return true;
        }
        let Some(shedding) = &mut self.shedding else {
            return true;
        };
        let is_retransmission = syn.is_some_and(|syn| self.refused.is_retransmission(&syn, now));
        let admitted = is_retransmission && shedding.retransmitted.take() || shedding.others.take();
        if admitted {
            self.interval.admitted += 1;
        } else {
            shedding.refused_at = now;
        }
        admitted
    }

    /// Ends an interval in which the worker `received` packets and the kernel `lost` packets for lack of room in the
    /// receive ring. Returns the number of packets that the program has refused since the last one.
    pub(super) fn end_interval(&mut self, received: u64, lost: u64, now: Timestamp) -> u64 {
        let (lost, refused) = match &mut self.shed {
            Some(shed) => (shed.share_lost(lost), shed.take_dropped()),
            None => (lost, 0),
        };
        let received = received + refused;
        let begun = Interval {
            since: now,
            ..Interval::default()
        };
        let Interval {
            since,
            offered,
            admitted,
        } = std::mem::replace(&mut self.interval, begun);
        let offered = offered + refused;
        let is_flooded = lost > 0 && offered * SHARE >= received;
        self.losses = if is_flooded { self.losses + 1 } else { 0 };
        if let Some(shedding) = &mut self.shedding {
            if is_flooded {
                shedding.per_second = (shedding.per_second / 2).max(LEAST);
            } else {
                shedding.per_second = shedding.per_second.saturating_add(shedding.per_second / 50);
            }
            if refused > 0 {
                shedding.refused_at = now;
            }
            shedding.refill(now);
            if now.since(shedding.refused_at) >= QUIET {
                self.shedding = None;
            }
        } else if self.losses >= LOSSES {
            let nanos = now.since(since).as_nanos().max(1);
            let per_second = u128::from(admitted) * 1_000_000_000 / nanos / 2;
            let per_second = u64::try_from(per_second).unwrap_or(u64::MAX).max(LEAST);
            let empty = TokenBucket::empty(now);
            self.shedding = Some(Shedding {
                per_second,
                retransmitted: empty,
                others: empty,
                refused_at: now,
            });
        }
        self.instruct(now, since);
        self.known
            .follow(self.shed.as_ref().is_some_and(Shed::is_needed), now);
        refused
    }

    /// Sets the numbers of flows and strays that the program admits until the end of the next interval; `since` is the begin of this one.
    fn instruct(&self, now: Timestamp, since: Timestamp) {
        let Some(shed) = &self.shed else { return };
        match &self.shedding {
            Some(shedding) => {
                let nanos = nanos(now.since(since)).min(LONGEST_INTERVAL);
                let part = |per_second: u64| {
                    let packets = u128::from(per_second) * u128::from(nanos) / 1_000_000_000;
                    u64::try_from(packets).unwrap_or(u64::MAX).max(1)
                };
                shed.admit(part(shedding.per_second), part(STRAYS), now);
            }
            None => shed.end(),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Shedding {
    /// The tokens of an interval. A bucket holds a fiftieth of a second's, for an interval that is late.
    fn refill(&mut self, now: Timestamp) {
        let rate = Rate::new(self.per_second, (self.per_second / 50).max(1));
        self.retransmitted.refill(rate, now);
        self.others.refill(rate, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);

    /// An overload with its time, in intervals of 10 ms.
    struct World {
        overload: Overload,
        now: Timestamp,
        syns: u32,
    }

    impl World {
        fn new() -> Self {
            Self {
                overload: Overload::new(),
                now: Timestamp(0),
                syns: 0,
            }
        }

        /// An interval with so many SYNs, each of another source; how many were admitted.
        fn interval(&mut self, syns: u32, others: u64, lost: u64) -> u32 {
            let admitted = (0..syns).filter(|_| {
                self.syns += 1;
                let mut source = [0; 16];
                source[10..].copy_from_slice(&[0xff, 0xff, 10, 64, 0, 0]);
                source[13..].copy_from_slice(&self.syns.to_be_bytes()[1..]);
                let syn = Syn {
                    source,
                    ports: [40_000, 8080],
                    sequence: self.syns,
                };
                self.overload.admits(&source, Some(syn), true, self.now)
            });
            let admitted = u32::try_from(admitted.count()).unwrap();
            self.now = self.now + INTERVAL;
            self.overload
                .end_interval(u64::from(syns) + others, lost, self.now);
            admitted
        }
    }

    #[test]
    fn one_moment_without_the_processor_is_no_overload() {
        let mut world = World::new();
        for _ in 0..10 {
            assert_eq!(world.interval(1_000, 0, 50), 1_000);
            assert_eq!(world.interval(1_000, 0, 50), 1_000);
            assert_eq!(world.interval(1_000, 0, 0), 1_000);
        }
        assert!(!world.overload.is_active());
    }

    #[test]
    fn established_flows_that_are_too_much_are_no_reason_to_refuse_new_ones() {
        let mut world = World::new();
        for _ in 0..10 {
            assert_eq!(world.interval(10, 31, 50), 10);
        }
        assert!(!world.overload.is_active());
        for _ in 0..3 {
            world.interval(10, 30, 50);
        }
        assert!(world.overload.is_active());
    }

    #[test]
    fn as_many_are_admitted_as_the_worker_can_take() {
        let mut world = World::new();
        // A worker that can take 300 new flows in each interval, of 1,000.
        let mut admitted = 1_000;
        let mut history = Vec::new();
        for _ in 0..1_000 {
            let lost = if admitted > 300 { 100 } else { 0 };
            admitted = world.interval(1_000, 0, lost);
            history.push(admitted);
        }
        assert_eq!(history[..3], [1_000; 3], "before it is noticed");
        let later = &history[100..];
        let sum: u32 = later.iter().sum();
        let mean = sum / u32::try_from(later.len()).unwrap();
        assert!((150..300).contains(&mean), "{mean}");
        let most = later.iter().max();
        assert!(most < Some(&330), "{most:?}");
        let too_many = later.iter().filter(|&&admitted| admitted > 300).count();
        assert!(too_many < 50, "{too_many} of 900");
    }

    #[test]
    fn a_worker_that_loses_packets_whatever_it_refuses_admits_some() {
        let mut world = World::new();
        for _ in 0..50 {
            world.interval(500, 0, 1_000);
        }
        let second: u32 = (0..100).map(|_| world.interval(500, 0, 1_000)).sum();
        assert!((LEAST..LEAST + 10).contains(&second.into()), "{second}");
    }

    #[test]
    fn overload_is_over_a_second_after_the_last_refusal() {
        let mut world = World::new();
        for _ in 0..50 {
            world.interval(10_000, 0, 100);
        }
        for _ in 0..98 {
            world.interval(0, 100, 0);
            assert!(world.overload.is_active());
        }
        for _ in 0..3 {
            world.interval(0, 100, 0);
        }
        assert!(!world.overload.is_active());
        assert_eq!(world.interval(10_000, 0, 0), 10_000);
    }

    #[test]
    fn a_proven_source_has_a_rate_of_its_own() {
        let mut world = World::new();
        let source = [1; 16];
        world.overload.prove(&source, world.now);
        for _ in 0..50 {
            world.interval(10_000, 0, 100);
        }
        let admitted = |world: &mut World, packets: u32| {
            (0..packets)
                .filter(|_| world.overload.admits(&source, None, true, world.now))
                .count()
        };
        assert_eq!(admitted(&mut world, 2_000), 2_000);
        assert!(admitted(&mut world, 2_000) < 50);
        for _ in 0..10 {
            world.interval(10_000, 0, 100);
        }
        assert!(admitted(&mut world, 2_000) >= 2_000, "20,000 a second");
    }
}
