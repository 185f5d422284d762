//! Telling those who follow flows of each one that opens or closes.
//!
//! A flow that finishes or is reset is told as closed then, as it is counted, though its entry stays
//! for stragglers. Packets of flows that just go on know nothing of this.

use std::sync::Arc;

use vl3lb_common::Timestamp;
use vl3lb_common::flow_feed::{FlowChange, FlowFeed};
use vl3lb_common::stats::CloseCause;

use super::state::{Direction, State};
use super::table::{ClosedFlow, FlowId, FlowTable};
use super::view::micros;
use crate::config::Timeouts;

/// Whom a table tells, and what it has to know for that.
#[derive(Debug)]
pub struct FeedWriter {
    pub feed: Arc<FlowFeed>,
    pub worker: u16,
    /// Those that flows are touched with.
    pub timeouts: Timeouts,
}

impl FlowTable {
    /// From now on tells of each flow that opens or closes, as long as the feed is followed.
    pub fn set_feed(&mut self, writer: FeedWriter) {
        self.writer = Some(writer);
    }

    /// Closes a flow and tells why. What finished before has been told: see
    /// [`emit_finished`](Self::emit_finished).
    ///
    /// # Panics
    /// If `id` is not a live flow: it was closed before.
    pub fn end(&mut self, id: FlowId, cause: CloseCause, now: Timestamp) -> ClosedFlow {
        if let Some(writer) = self.subscribed()
            && !self.entry(id).is_counted()
        {
            self.emit_change(writer, id, Some(cause), now);
        }
        self.close(id)
    }

    /// Tells that a flow comes into `state`, in which it [is over](State::is_over), by a packet of
    /// `bytes` that is not counted yet.
    pub fn emit_finished(&self, id: FlowId, state: State, direction: Direction, bytes: u64, now: Timestamp) {
        let Some(writer) = self.subscribed() else { return };
        let Some(mut flow) = self.record(id, now, writer.worker, &writer.timeouts) else {
            return;
        };
        let (packets_total, bytes_total) = match direction {
            Direction::In => (&mut flow.packets_in, &mut flow.bytes_in),
            Direction::Out => (&mut flow.packets_out, &mut flow.bytes_out),
        };
        *packets_total += 1;
        *bytes_total += bytes;
        flow.state = state.shown();
        flow.idle_micros = 0;
        flow.expires_micros = micros(state.timeout(&writer.timeouts));
        writer.feed.push(FlowChange {
            at: now,
            closed: Some(state.close_cause()),
            flow,
        });
    }

    /// Tells that a flow was opened.
    #[inline]
    pub(super) fn emit_opened(&self, id: FlowId, now: Timestamp) {
        if let Some(writer) = self.subscribed() {
            self.emit_change(writer, id, None, now);
        }
    }

    #[inline]
    fn subscribed(&self) -> Option<&FeedWriter> {
        self.writer.as_ref().filter(|writer| writer.feed.is_subscribed())
    }

    #[cold]
    fn emit_change(&self, writer: &FeedWriter, id: FlowId, closed: Option<CloseCause>, now: Timestamp) {
        if let Some(flow) = self.record(id, now, writer.worker, &writer.timeouts) {
            writer.feed.push(FlowChange {
                at: now,
                closed,
                flow,
            });
        }
    }
}
