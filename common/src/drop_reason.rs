//! The one list of reasons why a packet was not forwarded.
//!
//! One reason, one cause, one remedy. Metrics, the command line and tests all use this enum.

/// Why a packet was not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// Headers that contradict each other or the frame's length.
    Malformed,
    /// An IPv4 header, ICMP or SCTP checksum that is wrong, or a TCP checksum of a packet that is made anew.
    BadChecksum,
    /// A protocol that is not balanced.
    UnsupportedProtocol,
    /// No service at this address, port and protocol: it, or the address, was just removed.
    NoService,
    /// A TCP packet of no known flow that does not open one.
    NotSyn,
    /// An SCTP packet of no known association that does not open one; rejected with ABORT.
    NotInit,
    /// An SCTP packet with another verification tag than its association's, or an INIT of a backend.
    VerificationTag,
    /// A fragment of an SCTP packet: its checksum covers all fragments.
    SctpFragment,
    /// A fragment whose first fragment was not seen in time, was dropped or went to another flow, or of a packet that a
    /// PROXY header is to go with.
    FragmentUnmatched,
    /// A fragment that repeats or overlaps another one of its datagram (RFC 5722).
    FragmentOverlap,
    /// TTL or hop limit used up; rejected with Time Exceeded.
    TtlExpired,
    /// An invalid source address: loopback, multicast, a broadcast address, the balancer's own.
    Martian,
    /// A datagram from the address and port of one of the service's backends: two backends would answer each other for
    /// ever.
    BackendLoop,
    /// The client's address is in none of the service's source ranges.
    SourceNotAllowed,
    /// The service has no backend of this family; rejected with RST or Port Unreachable.
    NoBackend,
    /// Each backend of the service has as many flows as one may have (`maxFlowsPerBackend`).
    BackendsFull,
    /// The flow's backend is down.
    BackendDown,
    /// The flow's backend was removed and its drain time is over.
    DrainDeadline,
    /// The kernel has no route to the backend out of the interface, or a route that refuses packets to the backend or the
    /// client (`unreachable`, `blackhole`, `prohibit`).
    NoRoute,
    /// The next hop's MAC address is not resolved yet.
    NeighborUnresolved,
    /// No entry left in the flow table.
    FlowTableFull,
    /// No NAT port left towards this backend.
    NatPortsExhausted,
    /// The client has its share of flows.
    ClientLimit,
    /// More new flows than the worker can take: those of sources that have completed no TCP handshake lately wait.
    Overload,
    /// Too many unfinished fragmented datagrams, of one source or in all.
    FragmentTableFull,
    /// The transmit ring stayed full.
    TxRingFull,
    /// The kernel does not send such a packet: it has more frames than a socket buffer, or an empty one.
    TxRefused,
    /// No free frame for a segment.
    UmemExhausted,
    /// The ring to the flow's worker is full.
    HandoffFull,
    /// A packet to a NAT port that no flow owns.
    UnknownReply,
    /// An ICMP error about a packet of no known flow.
    IcmpUnmatched,
    /// Longer than the next hop takes, and neither to be segmented nor to be fragmented; rejected with Fragmentation
    /// Needed or Packet Too Big.
    MtuExceeded,
    /// A UDP super-packet: its segment size is unknown in this mode.
    UdpSuperPacket,
    /// The same of SCTP.
    SctpSuperPacket,
    /// A defect of vl3-lb. Must stay 0.
    Internal,
}

impl DropReason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 35] = [
        Self::Malformed,
        Self::BadChecksum,
        Self::UnsupportedProtocol,
        Self::NoService,
        Self::NotSyn,
        Self::NotInit,
        Self::VerificationTag,
        Self::SctpFragment,
        Self::FragmentUnmatched,
        Self::FragmentOverlap,
        Self::TtlExpired,
        Self::Martian,
        Self::BackendLoop,
        Self::SourceNotAllowed,
        Self::NoBackend,
        Self::BackendsFull,
        Self::BackendDown,
        Self::DrainDeadline,
        Self::NoRoute,
        Self::NeighborUnresolved,
        Self::FlowTableFull,
        Self::NatPortsExhausted,
        Self::ClientLimit,
        Self::Overload,
        Self::FragmentTableFull,
        Self::TxRingFull,
        Self::TxRefused,
        Self::UmemExhausted,
        Self::HandoffFull,
        Self::UnknownReply,
        Self::IcmpUnmatched,
        Self::MtuExceeded,
        Self::UdpSuperPacket,
        Self::SctpSuperPacket,
        Self::Internal,
    ];

    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();

    /// Position in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The label value in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadChecksum => "bad_checksum",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::NoService => "no_service",
            Self::NotSyn => "not_syn",
            Self::NotInit => "not_init",
            Self::VerificationTag => "verification_tag",
            Self::SctpFragment => "sctp_fragment",
            Self::FragmentUnmatched => "fragment_unmatched",
            Self::FragmentOverlap => "fragment_overlap",
            Self::TtlExpired => "ttl_expired",
            Self::Martian => "martian",
            Self::BackendLoop => "backend_loop",
            Self::SourceNotAllowed => "source_not_allowed",
            Self::NoBackend => "no_backend",
            Self::BackendsFull => "backends_full",
            Self::BackendDown => "backend_down",
            Self::DrainDeadline => "drain_deadline",
            Self::NoRoute => "no_route",
            Self::NeighborUnresolved => "neighbor_unresolved",
            Self::FlowTableFull => "flow_table_full",
            Self::NatPortsExhausted => "nat_ports_exhausted",
            Self::ClientLimit => "client_limit",
            Self::Overload => "overload",
            Self::FragmentTableFull => "fragment_table_full",
            Self::TxRingFull => "tx_ring_full",
            Self::TxRefused => "tx_refused",
            Self::UmemExhausted => "umem_exhausted",
            Self::HandoffFull => "handoff_full",
            Self::UnknownReply => "unknown_reply",
            Self::IcmpUnmatched => "icmp_unmatched",
            Self::MtuExceeded => "mtu_exceeded",
            Self::UdpSuperPacket => "udp_super_packet",
            Self::SctpSuperPacket => "sctp_super_packet",
            Self::Internal => "internal",
        }
    }

    /// The remedy for operators.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Malformed | Self::BadChecksum | Self::UnsupportedProtocol | Self::Martian => {
                "the sender is broken or hostile; look at its packets if there are many"
            }
            Self::NoService => "a client uses a service that is gone; check the configuration",
            Self::NotSyn | Self::NotInit => "the flow is unknown: timed out, or older than this balancer",
            Self::VerificationTag => {
                "an attack, or packets of an association that is gone; look at the sender's packets"
            }
            Self::SctpFragment => "lower the sender's path MTU for SCTP, so that it divides messages itself",
            Self::FragmentUnmatched => {
                "the first fragment was lost, which a small MTU may cause, or dropped; look for its own reason"
            }
            Self::FragmentOverlap => {
                "a path that duplicates packets, or an attack; look at the sender's packets"
            }
            Self::TtlExpired => "a routing loop, or a traceroute",
            Self::BackendLoop => {
                "somebody forges datagrams, or a backend uses its own service from its service port: have it use another"
            }
            Self::SourceNotAllowed => "if the client should be served, add its network to `sourceRanges`",
            Self::NoBackend => "add a backend of this address family, or look why the known ones are out",
            Self::BackendsFull => "add backends, or raise `maxFlowsPerBackend`",
            Self::BackendDown => "look at the backend",
            Self::DrainDeadline => "raise the service's drain time if flows need longer",
            Self::NoRoute => {
                "add a route to the backend; see `ip route get ADDRESS from OWN oif INTERFACE` and `ip rule`"
            }
            Self::NeighborUnresolved => "the backend or its gateway does not answer ARP or ND; check routes",
            Self::FlowTableFull => "raise `flows`",
            Self::NatPortsExhausted => "add backends, or widen `natPorts`",
            Self::ClientLimit => {
                "look at the client; if it needs more flows, raise `clientFlows` or add backends"
            }
            Self::Overload => {
                "a flood of new flows, or more clients than the workers can take: give them more CPU or queues"
            }
            Self::FragmentTableFull => "a flood of fragments, or a path with a small MTU",
            Self::TxRingFull | Self::HandoffFull => "the workers are saturated: give them more CPU or queues",
            Self::TxRefused => "packets are spread over too many frames: lower the senders' MTU",
            Self::UmemExhausted => "the workers are saturated, or super-packets are large: raise `frames`",
            Self::UnknownReply => "a backend sends to a flow that is gone; was the balancer restarted?",
            Self::IcmpUnmatched => "nothing, unless there are many",
            Self::MtuExceeded => {
                "nothing if its sender then sends less; else raise the MTU of the interface or of the route"
            }
            Self::UdpSuperPacket => {
                "use `mode: auto` or `companion`, or switch off UDP segmentation at the sender"
            }
            Self::SctpSuperPacket => {
                "use `mode: auto` or `companion`, or switch off SCTP segmentation at the sender"
            }
            Self::Internal => "report it",
        }
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_at_its_index_and_has_its_own_name() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
        let names: std::collections::HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
    }
}
