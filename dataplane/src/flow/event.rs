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
pub struct Announcer {
    pub feed: Arc<FlowFeed>,
    pub worker: u16,
    /// Those that flows are touched with.
    pub timeouts: Timeouts,
}

impl FlowTable {
    /// From now on tells of each flow that opens or closes, as long as the feed is followed.
    pub fn announce_to(&mut self, announcer: Announcer) {
        self.announcer = Some(announcer);
    }

    /// Closes a flow and tells why. What finished before has been told: see
    /// [`announce_finished`](Self::announce_finished).
    ///
    /// # Panics
    /// If `id` is not a live flow: it was closed before.
    pub fn end(&mut self, id: FlowId, cause: CloseCause, now: Timestamp) -> ClosedFlow {
        if let Some(announcer) = self.followed()
            && !self.entry(id).is_counted()
        {
            self.announce(announcer, id, Some(cause), now);
        }
        self.close(id)
    }

    /// Tells that a flow comes into `state`, in which it [is over](State::is_over), by a packet of
    /// `bytes` that is not counted yet.
    pub fn announce_finished(
        &self,
        id: FlowId,
        state: State,
        direction: Direction,
        bytes: u64,
        now: Timestamp,
    ) {
        let Some(announcer) = self.followed() else { return };
        let Some(mut flow) = self.record(id, now, announcer.worker, &announcer.timeouts) else {
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
        flow.expires_micros = micros(state.timeout(&announcer.timeouts));
        announcer.feed.push(FlowChange {
            at: now,
            closed: Some(state.close_cause()),
            flow,
        });
    }

    /// Tells that a flow was opened.
    #[inline]
    pub(super) fn announce_opened(&self, id: FlowId, now: Timestamp) {
        if let Some(announcer) = self.followed() {
            self.announce(announcer, id, None, now);
        }
    }

    #[inline]
    fn followed(&self) -> Option<&Announcer> {
        self.announcer
            .as_ref()
            .filter(|announcer| announcer.feed.is_followed())
    }

    #[cold]
    fn announce(&self, announcer: &Announcer, id: FlowId, closed: Option<CloseCause>, now: Timestamp) {
        if let Some(flow) = self.record(id, now, announcer.worker, &announcer.timeouts) {
            announcer.feed.push(FlowChange {
                at: now,
                closed,
                flow,
            });
        }
    }
}
