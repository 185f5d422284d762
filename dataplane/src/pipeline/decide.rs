//! Connects the steps: what becomes of a packet of a known flow, and of one without.

use vl3lb_common::{DropReason, Protocol, ServiceSlot, Timestamp};

use super::batch::Prepared;
use super::classify::{Class, check_source};
use super::early_selection::EarlySelection;
use super::lookup::{self, Found};
use super::refusal::Refusal;
use super::reject::DropContext;
use super::slow_path::Arrival;
use super::{Context, Engine, Origin, Verdict, admit, next_hop, translate};
use crate::flow::{FlowId, Predecessor, tcp};
use crate::port::Frame;

impl Engine {
    /// Decides about a packet that is classified.
    #[inline(always)]
    pub(super) fn decide<F: Frame>(
        &mut self,
        packet: &mut [F],
        prepared: &Prepared,
        origin: Origin,
        now: Timestamp,
    ) -> Verdict {
        let parsed = &prepared.parsed;
        let decided = match &prepared.class {
            Class::Flow => {
                let context = Context {
                    parsed,
                    lookup: &prepared.lookup,
                    origin,
                    now,
                };
                let decided = self.balance(packet, context, prepared.early.as_ref());
                if parsed.dont_fragment {
                    decided
                } else {
                    self.identify(packet, parsed, decided)
                }
            }
            &Class::SlowPath { local } => self.slow_path(packet, parsed, local, Arrival::New, origin, now),
            &Class::Drop(reason) => Err(reason.into()),
        };
        decided.unwrap_or_else(|context| self.drop_packet(packet, parsed, context, now))
    }

    /// A packet with ports: the reply of a backend, or a client's request.
    #[inline(always)]
    pub(super) fn balance<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        early: Option<&EarlySelection>,
    ) -> Result<Verdict, DropContext> {
        match lookup::find(self.tables.flows.table(), context) {
            Found::Reply(id) => self.reply::<F, false>(packet, context, id),
            Found::Request(id) => self.request(packet, context, id),
            Found::Nothing(expired) => self.unknown(packet, context, early, Predecessor::Known(expired)),
        }
    }

    /// A reply of a flow in the table, whose client is `LOCAL` or not.
    #[inline(always)]
    pub(super) fn reply<F: Frame, const LOCAL: bool>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        id: FlowId,
    ) -> Result<Verdict, DropContext> {
        let entry = self.tables.flows.table().entry(id);
        let service = entry.service();
        if context.parsed.hop_limit <= 1 {
            return Err(DropContext::hop_limit_exceeded(service));
        }
        if let Err((cause, reason)) = self.policy.usable_backend(entry) {
            self.tables.flows.end(id, cause, context.now);
            return Err(DropContext::of(service, reason).closed_port());
        }
        translate::to_client::<F, LOCAL>(
            &self.policy,
            &mut self.tables.flows,
            &self.signals,
            packet,
            context,
            id,
        )
        .map_err(|refusal| self.refused(context, id, refusal))
    }

    /// A translated packet of a flow cannot be sent. If it is too long for the next hop, its sender learns that, and the
    /// flow's super-packets are segmented to what fits, since they do not show whether it has learned.
    #[cold]
    fn refused(&mut self, context: Context<'_>, id: FlowId, refusal: Refusal) -> DropContext {
        let flows = &mut self.tables.flows;
        let service = flows.table().entry(id).service();
        if refusal.mtu > 0 {
            let (family, mtu) = (context.parsed.family, refusal.mtu.into());
            self.tables.path_mtus.lower(flows, id, family, mtu, context.now);
        }
        DropContext::of(service, refusal.reason).too_big(refusal.mtu)
    }

    /// A request of a flow in the table. Flows are looked up before services: a known flow needs no service.
    #[inline(always)]
    pub(super) fn request<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        id: FlowId,
    ) -> Result<Verdict, DropContext> {
        let entry = self.tables.flows.table().entry(id);
        let service = entry.service();
        if context.parsed.hop_limit <= 1 {
            return Err(DropContext::hop_limit_exceeded(service));
        }
        if tcp::opens(context.tcp_flags()) {
            return self.known_syn(packet, context, id);
        }
        self.known_request(packet, context, id)
    }

    /// A request of a flow in the table that goes on.
    #[inline(always)]
    pub(super) fn known_request<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        id: FlowId,
    ) -> Result<Verdict, DropContext> {
        let entry = self.tables.flows.table().entry(id);
        let service = entry.service();
        match self.policy.usable_backend(entry) {
            Ok(backend) => {
                let mac = next_hop::of_backend(&self.policy, &self.signals, backend);
                translate::to_backend(
                    &self.policy,
                    &mut self.tables,
                    &self.signals,
                    packet,
                    context,
                    id,
                    mac,
                )
                .map_err(|refusal| self.refused(context, id, refusal))
            }
            Err((cause, reason)) => {
                self.tables.flows.end(id, cause, context.now);
                if context.tuple().protocol != Protocol::Udp && !tcp::opens(context.tcp_flags()) {
                    return Err(DropContext::of(service, reason).closed_port());
                }
                self.reopen(packet, context, None)
            }
        }
    }

    /// A packet without a flow in this worker's table.
    #[inline(always)]
    fn unknown<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        early: Option<&EarlySelection>,
        predecessor: Predecessor,
    ) -> Result<Verdict, DropContext> {
        if let Err(reason) = check_source(&self.policy, self.tables.flows.table(), context.parsed) {
            return self.local_request(packet, context, early, reason);
        }
        self.without_flow(packet, context, early, predecessor)
    }

    /// A packet of a client or a backend that may send to the balancer, without a flow in this worker's table.
    #[inline(always)]
    pub(super) fn without_flow<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        early: Option<&EarlySelection>,
        predecessor: Predecessor,
    ) -> Result<Verdict, DropContext> {
        let parsed = context.parsed;
        let service = early.map_or_else(
            || self.policy.service_of(parsed, context.tuple()),
            |early| Some(early.service),
        );
        let decided = match (service, context.lookup.nat_owner) {
            // It owns them all.
            (Some(service), _) if self.policy.workers == 1 => {
                self.new_request(packet, context, service, early, predecessor)
            }
            (Some(service), _) => {
                let by_ports = self.policy.request_owner(&parsed.source, context.tuple());
                match self.policy.remote_owner(
                    service,
                    &parsed.source,
                    by_ports,
                    context.origin,
                    &parsed.transport,
                ) {
                    Some(worker) => Ok(Verdict::Handoff(worker)),
                    None => self.new_request(packet, context, service, early, predecessor),
                }
            }
            (None, Some(owner)) if owner != self.policy.worker => Ok(Verdict::Handoff(owner)),
            (None, Some(_)) => match self.local_reply(packet, context) {
                Some(replied) => replied,
                // A backend sends to a flow that is gone. A reset ends its connection before its own timers do.
                None => Err(DropContext::from(DropReason::UnknownReply).closed_port()),
            },
            (None, None) => Err(DropReason::NoService.into()),
        };
        let decided = match decided {
            Err(refused)
                if matches!(
                    refused.reason(),
                    DropReason::NotSyn | DropReason::NotInit | DropReason::BackendLoop
                ) =>
            {
                self.reply_to_service_port(packet, context, refused)
            }
            decided => decided,
        };
        if let Err(refused) = &decided
            && matches!(refused.reason(), DropReason::NotSyn | DropReason::UnknownReply)
        {
            self.tables.overload.count_stray();
        }
        decided
    }

    /// A packet that opens no flow of the service at its port. The port may be the NAT port of a flow that is older than
    /// the service: then it is a reply, which the owner of the port knows.
    #[cold]
    fn reply_to_service_port<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        refused: DropContext,
    ) -> Result<Verdict, DropContext> {
        let tuple = context.tuple();
        match self.policy.range_owner(tuple) {
            Some(owner) if owner == self.policy.worker => {
                let key = tuple.reply_key(context.parsed.source);
                let found = self.tables.flows.table().reply(&key, context.now);
                match found {
                    Some(id) => self.reply::<F, false>(packet, context, id),
                    None => self.local_reply(packet, context).unwrap_or(Err(refused)),
                }
            }
            // Passed on once, wherever it came from: nothing that was passed on so is handed over again.
            Some(owner) if context.origin != Origin::Overflow => Ok(Verdict::Overflow(owner)),
            _ => Err(refused),
        }
    }

    /// A request that opens a flow of `service` at this worker.
    pub(super) fn new_request<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        service: ServiceSlot,
        early: Option<&EarlySelection>,
        predecessor: Predecessor,
    ) -> Result<Verdict, DropContext> {
        if let Some(verdict) = self.away(context, service)? {
            return Ok(verdict);
        }
        let (policy, tables, signals) = (&self.policy, &mut self.tables, &self.signals);
        let flow = (service, early, predecessor);
        let admitted = admit::admit(policy, tables, signals, packet, context, flow);
        let (id, mac) = match admitted {
            Ok(admitted) => admitted,
            Err(refused) => return self.overflow(context, service, refused),
        };
        let (policy, tables, signals) = (&self.policy, &mut self.tables, &self.signals);
        let verdict = translate::to_backend(policy, tables, signals, packet, context, id, Ok(mac))
            .map_err(|refusal| self.refused(context, id, refusal))?;
        if self.tables.flows.table().entry(id).is_untimed() {
            translate::without_timestamps(packet, context.parsed, verdict)?;
        }
        Ok(verdict)
    }
}
