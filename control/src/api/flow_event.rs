//! A flow that opens or closes.

use serde::{Deserialize, Serialize};

use super::{Flow, Time};

/// A line of a stream of flow events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum FlowEvent {
    /// A flow was opened.
    Open {
        time: Time,
        #[serde(flatten)]
        flow: Flow,
    },
    /// A flow was closed, is finished or was reset.
    Close {
        time: Time,
        /// Name of a [`vl3lb_common::stats::CloseCause`].
        cause: String,
        /// At its end: its last state, and all its packets.
        #[serde(flatten)]
        flow: Flow,
    },
    /// Number of events that the reader missed since its last loss, because it was too slow. Events that
    /// overflowed a worker's ring are included, independent of the reader's filter.
    Lost { time: Time, events: u64 },
}

impl FlowEvent {
    /// The value of `event`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Close { .. } => "close",
            Self::Lost { .. } => "lost",
        }
    }
}
