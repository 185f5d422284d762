//! A flow that opens or closes, as shown to those who follow.

use serde::{Deserialize, Serialize};

use super::{Flow, Time};

/// What a follower of flows reads: one object a line.
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
        /// As it was at its end: its last state, and all its packets.
        #[serde(flatten)]
        flow: Flow,
    },
    /// The follower missed so many since it was last told: they came faster than they were read. Those
    /// that no ring had room for are among them, whatever the follower asked for.
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
