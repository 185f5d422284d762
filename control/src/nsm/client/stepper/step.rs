//! The inputs and steps of the stepper.

use tokio::time::Instant;
use vl3lb_common::Duration;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nsm::client) enum Step {
    /// Begin this call. It is the only one in flight, and ends within the limit. [`Call::Close`] ends the monitor.
    Call(Call, Duration),
    /// Drop the call in flight.
    Cancel,
    /// Open the monitor of the connection.
    OpenMonitor,
    /// Nothing before this time or the next input.
    Wait(Option<Instant>),
    /// It is over. Whether the connection, if there was one, is closed.
    Done { closed: bool },
}

/// A call to the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nsm::client) enum Call {
    /// Look for a connection of an earlier process with this client's id.
    Restore,
    Request(Content),
    Close,
}

/// The connection that a Request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nsm::client) enum Content {
    /// A new one.
    First,
    /// The last reply.
    Keep,
    /// The path of the last reply, without context, mechanism and endpoint: another address, perhaps another endpoint.
    Reselect,
}

/// The end of [`Call::Restore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nsm::client) enum Restored {
    /// A connection to continue with; its tokens live this long.
    Found(Duration),
    /// One that does not fit, because it is for another interface.
    Unfit,
    /// The manager has none, or did not answer.
    Nothing,
    /// No answer.
    Failed,
}

/// What the monitor reports about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::nsm::client) enum Signal {
    Up,
    Down,
    /// The manager's list does not have it.
    Missing,
    Closed,
    RefreshRequested,
}

/// Whether packets reach the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::nsm::client) enum DataPlane {
    Unknown,
    Alive,
    /// The interface is there, and the endpoint is silent.
    Silent,
    /// There is no interface.
    Absent,
}

/// Why a connection is refreshed before that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::nsm::client) enum Trigger {
    /// It was made by an earlier process.
    Restored,
    MonitorLost,
    Down,
    Missing,
    RefreshRequested,
    InterfaceAbsent,
}

/// Why a connection is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::nsm::client) enum Loss {
    /// Somebody closed it: the servers, whose tokens of it expired, or another client.
    Closed,
    /// The endpoint is silent.
    Silent,
    /// The interface did not come back.
    Absent,
    /// Its tokens have expired, and nothing speaks for its data plane.
    Expired,
}

impl Trigger {
    /// All triggers.
    pub(in crate::nsm::client) const ALL: [Self; 6] = [
        Self::Restored,
        Self::MonitorLost,
        Self::Down,
        Self::Missing,
        Self::RefreshRequested,
        Self::InterfaceAbsent,
    ];
}

/// The state, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nsm::client) enum State {
    /// Looking for the connection of an earlier process.
    Restoring,
    /// Waiting for a first reply.
    Requesting,
    Connected,
    /// Refreshing early; packets are not affected by that.
    Healing(Trigger),
    /// Getting another connection.
    Replacing(Loss),
    Closing,
    Closed,
}
