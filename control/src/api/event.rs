//! One change of state, as shown.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Envelope, Severity, Time};

/// The kinds of events. Names are for ever: programs look for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventCode {
    /// The balancer began to run.
    Started,
    /// It is shutting down: flows may finish, new ones are not for it.
    Draining,
    ServiceAdded,
    ServiceRemoved,
    /// A service came into another state.
    ServiceState,
    /// A backend came into another state.
    BackendState,
    /// A configuration file was taken over.
    ConfigRead,
    /// A configuration file was refused, and the last good one stays.
    ConfigRejected,
    /// A source of backends is not followed any more.
    DiscoveryLost,
    DiscoveryBack,
    /// Another balancer of the group is ready.
    BalancerJoined,
    /// Another balancer of the group is not ready any more, has left, or is not heard.
    BalancerLeft,
    /// The interface is gone or down.
    InterfaceLost,
    InterfaceBack,
    /// The interface has other addresses or another MTU.
    InterfaceChanged,
    /// The data plane serves the interface from now on.
    Attached,
    /// The interface is there, and the data plane cannot serve it.
    AttachFailed,
    /// Something is full or soon will be.
    CapacityShort,
    CapacityBack,
    /// Events that a reader missed: they came faster than it read.
    EventsLost,
}

impl EventCode {
    /// All codes.
    pub const ALL: [Self; 20] = [
        Self::Started,
        Self::Draining,
        Self::ServiceAdded,
        Self::ServiceRemoved,
        Self::ServiceState,
        Self::BackendState,
        Self::ConfigRead,
        Self::ConfigRejected,
        Self::DiscoveryLost,
        Self::DiscoveryBack,
        Self::BalancerJoined,
        Self::BalancerLeft,
        Self::InterfaceLost,
        Self::InterfaceBack,
        Self::InterfaceChanged,
        Self::Attached,
        Self::AttachFailed,
        Self::CapacityShort,
        Self::CapacityBack,
        Self::EventsLost,
    ];

    /// The value in tables, JSON and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Draining => "draining",
            Self::ServiceAdded => "service_added",
            Self::ServiceRemoved => "service_removed",
            Self::ServiceState => "service_state",
            Self::BackendState => "backend_state",
            Self::ConfigRead => "config_read",
            Self::ConfigRejected => "config_rejected",
            Self::DiscoveryLost => "discovery_lost",
            Self::DiscoveryBack => "discovery_back",
            Self::BalancerJoined => "balancer_joined",
            Self::BalancerLeft => "balancer_left",
            Self::InterfaceLost => "interface_lost",
            Self::InterfaceBack => "interface_back",
            Self::InterfaceChanged => "interface_changed",
            Self::Attached => "attached",
            Self::AttachFailed => "attach_failed",
            Self::CapacityShort => "capacity_short",
            Self::CapacityBack => "capacity_back",
            Self::EventsLost => "events_lost",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The first is 1, each next one more by one; a gap is what was not asked for, or lost.
    pub sequence: u64,
    pub time: Time,
    pub severity: Severity,
    pub code: EventCode,
    /// The service that it is about.
    pub service: Option<String>,
    /// The backend of that service that it is about.
    pub backend: Option<SocketAddr>,
    /// The old state.
    pub from: Option<String>,
    /// The new state.
    pub to: Option<String>,
    /// All of it in words.
    pub text: String,
}

/// The answer to a question about events, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventList {
    #[serde(flatten)]
    pub envelope: Envelope<Event>,
    /// Events that there were so far.
    pub events_total: u64,
    /// Events that readers missed.
    pub events_lost_total: u64,
}
