//! How the backends of a service learn their clients' addresses, which full NAT hides.

use crate::addr::Protocol;

/// What a service's flows carry for its backends, beside the client's own bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientAddress {
    /// Nothing: backends see the balancer's address.
    #[default]
    None,
    /// A header of PROXY protocol version 2: TCP at the start of the client's stream, UDP before each datagram.
    ProxyV2,
    /// UDP: the same before the first datagram of each flow.
    ProxyV2First,
    /// TCP: an option of the SYN and of the segments that complete the handshake, where there is room.
    Toa,
}

impl ClientAddress {
    /// Whether a service of this protocol can have it.
    pub const fn suits(self, protocol: Protocol) -> bool {
        match self {
            Self::None => true,
            // The first would have to be a message of its own with SCTP.
            Self::ProxyV2 => matches!(protocol, Protocol::Tcp | Protocol::Udp),
            Self::ProxyV2First => matches!(protocol, Protocol::Udp),
            Self::Toa => matches!(protocol, Protocol::Tcp),
        }
    }

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ProxyV2 => "proxyV2",
            Self::ProxyV2First => "proxyV2First",
            Self::Toa => "toa",
        }
    }
}
