//! Flows of clients with affinity that have no room at their home: see [`crate::flow::Overflow`].

use vl3lb_common::{DropReason, Protocol, ServiceSlot};

use super::reject::DropContext;
use super::select::{NewClient, is_of};
use super::{Context, Engine, Origin, Verdict};
use crate::flow::{Guest, tcp};

impl Engine {
    /// Passes a packet without a flow on, if this is the home of its client and that overflows. `None` if a flow is to be
    /// opened here.
    ///
    /// # Errors
    /// The packet was passed on to here, and the client has as many flows as it may.
    #[inline]
    pub(super) fn away(
        &self,
        context: Context<'_>,
        service: ServiceSlot,
    ) -> Result<Option<Verdict>, DropContext> {
        if self.policy.workers == 1 || !self.policy.placement.of(service).by_client {
            return Ok(None);
        }
        if context.origin == Origin::Overflow {
            return self.check_share(context, service).map(|()| None);
        }
        Ok(self.away_from_home(context, service))
    }

    #[cold]
    fn away_from_home(&self, context: Context<'_>, service: ServiceSlot) -> Option<Verdict> {
        let (client, flows) = (&context.parsed.source, &self.tables.flows);
        let guest = Guest::new(client, service);
        let kept = flows.overflow_backend(guest)?;
        let worker = self
            .policy
            .away(context.origin, service, client, context.tuple())?;
        if !flows.goes_on_overflowing(guest, client, context.now) {
            return None;
        }
        if !is_of(&self.policy, service, kept) {
            let policy = &self.policy;
            let service = policy.service(service)?;
            let selector = &self.tables.selector;
            let choice = selector
                .pick(policy, flows, &self.signals, &NewClient::of(context), service)
                .ok()?;
            flows.begin_overflow(guest, client, choice.slot, context.now);
        }
        Some(Verdict::Overflow(worker))
    }

    /// A flow was refused. Where that is for lack of room at its client's home, the client overflows.
    ///
    /// # Errors
    /// The refusal.
    #[cold]
    pub(super) fn overflow(
        &self,
        context: Context<'_>,
        service: ServiceSlot,
        refused: DropContext,
    ) -> Result<Verdict, DropContext> {
        let is_full = matches!(
            refused.reason(),
            DropReason::NatPortsExhausted | DropReason::FlowTableFull | DropReason::ClientLimit
        );
        let (client, flows, policy) = (&context.parsed.source, &self.tables.flows, &self.policy);
        let away = || policy.away(context.origin, service, client, context.tuple());
        let (true, Some(worker), Some(service)) = (is_full, away(), policy.service(service)) else {
            return Err(refused);
        };
        if flows.flows_of_client(client) >= policy.client_flows(service) {
            return Err(refused);
        }
        let selector = &self.tables.selector;
        let choice = selector.pick(policy, flows, &self.signals, &NewClient::of(context), service)?;
        let guest = Guest::new(client, service.slot);
        if flows.begin_overflow(guest, client, choice.slot, context.now) {
            Ok(Verdict::Overflow(worker))
        } else {
            Err(refused)
        }
    }

    /// Whether a packet that was passed on to here may open a flow.
    #[cold]
    fn check_share(&self, context: Context<'_>, service: ServiceSlot) -> Result<(), DropContext> {
        let opens = context.tuple().protocol == Protocol::Udp || tcp::opens(context.tcp_flags());
        let service = self.policy.service(service).ok_or(DropReason::Internal)?;
        let guest = Guest::new(&context.parsed.source, service.slot);
        if opens && self.tables.flows.overflowed(guest) >= self.policy.client_flows(service) {
            return Err(DropContext::of(service.slot, DropReason::ClientLimit).admin_prohibited());
        }
        Ok(())
    }
}
