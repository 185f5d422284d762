//! A client's packet to a service: find or open its flow, and send it to the flow's backend.

use vl3lb_common::addr::from_octets;
use vl3lb_common::hash::{owner_hash, reduce, selection_hash};
use vl3lb_common::stats::{CloseCause, DURATION_BOUNDS, FlowFailure};
use vl3lb_common::{
    Backend, BackendSlot, BackendState, DropReason, MacAddr, Protocol, Service, ServiceKey, ServiceSlot,
    Timestamp,
};

use super::closing::micros_since;
use super::early_selection::EarlySelection;
use super::{Arrival, DropContext, Engine, Tuple, Verdict, affinity};
use crate::flow::{Direction, FlowId, HotEntry, NewFlow, OpenError, ServiceClient, State, tcp};
use crate::packet::{self, Framing, IcmpError, Parsed, TcpFlags, Translation};
use crate::port::Frame;

use rand::Rng;

/// A backend for a new flow.
struct Choice {
    slot: BackendSlot,
    /// Whether it was the scheduler's turn; else the client had this backend already.
    scheduled: bool,
}

impl Engine {
    /// The service that a packet is sent to.
    pub(super) fn service_slot(&self, parsed: &Parsed, tuple: Tuple) -> Option<ServiceSlot> {
        let address = from_octets(parsed.destination);
        let key = ServiceKey {
            address,
            port: tuple.destination_port,
            protocol: tuple.protocol,
        };
        self.snapshot.services.get(&key).copied()
    }

    /// The worker that owns a request's flow.
    #[inline]
    pub(super) fn request_owner(&self, client: &[u8; 16], tuple: Tuple) -> u16 {
        // The hash is a chain of six multiplications, each of which waits for the one before.
        if self.workers == 1 {
            return 0;
        }
        let hash = owner_hash(
            client,
            tuple.source_port,
            tuple.destination_port,
            tuple.protocol.number(),
        );
        u16::try_from(reduce(hash, u32::from(self.workers))).unwrap_or(0)
    }

    /// A request of a flow in the table.
    #[inline(always)]
    pub(super) fn known_request<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        tuple: Tuple,
        id: FlowId,
        arrival: Arrival,
    ) -> Result<Verdict, DropContext> {
        let Arrival { flags, origin, now } = arrival;
        let entry = self.flows.entry(id);
        let service = ServiceSlot(entry.service_slot);
        if parsed.hop_limit <= 1 {
            let reason = DropReason::TtlExpired;
            return self.reject_with_error(packet, parsed, IcmpError::TimeExceeded, Some(service), reason);
        }
        let over = tcp::reopens(entry.state(), flags.0).then(|| entry.state().close_cause());
        if over.is_none() {
            let (cause, reason) = match self.usable(entry) {
                Ok(backend) => {
                    let mac = self.mac_of(backend);
                    return self.send_to_backend(packet, parsed, id, mac, flags, now);
                }
                Err(lost) => lost,
            };
            self.close(id, cause, now);
            if tuple.protocol == Protocol::Tcp && !tcp::opens(flags.0) {
                return self.reject(packet, parsed, Some(service), reason, now);
            }
        }
        let Some(service) = self.service_slot(parsed, tuple) else {
            return Err(DropReason::NoService.into());
        };
        let by_ports = self.request_owner(&parsed.source, tuple);
        match self.remote_owner(service, &parsed.source, by_ports, origin) {
            Some(worker) => {
                if let Some(cause) = over {
                    self.close(id, cause, now);
                }
                Ok(Verdict::Handoff(worker))
            }
            // A flow that is over leaves its place, and its NAT port, to the new one.
            None => self.new_request(packet, parsed, tuple, service, None, arrival),
        }
    }

    /// A request without a flow.
    pub(super) fn new_request<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        tuple: Tuple,
        service: ServiceSlot,
        early: Option<&EarlySelection>,
        arrival: Arrival,
    ) -> Result<Verdict, DropContext> {
        // First of all, so that who is not allowed learns nothing.
        if !self.is_allowed(parsed, service) {
            return Err(DropContext {
                service: Some(service),
                reason: DropReason::SourceNotAllowed,
            });
        }
        if parsed.hop_limit <= 1 {
            let reason = DropReason::TtlExpired;
            return self.reject_with_error(packet, parsed, IcmpError::TimeExceeded, Some(service), reason);
        }
        let Arrival { flags, now, .. } = arrival;
        match self.open_flow(packet, parsed, tuple, service, early, arrival) {
            Ok((id, mac)) => self.send_to_backend(packet, parsed, id, Ok(mac), flags, now),
            Err(reason) => self.reject_new_flow(packet, parsed, service, reason, now),
        }
    }

    /// Translates a request of a live flow, whose backend is behind `mac`.
    #[inline(always)]
    fn send_to_backend<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        id: FlowId,
        mac: Result<Option<MacAddr>, DropReason>,
        flags: TcpFlags,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        self.advance(id, Direction::In, flags, parsed, now);
        let mut entry = self.flows.entry(id);
        if !self.knows_client_mac(entry) {
            self.note_client_mac(id, parsed, packet);
            entry = self.flows.entry(id);
        }
        let service = ServiceSlot(entry.service_slot);
        let dropped = |reason| DropContext {
            service: Some(service),
            reason,
        };
        let to = Translation {
            source: self.flows.local_address(entry.local),
            destination: entry.backend,
            source_port: entry.nat_port,
            destination_port: entry.backend_port,
        };
        let (slot, mss) = (BackendSlot(entry.backend_slot), entry.mss);
        let mac = mac.map_err(dropped)?;
        let verdict = self.emit(packet, parsed, &to, mac, mss).map_err(dropped)?;
        let bytes = parsed.ip_len();
        self.flows.count(id, Direction::In, bytes);
        self.stats.service(service).inbound.count(bytes.into());
        self.stats.backend(slot).inbound.count(bytes.into());
        Ok(verdict)
    }

    /// The flow's backend, or why it may not be used any more.
    #[inline(always)]
    pub(super) fn usable(&self, entry: &HotEntry) -> Result<&Backend, (CloseCause, DropReason)> {
        let backend = self.snapshot.backend(BackendSlot(entry.backend_slot));
        match backend.map(|backend| (backend, backend.state)) {
            Some((backend, BackendState::Active | BackendState::Unknown | BackendState::Draining { .. })) => {
                Ok(backend)
            }
            Some((_, BackendState::Down)) => Err((CloseCause::BackendDown, DropReason::BackendDown)),
            Some((_, BackendState::Gone)) | None => Err((CloseCause::Drain, DropReason::DrainDeadline)),
        }
    }

    /// Kept out of the way of packets that have a flow.
    #[inline(never)]
    fn open_flow<F: Frame>(
        &mut self,
        packet: &[F],
        parsed: &Parsed,
        tuple: Tuple,
        service: ServiceSlot,
        early: Option<&EarlySelection>,
        arrival: Arrival,
    ) -> Result<(FlowId, Option<MacAddr>), DropReason> {
        let Arrival { flags, now, .. } = arrival;
        let is_tcp = tuple.protocol == Protocol::Tcp;
        if is_tcp && !tcp::opens(flags.0) {
            return Err(DropReason::NotSyn);
        }
        let head = packet.first().ok_or(DropReason::Malformed)?.bytes();
        let Choice { slot, scheduled } = match early {
            Some(known) => Choice {
                slot: known.backend,
                scheduled: true,
            },
            None => self.pick_backend(parsed, tuple, service, now)?,
        };
        let backend = self.snapshot.backend(slot).ok_or(DropReason::Internal)?;
        // Nothing is opened towards a backend that cannot be reached yet.
        let mac = self.mac_of(backend)?;
        let (client_mac, known) = self.client_mac(&parsed.source, head);
        let state = if is_tcp { State::Opening } else { State::Unreplied };
        let new = NewFlow {
            client: parsed.source,
            client_port: tuple.source_port,
            local: tuple.local,
            service_port: tuple.destination_port,
            protocol: tuple.protocol.number(),
            backend: vl3lb_common::addr::to_octets(backend.address),
            backend_port: backend.port,
            backend_slot: slot,
            service_slot: service,
            client_mac: client_mac.0,
            hop_generation: self.snapshot.next_hops.generation,
            timeout: state.timeout(&self.timeouts),
            state,
            nat_port: early.map(|known| known.nat_port),
        };
        let mss = if is_tcp {
            packet::tcp_mss_option(head, parsed).unwrap_or(0)
        } else {
            0
        };
        let services = &self.snapshot.services;
        let local = from_octets(parsed.destination);
        let usable = |port| {
            !self.services_at_nat_ports
                || !services.contains_key(&ServiceKey {
                    address: local,
                    port,
                    protocol: tuple.protocol,
                })
        };
        let opened = self
            .flows
            .open(&new, now, self.random.next_u64(), usable)
            .map_err(|error| match error {
                OpenError::TableFull => DropReason::FlowTableFull,
                OpenError::PortsExhausted => DropReason::NatPortsExhausted,
            })?;
        if let Some(closed) = opened.replaced {
            self.account(&closed, closed.cause(), now);
        }
        if let Some(closed) = opened.reclaimed {
            self.account(&closed, CloseCause::Reclaimed, now);
        }
        let entry = self.flows.entry_mut(opened.id);
        entry.set_client_mac(client_mac.0, !known, new.hop_generation);
        entry.mss = mss;
        self.keep_backend(opened.id, now);
        self.round_robin[service.index()] += u64::from(scheduled);
        self.stats.service(service).flows_opened.add(1);
        let backend = self.stats.backend(slot);
        backend.flows_opened.add(1);
        backend.flows.add(1);
        backend.nat_ports.set(u64::from(self.flows.ports_used(slot)));
        Ok((opened.id, mac))
    }

    fn pick_backend(
        &self,
        parsed: &Parsed,
        tuple: Tuple,
        service: ServiceSlot,
        now: Timestamp,
    ) -> Result<Choice, DropReason> {
        let service = self.service(service).ok_or(DropReason::Internal)?;
        let hash = if service.affinity.is_zero() {
            selection_hash(&parsed.source, tuple.source_port)
        } else {
            let key = ServiceClient {
                service: service.slot,
                client: parsed.source,
            };
            if let Some(backend) = self.kept_backend(&key, now) {
                return Ok(Choice {
                    slot: backend.slot,
                    scheduled: false,
                });
            }
            // Without the port, so that other balancers and workers choose the same.
            selection_hash(&parsed.source, 0)
        };
        service
            .pool(from_octets(parsed.source))
            .pick(hash, self.round_robin[service.slot.index()], |slot| {
                self.stats.backend(slot).flows.get()
            })
            .map(|slot| Choice {
                slot,
                scheduled: true,
            })
            .ok_or(DropReason::NoBackend)
    }

    /// Whether the sender may open flows of a service.
    fn is_allowed(&self, parsed: &Parsed, service: ServiceSlot) -> bool {
        let service = self.service(service);
        service.is_none_or(|service| service.source_ranges.allow(from_octets(parsed.source)))
    }

    pub(super) fn service(&self, slot: ServiceSlot) -> Option<&Service> {
        self.snapshot.service_slots.get(slot.index())?.as_ref()
    }

    /// Says no to a packet that could not open a flow, in the way that its sender understands.
    fn reject_new_flow<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        service: ServiceSlot,
        reason: DropReason,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        let service = Some(service);
        match reason {
            DropReason::NoBackend | DropReason::NotSyn => self.reject(packet, parsed, service, reason, now),
            // RFC 5508 REQ-8: no resources, say "communication administratively prohibited".
            DropReason::FlowTableFull | DropReason::NatPortsExhausted => {
                self.reject_with_error(packet, parsed, IcmpError::AdminProhibited, service, reason)
            }
            _ => Err(DropContext { service, reason }),
        }
    }

    /// Whether the client's next hop is known from the kernel, and nothing has changed there.
    #[inline(always)]
    fn knows_client_mac(&self, entry: &HotEntry) -> bool {
        let generation = self.snapshot.next_hops.generation;
        self.framing == Framing::RawIp
            || (entry.hop_generation == generation && !entry.is_client_mac_learned())
    }

    /// Remembers where the client of a request is found.
    #[inline(never)]
    fn note_client_mac<F: Frame>(&mut self, id: FlowId, parsed: &Parsed, packet: &[F]) {
        let Some(head) = packet.first() else { return };
        let generation = self.snapshot.next_hops.generation;
        let entry = self.flows.entry(id);
        if entry.hop_generation != generation {
            let (mac, known) = self.client_mac(&parsed.source, head.bytes());
            self.flows.entry_mut(id).set_client_mac(mac.0, !known, generation);
            return;
        }
        // The client may have moved behind another neighbour.
        let mac = packet::source_mac(head.bytes());
        if mac.0 != entry.client_mac {
            self.flows.entry_mut(id).set_client_mac(mac.0, true, generation);
        }
    }

    /// Moves a flow's state machine and sets its timer. Returns the state before if it is another
    /// one now.
    #[inline(always)]
    pub(super) fn advance(
        &mut self,
        id: FlowId,
        direction: Direction,
        flags: TcpFlags,
        parsed: &Parsed,
        now: Timestamp,
    ) -> Option<State> {
        let entry = self.flows.entry_mut(id);
        let before = entry.state();
        let after = if entry.protocol == Protocol::Tcp.number() {
            tcp::advance(before, direction, flags.0)
        } else {
            before.after_datagram(direction)
        };
        if after == before {
            entry.stay(before, now, self.lifetimes.of(before));
            return None;
        }
        self.enter(id, after, direction, parsed, now);
        Some(before)
    }

    /// Brings a flow into another state, and counts it when it finishes.
    #[cold]
    fn enter(&mut self, id: FlowId, after: State, direction: Direction, parsed: &Parsed, now: Timestamp) {
        if after.is_over() && !self.flows.entry(id).is_counted() {
            self.finish(id, after, direction, parsed, now);
        }
        self.flows.touch(id, after, now, self.lifetimes.of(after));
    }

    /// Counts the end of a flow, which a packet brings into the state `after`, and tells it.
    fn finish(&mut self, id: FlowId, after: State, direction: Direction, parsed: &Parsed, now: Timestamp) {
        self.flows
            .emit_finished(id, after, direction, parsed.ip_len().into(), now);
        let entry = self.flows.entry(id);
        let (slot, service) = (BackendSlot(entry.backend_slot), ServiceSlot(entry.service_slot));
        let before = entry.state();
        if let Some(epoch) = entry.epoch() {
            let key = ServiceClient {
                service,
                client: entry.client,
            };
            affinity::flow_ended(&mut self.affinity, &self.snapshot, &key, (slot, epoch), now);
        }
        let created = self.flows.counters(id).created();
        let backend = self.stats.backend(slot);
        backend.flows.set(backend.flows.get().saturating_sub(1));
        if before == State::Opening && after == State::Reset {
            backend.flows_failed[FlowFailure::Reset as usize].add(1);
        }
        let service = self.stats.service(service);
        service.flows_closed[after.close_cause() as usize].add(1);
        service
            .duration
            .observe(micros_since(created, now), &DURATION_BOUNDS);
        self.flows.entry_mut(id).set_counted();
    }
}
