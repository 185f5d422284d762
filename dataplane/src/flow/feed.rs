//! The flow feed: a record of each flow that opens or closes, for subscribers.
//!
//! A flow that finishes or is reset is emitted as closed then, as it is counted, though its entry stays for
//! stragglers. Packets that leave a flow's state as it is never get here.

use std::sync::Arc;

use vl3lb_common::Timestamp;
use vl3lb_common::flow_feed::{FlowChange, FlowFeed};
use vl3lb_common::stats::CloseCause;

use super::state::{Direction, State};
use super::table::{FlowId, FlowTable};
use super::view::micros;
use crate::config::Timeouts;

/// Writes a worker's changes to its feed.
#[derive(Debug)]
pub(crate) struct FeedWriter {
    pub feed: Arc<FlowFeed>,
    pub worker: u16,
    /// The timeouts in use, from which idle and remaining time of a flow follow.
    pub timeouts: Timeouts,
}

impl FeedWriter {
    #[inline]
    pub(super) fn is_subscribed(&self) -> bool {
        self.feed.is_subscribed()
    }

    #[cold]
    pub(super) fn emit_opened(&self, table: &FlowTable, id: FlowId, now: Timestamp) {
        self.emit(table, id, None, now);
    }

    /// The flow is about to leave the table.
    #[cold]
    pub(super) fn emit_closed(&self, table: &FlowTable, id: FlowId, cause: CloseCause, now: Timestamp) {
        self.emit(table, id, Some(cause), now);
    }

    /// The flow comes into `state`, in which it [is over](State::is_over), by a packet; one that is not counted yet has
    /// these bytes.
    #[cold]
    pub(super) fn emit_finished(
        &self,
        table: &FlowTable,
        id: FlowId,
        state: State,
        (direction, uncounted): (Direction, Option<u32>),
        now: Timestamp,
    ) {
        let Some(mut flow) = table.record(id, now, self.worker, &self.timeouts) else {
            return;
        };
        let (packets_total, bytes_total) = match direction {
            Direction::In => (&mut flow.packets_in, &mut flow.bytes_in),
            Direction::Out => (&mut flow.packets_out, &mut flow.bytes_out),
        };
        *packets_total += u64::from(uncounted.is_some());
        *bytes_total += u64::from(uncounted.unwrap_or(0));
        flow.state = state.shown();
        flow.idle_micros = 0;
        flow.expires_micros = micros(state.timeout(&self.timeouts));
        self.feed.push(FlowChange {
            at: now,
            closed: Some(state.close_cause()),
            flow,
        });
    }

    fn emit(&self, table: &FlowTable, id: FlowId, closed: Option<CloseCause>, now: Timestamp) {
        if let Some(flow) = table.record(id, now, self.worker, &self.timeouts) {
            self.feed.push(FlowChange {
                at: now,
                closed,
                flow,
            });
        }
    }
}
