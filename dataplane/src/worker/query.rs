//! Questions of the control side about flows, which a worker answers between two bursts.

use vl3lb_common::Timestamp;
use vl3lb_common::flow_query::FlowQuery;
use vl3lb_common::selection_query::SelectionQuery;

use super::Worker;
use crate::port::Port;

/// A question of the control side.
#[derive(Debug)]
pub(crate) enum Query {
    Flows(FlowQuery),
    Selection(SelectionQuery),
}

impl From<FlowQuery> for Query {
    fn from(query: FlowQuery) -> Self {
        Self::Flows(query)
    }
}

impl From<SelectionQuery> for Query {
    fn from(query: SelectionQuery) -> Self {
        Self::Selection(query)
    }
}

impl<P: Port> Worker<P> {
    /// Answers one query. Returns whether there was any.
    pub(super) fn answer_query(&mut self, now: Timestamp) -> bool {
        let Some(query) = self.inbox.queries.pop() else {
            return false;
        };
        // Answering fails if the reader has gone.
        match query {
            Query::Flows(query) => {
                let slice = self.engine.flow_slice(query.cursor, query.scan, now);
                query.answer.try_send(slice).ok();
            }
            Query::Selection(query) => {
                let selection = self.engine.selection(&query, now);
                query.answer.try_send(selection).ok();
            }
        }
        true
    }
}
