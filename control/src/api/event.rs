//! One change of state.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Envelope, Severity, Time};

/// The kinds of events. Names are stable: programs depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventCode {
    /// The balancer started.
    Started,
    /// It is shutting down: open flows may finish, new ones go to other balancers.
    Draining,
    ServiceAdded,
    ServiceRemoved,
    /// A service changed its state.
    ServiceState,
    /// A backend changed its state.
    BackendState,
    /// A configuration file was read and is in use.
    ConfigRead,
    /// A configuration file was rejected; the last valid one stays in use.
    ConfigRejected,
    /// The connection to a source of backends is lost.
    DiscoveryLost,
    DiscoveryBack,
    /// A pod or endpoint must not be a backend: its address, namespace or quota does not allow it.
    LeftOut,
    /// Two clients of the vL3 network claim one address.
    AddressConflict,
    /// Two clients of the vL3 network claim one pod name.
    NameConflict,
    /// Another balancer of the group is ready.
    BalancerJoined,
    /// Another balancer of the group is not ready any more, has left, or does not renew its Lease.
    BalancerLeft,
    /// The interface is gone or down.
    InterfaceLost,
    InterfaceBack,
    /// The addresses or the MTU of the interface changed.
    InterfaceChanged,
    /// The data plane was attached to the interface.
    Attached,
    /// The interface exists, but the data plane cannot be attached to it.
    AttachFailed,
    /// The connection to the vL3 network changed its state.
    NsmState,
    /// A call to the manager of Network Service Mesh failed. Only the first failure in a row is an event, and
    /// later ones of another kind.
    NsmCallFailed,
    /// The vL3 network assigned other addresses.
    NsmAddressChanged,
    /// A limit is reached or nearly reached.
    CapacityShort,
    CapacityBack,
    /// A worker runs on another CPU core: the kernel's receiving took its own one under a flood, or that is over.
    WorkerMoved,
    /// Events that a reader missed because it was too slow.
    EventsLost,
}

impl EventCode {
    /// All codes.
    pub const ALL: [Self; 27] = [
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
        Self::LeftOut,
        Self::AddressConflict,
        Self::NameConflict,
        Self::BalancerJoined,
        Self::BalancerLeft,
        Self::InterfaceLost,
        Self::InterfaceBack,
        Self::InterfaceChanged,
        Self::Attached,
        Self::AttachFailed,
        Self::NsmState,
        Self::NsmCallFailed,
        Self::NsmAddressChanged,
        Self::CapacityShort,
        Self::CapacityBack,
        Self::WorkerMoved,
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
            Self::LeftOut => "left_out",
            Self::AddressConflict => "address_conflict",
            Self::NameConflict => "name_conflict",
            Self::BalancerJoined => "balancer_joined",
            Self::BalancerLeft => "balancer_left",
            Self::InterfaceLost => "interface_lost",
            Self::InterfaceBack => "interface_back",
            Self::InterfaceChanged => "interface_changed",
            Self::Attached => "attached",
            Self::AttachFailed => "attach_failed",
            Self::NsmState => "nsm_state",
            Self::NsmCallFailed => "nsm_call_failed",
            Self::NsmAddressChanged => "nsm_address_changed",
            Self::CapacityShort => "capacity_short",
            Self::CapacityBack => "capacity_back",
            Self::WorkerMoved => "worker_moved",
            Self::EventsLost => "events_lost",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Starts at 1, without gaps; a reader sees gaps where its filter rejects events, or where it lost some.
    pub sequence: u64,
    pub time: Time,
    pub severity: Severity,
    pub code: EventCode,
    /// The service concerned.
    pub service: Option<String>,
    /// The backend concerned.
    pub backend: Option<SocketAddr>,
    /// The old state.
    pub from: Option<String>,
    /// The new state.
    pub to: Option<String>,
    /// The whole event in words.
    pub text: String,
}

/// A list of events, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventList {
    #[serde(flatten)]
    pub envelope: Envelope<Event>,
    /// Events so far.
    pub events_total: u64,
    /// Events that readers missed.
    pub events_lost_total: u64,
}
