//! What happens to one packet: the whole decision, as named steps.
//!
//! [`Engine::forward`] sees bytes, time and tables, and returns a [`Verdict`]; it owns no socket and
//! reads no clock, so tests, benchmarks and fuzzers run exactly this code. One engine belongs to
//! one worker. Every packet that is not forwarded is counted under a reason, here or by the worker.
//!
//! What every packet of a known flow goes through is `inline(always)`: else the compiler makes calls of
//! it and passes packet, key and flow through memory, 5 to 10% of the whole.

mod affinity;
mod burst;
mod closing;
mod early_selection;
mod fragment;
mod icmp_error;
mod limit;
mod next_hop;
mod reject;
mod reply;
mod request;
#[cfg(test)]
mod tests;
mod tuple;

use std::io;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use rand::SeedableRng;
use rand::rngs::StdRng;
use vl3lb_common::addr::to_octets;
use vl3lb_common::flow_feed::FlowFeed;
use vl3lb_common::flow_query::{FlowSlice, WorkerEvent};
use vl3lb_common::snapshot::MAX_SERVICES;
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{DropReason, MacAddr, ServiceSlot, Snapshot, Timestamp};

use crate::config::Timeouts;
use crate::flow::{AffinityTable, FeedWriter, FlowTable, Lifetimes};
use crate::packet::{self, Framing, Parsed, Translation, Transport};
use crate::port::{Frame, Port, packet_len};

use affinity::FlowPlacement;
use burst::{Lookup, Prepared, Subject};
use early_selection::EarlySelection;
use fragment::FragmentTable;
use limit::TokenBucket;
use tuple::Tuple;

/// What to do with a packet.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Translated in place: send all its frames.
    Transmit,
    /// Translated in place, but longer than the MTU: cut it with [`Engine::segment`].
    Segment { mss: u16 },
    /// The first frame was rewritten into an answer to the sender: send it, release the others.
    Reject,
    /// The packet's flow belongs to that worker.
    Handoff(u16),
    /// Counted; release its frames.
    Drop,
}

/// How a packet came to this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From the receive queue.
    Queue,
    /// From another worker, which found that it belongs here.
    Handoff,
}

/// What else there is to know of a packet with ports.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    /// None for UDP.
    flags: packet::TcpFlags,
    origin: Origin,
    now: Timestamp,
}

/// What a worker's engine is made with.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub worker: u16,
    pub workers: u16,
    /// Capacity of this worker's flow table; that of its affinity table follows from it.
    pub flows: u32,
    pub timeouts: Timeouts,
    /// Seeds port selection and the flow table's hash.
    pub seed: u64,
    pub framing: Framing,
}

/// A worker's packet logic: its flow table, the snapshot in use and its counters.
pub struct Engine {
    worker: u16,
    workers: u16,
    timeouts: Timeouts,
    lifetimes: Lifetimes,
    framing: Framing,
    snapshot: Arc<Snapshot>,
    /// Whether a service of the snapshot listens at a NAT port, which then is no flow's.
    services_at_nat_ports: bool,
    flows: FlowTable,
    affinity: AffinityTable,
    placement: FlowPlacement,
    fragments: FragmentTable,
    /// New flows so far, per service: the turn of round-robin.
    round_robin: Box<[u64]>,
    random: StdRng,
    errors: TokenBucket,
    resets: TokenBucket,
    stats: Arc<WorkerStats>,
    events: Arc<ArrayQueue<WorkerEvent>>,
    /// Room for the packets that [`Engine::forward_burst`] looks at together.
    group: Box<[Prepared]>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("worker", &self.worker)
            .field("flows", &self.flows.len())
            .finish()
    }
}

/// Why a packet is not forwarded, with the service to count it for.
#[derive(Debug, Clone, Copy)]
struct DropContext {
    service: Option<ServiceSlot>,
    reason: DropReason,
}

impl From<DropReason> for DropContext {
    fn from(reason: DropReason) -> Self {
        Self {
            service: None,
            reason,
        }
    }
}

impl Engine {
    /// Allocates the flow table and the affinity table.
    ///
    /// # Errors
    ///
    /// The tables' memory cannot be mapped.
    pub fn new(
        config: &EngineConfig,
        snapshot: Arc<Snapshot>,
        stats: Arc<WorkerStats>,
        events: Arc<ArrayQueue<WorkerEvent>>,
    ) -> io::Result<Self> {
        let ports = snapshot.nat_ports.slice(config.worker, config.workers);
        let flows = FlowTable::new(config.flows, ports, config.seed)?;
        let affinity = AffinityTable::new(config.flows, config.seed)?;
        let mut placement = FlowPlacement::default();
        placement.follow(&snapshot);
        stats.flow_capacity.set(u64::from(config.flows));
        Ok(Self {
            worker: config.worker,
            workers: config.workers,
            timeouts: config.timeouts,
            lifetimes: Lifetimes::new(&config.timeouts),
            framing: config.framing,
            services_at_nat_ports: snapshot.has_services_at_nat_ports(),
            snapshot,
            flows,
            affinity,
            placement,
            fragments: FragmentTable::default(),
            round_robin: vec![0; MAX_SERVICES].into_boxed_slice(),
            random: StdRng::seed_from_u64(config.seed),
            errors: TokenBucket::icmp_errors(),
            resets: TokenBucket::tcp_resets(),
            stats,
            events,
            group: vec![Prepared::EMPTY; burst::GROUP].into(),
        })
    }

    /// Switches to `snapshot` and returns the one used before. Established flows go on.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>, now: Timestamp) -> Arc<Snapshot> {
        for &address in &snapshot.addresses {
            // More than 255 addresses in the life of the process: packets to the rest are dropped.
            if self.flows.local_index(to_octets(address)).is_none() {
                self.stats.drop_packet(None, DropReason::Internal);
            }
        }
        self.placement.follow(&snapshot);
        self.services_at_nat_ports = snapshot.has_services_at_nat_ports();
        self.errors.refill(now);
        self.resets.refill(now);
        std::mem::replace(&mut self.snapshot, snapshot)
    }

    /// Switches to a link with another framing, between two attachments. Established flows go on.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// Decides about one packet and translates it in place. No allocation, no lock, no system call.
    pub fn forward<F: Frame>(&mut self, packet: &mut [F], origin: Origin, now: Timestamp) -> Verdict {
        let mut prepared = Prepared::EMPTY;
        self.prepare(packet, &mut prepared);
        self.decide(packet, &prepared, origin, now)
    }

    /// The worker whose NAT port a packet is sent to, if it is one.
    #[inline(always)]
    fn nat_owner(&self, tuple: Tuple) -> Option<u16> {
        let (ports, port) = (self.snapshot.nat_ports, tuple.destination_port);
        // A division, which a lone worker need not wait for.
        ports.contains(port).then(|| {
            if self.workers == 1 {
                0
            } else {
                ports.owner(port, self.workers)
            }
        })
    }

    /// Decides about a packet that was looked at before.
    #[inline(always)]
    fn decide<F: Frame>(
        &mut self,
        packet: &mut [F],
        prepared: &Prepared,
        origin: Origin,
        now: Timestamp,
    ) -> Verdict {
        let parsed = &prepared.parsed;
        let decided = match &prepared.subject {
            Subject::Flow(lookup) => {
                let arrival = Arrival {
                    flags: lookup.flags,
                    origin,
                    now,
                };
                self.balance(packet, parsed, lookup, prepared.early.as_ref(), arrival)
            }
            &Subject::SlowPath { local } => self.slow_path(packet, parsed, local, origin, now),
            &Subject::Drop(reason) => Err(reason.into()),
        };
        decided.unwrap_or_else(|context| self.dropped(context))
    }

    /// Counts a packet that is not forwarded.
    #[cold]
    fn dropped(&self, context: DropContext) -> Verdict {
        self.stats.drop_packet(context.service, context.reason);
        Verdict::Drop
    }

    /// An ICMP message or a fragment.
    #[cold]
    fn slow_path<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        local: u8,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        self.check_source(parsed)?;
        match &parsed.transport {
            Transport::Icmp => {
                let head = packet.first().ok_or(DropReason::Malformed)?.bytes();
                let quoted = packet::parse_quote(head, parsed)?;
                self.icmp_error(packet, parsed, &quoted, origin, now)
            }
            &Transport::Fragment {
                protocol, id, ports, ..
            } => self.fragment(
                packet,
                parsed,
                local,
                fragment::Part { protocol, id, ports },
                origin,
                now,
            ),
            Transport::Tcp { .. } | Transport::Udp { .. } => Err(DropReason::Internal.into()),
        }
    }

    /// The index of the own address that the packet is sent to.
    #[inline(always)]
    fn local(&self, parsed: &Parsed) -> Result<u8, DropReason> {
        self.flows
            .find_local(&parsed.destination)
            .ok_or_else(|| match self.check_source(parsed) {
                Err(reason) => reason,
                Ok(()) => DropReason::NoService,
            })
    }

    /// A source address of our own cannot come in from outside. No flow has one, so a packet that has
    /// a flow need not be asked.
    #[cold]
    fn check_source(&self, parsed: &Parsed) -> Result<(), DropReason> {
        match self.flows.find_local(&parsed.source) {
            Some(_) => Err(DropReason::Martian),
            None => Ok(()),
        }
    }

    /// A TCP or UDP packet with ports: the reply of a backend, or a client's request.
    #[inline(always)]
    fn balance<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        lookup: &Lookup,
        early: Option<&EarlySelection>,
        arrival: Arrival,
    ) -> Result<Verdict, DropContext> {
        let Arrival { flags, origin, now } = arrival;
        let &Lookup {
            tuple,
            nat_owner,
            ref probe,
            ..
        } = lookup;
        let request_probe;
        let probe = if nat_owner == Some(self.worker) {
            if let Some(id) = self.flows.reply_at(probe, tuple.reply_key(parsed.source), now) {
                return self.reply(packet, parsed, id, flags, now);
            }
            request_probe = self.flows.request_probe(&tuple.request_key(parsed.source));
            &request_probe
        } else {
            probe
        };
        // Flows before services: a known flow needs no look at the services, and goes on without one.
        let by_ports = self.request_owner(&parsed.source, tuple);
        if (by_ports == self.worker || self.placement.any_by_client())
            && let Some(id) = self
                .flows
                .request_at(probe, tuple.request_key(parsed.source), now)
        {
            return self.known_request(packet, parsed, tuple, id, arrival);
        }
        self.check_source(parsed)?;
        let service = early.map_or_else(|| self.service_slot(parsed, tuple), |known| Some(known.service));
        match (service, nat_owner) {
            (Some(service), _) => match self.remote_owner(service, &parsed.source, by_ports, origin) {
                Some(worker) => Ok(Verdict::Handoff(worker)),
                None => self.new_request(packet, parsed, tuple, service, early, arrival),
            },
            (None, Some(nat_owner)) if nat_owner != self.worker => Ok(Verdict::Handoff(nat_owner)),
            (None, Some(_)) => self.unknown_reply(packet, parsed, now),
            (None, None) => Err(DropReason::NoService.into()),
        }
    }

    /// Counts a context of the worker itself.
    pub fn count_drop(&self, reason: DropReason) {
        self.stats.drop_packet(None, reason);
    }

    /// Cuts a packet with the verdict [`Verdict::Segment`] into frames of `port`, appended to `out`.
    /// The packet's own frames are no longer needed then.
    pub fn segment<P: Port>(&self, port: &mut P, packet: &[P::Frame], mss: u16, out: &mut Vec<P::Frame>) {
        let cut = packet
            .first()
            .ok_or(DropReason::Malformed)
            .and_then(|head| packet::parse(head.bytes(), packet_len(packet), self.framing))
            .and_then(|parsed| packet::segment(port, packet, &parsed, mss, out));
        match cut {
            Ok(_) => self.stats.segmented.add(1),
            Err(reason) => self.stats.drop_packet(None, reason),
        }
    }

    /// Flows from table entry `cursor` on, at most `scan` entries: see [`vl3lb_common::flow_query`].
    pub fn flow_slice(&self, cursor: u32, scan: u32, now: Timestamp) -> FlowSlice {
        self.flows.slice(cursor, scan, now, self.worker, &self.timeouts)
    }

    /// From now on tells `feed` of each flow that opens or closes, while somebody follows it.
    pub fn set_flow_feed(&mut self, feed: Arc<FlowFeed>) {
        self.flows.set_feed(FeedWriter {
            feed,
            worker: self.worker,
            timeouts: self.timeouts,
        });
    }

    /// Bytes of the flow table that grow with its capacity. The NAT ports' maps are not counted.
    pub fn memory_bytes(&self) -> usize {
        self.flows.memory_bytes()
    }

    /// Sends a translated packet on, cut if it is a TCP super-packet.
    #[inline(always)]
    fn emit<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        to: &Translation,
        mac: Option<MacAddr>,
        flow_mss: u16,
    ) -> Result<Verdict, DropReason> {
        let mtu = self.snapshot.mtu;
        let cut = (parsed.ip_len() > u32::from(mtu))
            .then(|| segment_payload(parsed, mtu.into(), flow_mss))
            .transpose()?;
        let checksum = if cut.is_some() {
            packet::ChecksumPolicy::Later
        } else {
            packet::ChecksumPolicy::Update
        };
        self.address_frame(packet, mac);
        packet::translate(packet, parsed, to, checksum)?;
        Ok(cut.map_or(Verdict::Transmit, |mss| Verdict::Segment { mss }))
    }
}

/// Payload bytes of each segment of a super-packet: what the flow agreed on, and the MTU allows.
/// A UDP super-packet cannot be cut: where one datagram ends is not in its bytes.
fn segment_payload(parsed: &Parsed, mtu: usize, flow_mss: u16) -> Result<u16, DropReason> {
    let Transport::Tcp { header_len, .. } = parsed.transport else {
        return Err(DropReason::UdpSuperPacket);
    };
    /// The MSS option counts a TCP header without options (RFC 6691).
    const PLAIN_TCP_HEADER: usize = 20;
    let headers = parsed.l4() - parsed.l3() + header_len;
    let fits = mtu
        .checked_sub(headers)
        .filter(|&fits| fits > 0)
        .ok_or(DropReason::MtuExceeded)?;
    let agreed = match usize::from(flow_mss) {
        0 => fits,
        mss => mss
            .saturating_sub(header_len.saturating_sub(PLAIN_TCP_HEADER))
            .max(1),
    };
    Ok(u16::try_from(fits.min(agreed)).unwrap_or(u16::MAX))
}
