//! SYNs of clients whose flow is in the table.

use vl3lb_common::{DropReason, Timestamp};

use super::reject::DropContext;
use super::{Context, Engine, Verdict, translate};
use crate::flow::{FlowId, Predecessor, tcp};
use crate::port::Frame;

impl Engine {
    /// A SYN of a flow in the table: the first one again, or that of another connection.
    #[cold]
    pub(super) fn known_syn<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        id: FlowId,
    ) -> Result<Verdict, DropContext> {
        let entry = self.tables.flows.table().entry(id);
        if tcp::reopens(entry.state(), context.tcp_flags()) {
            return self.reopen(packet, context, Some(id));
        }
        let is_untimed = entry.is_untimed();
        let verdict = self.known_request(packet, context, id)?;
        if is_untimed {
            translate::without_timestamps(packet, context.parsed, verdict)?;
        }
        Ok(verdict)
    }

    /// A request whose flow has ended, or `over` is over: it opens a new one. That takes the place and the NAT port of
    /// the one that is over.
    #[cold]
    pub(super) fn reopen<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        over: Option<FlowId>,
    ) -> Result<Verdict, DropContext> {
        let service = self
            .policy
            .service_at(context.parsed, context.tuple())
            .ok_or(DropReason::NoService)?;
        let client = &context.parsed.source;
        let by_ports = self.policy.request_owner(client, context.tuple());
        let transport = &context.parsed.transport;
        let Some(worker) = self
            .policy
            .remote_owner(service, client, by_ports, context.origin, transport)
        else {
            let verdict = self.new_request(packet, context, service, None, Predecessor::Unknown)?;
            if matches!(verdict, Verdict::Overflow(_)) {
                self.leave(over, context.now);
            }
            return Ok(verdict);
        };
        self.leave(over, context.now);
        Ok(Verdict::Handoff(worker))
    }

    /// Ends a flow that is over, whose place another worker's flow takes.
    fn leave(&mut self, over: Option<FlowId>, now: Timestamp) {
        if let Some(id) = over {
            let cause = self.tables.flows.table().entry(id).state().close_cause();
            self.tables.flows.end(id, cause, now);
        }
    }
}
