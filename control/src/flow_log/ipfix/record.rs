//! The templates, and the records that follow them.
//!
//! A flow is one record of both directions (RFC 5103): the client is the source, and the reverse elements count the reply.
//! The addresses and ports after translation are those of the packet to the backend.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use vl3lb_common::stats::CloseCause;

use crate::api::{Flow, FlowEvent, Time};

/// The enterprise number of reverse elements (RFC 5103 section 6.1).
const REVERSE: u32 = 29_305;
/// A length that each value states itself (RFC 7011 section 7).
const VARIABLE: u16 = 65_535;
/// The longest value whose length is one byte (RFC 7011 section 7).
const LONGEST_NAME: usize = 254;

/// One element of a template: number, length, and whether it is of the reply.
#[derive(Debug, Clone, Copy)]
struct Element {
    id: u16,
    length: u16,
    reverse: bool,
}

const fn element(id: u16, length: u16) -> Element {
    Element {
        id,
        length,
        reverse: false,
    }
}

const fn reverse(id: u16, length: u16) -> Element {
    Element {
        id,
        length,
        reverse: true,
    }
}

/// `observationTimeMilliseconds`, `protocolIdentifier`, `applicationName`, and the ports before and after translation.
const BOTH: [Element; 7] = [
    element(323, 8),
    element(4, 1),
    element(7, 2),
    element(11, 2),
    element(227, 2),
    element(228, 2),
    element(96, VARIABLE),
];
/// `natEvent` (RFC 8158 section 4.3 has no event of a session from IPv6 to IPv6), `sourceIPv4Address`,
/// `destinationIPv4Address`, `postNATSourceIPv4Address`, `postNATDestinationIPv4Address`.
const V4: [Element; 5] = [
    element(230, 1),
    element(8, 4),
    element(12, 4),
    element(225, 4),
    element(226, 4),
];
/// `sourceIPv6Address`, `destinationIPv6Address`, `postNATSourceIPv6Address`, `postNATDestinationIPv6Address`.
const V6: [Element; 4] = [
    element(27, 16),
    element(28, 16),
    element(281, 16),
    element(282, 16),
];
/// `flowStartMilliseconds`, `flowEndMilliseconds`, `octetDeltaCount` and `packetDeltaCount` of both directions,
/// `flowEndReason`.
const CLOSED: [Element; 7] = [
    element(152, 8),
    element(153, 8),
    element(1, 8),
    element(2, 8),
    reverse(1, 8),
    reverse(2, 8),
    element(136, 1),
];

/// The kinds of records; the numbers are those of their templates (RFC 7011 section 3.4.1: from 256 on).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ClosedV4 = 256,
    ClosedV6 = 257,
    OpenedV4 = 258,
    OpenedV6 = 259,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::ClosedV4, Self::ClosedV6, Self::OpenedV4, Self::OpenedV6];

    /// The number of the template.
    pub(super) const fn template(self) -> u16 {
        self as u16
    }

    const fn is_closed(self) -> bool {
        matches!(self, Self::ClosedV4 | Self::ClosedV6)
    }

    const fn is_v4(self) -> bool {
        matches!(self, Self::ClosedV4 | Self::OpenedV4)
    }

    fn elements(self) -> impl Iterator<Item = Element> {
        let addresses: &[Element] = if self.is_v4() { &V4 } else { &V6 };
        let closed: &[Element] = if self.is_closed() { &CLOSED } else { &[] };
        BOTH.iter().chain(addresses).chain(closed).copied()
    }

    /// Appends the template record (RFC 7011 section 3.4.1).
    pub(super) fn write_template(self, bytes: &mut Vec<u8>) {
        let count = u16::try_from(self.elements().count()).unwrap_or(u16::MAX);
        bytes.extend(self.template().to_be_bytes());
        bytes.extend(count.to_be_bytes());
        for element in self.elements() {
            // The highest bit says that an enterprise number follows.
            let enterprise = if element.reverse { 1 << 15 } else { 0 };
            bytes.extend((element.id | enterprise).to_be_bytes());
            bytes.extend(element.length.to_be_bytes());
            if element.reverse {
                bytes.extend(REVERSE.to_be_bytes());
            }
        }
    }
}

/// Appends the record of an event to `bytes`, and returns its kind; `None` for a loss.
pub(super) fn write(event: &FlowEvent, bytes: &mut Vec<u8>) -> Option<Kind> {
    let (time, flow, cause) = match event {
        FlowEvent::Open { time, flow } => (*time, flow, None),
        FlowEvent::Close { time, cause, flow } => (*time, flow, Some(cause.as_str())),
        FlowEvent::Lost { .. } => return None,
    };
    let kind = match (flow.client.is_ipv4(), cause) {
        (true, Some(_)) => Kind::ClosedV4,
        (false, Some(_)) => Kind::ClosedV6,
        (true, None) => Kind::OpenedV4,
        (false, None) => Kind::OpenedV6,
    };
    bytes.extend(millis(time).to_be_bytes());
    bytes.push(flow.protocol.number());
    for port in [
        flow.client_port,
        flow.service_port,
        flow.nat_port,
        flow.backend_port,
    ] {
        bytes.extend(port.to_be_bytes());
    }
    write_name(flow.service.as_deref().unwrap_or_default(), bytes);
    if kind.is_v4() {
        // NAT44 session create and delete (RFC 8158 section 4.3).
        bytes.push(if cause.is_some() { 5 } else { 4 });
    }
    for address in [
        flow.client,
        flow.service_address,
        flow.service_address,
        flow.backend,
    ] {
        match (address, kind.is_v4()) {
            (IpAddr::V4(address), true) => bytes.extend(address.octets()),
            (IpAddr::V6(address), false) => bytes.extend(address.octets()),
            // All addresses of a flow are of one family.
            (IpAddr::V4(address), false) => bytes.extend(address.to_ipv6_mapped().octets()),
            (IpAddr::V6(_), true) => bytes.extend([0; 4]),
        }
    }
    if let Some(cause) = cause {
        write_end(flow, time, cause, bytes);
    }
    Some(kind)
}

fn write_end(flow: &Flow, time: Time, cause: &str, bytes: &mut Vec<u8>) {
    let age = Duration::try_from_secs_f64(flow.age_seconds).unwrap_or_default();
    let counts = [
        millis(time.before(age)),
        millis(time),
        flow.inbound.bytes_total,
        flow.inbound.packets_total,
        flow.outbound.bytes_total,
        flow.outbound.packets_total,
    ];
    for count in counts {
        bytes.extend(count.to_be_bytes());
    }
    bytes.push(end_reason(cause));
}

/// `flowEndReason` (RFC 5102 section 5.11.3): idle timeout, end detected, forced end, lack of resources.
fn end_reason(cause: &str) -> u8 {
    let known = CloseCause::ALL.into_iter().find(|known| known.name() == cause);
    match known {
        Some(CloseCause::Idle) => 1,
        Some(CloseCause::Fin | CloseCause::Rst) => 3,
        Some(CloseCause::Reclaimed | CloseCause::Evicted) => 5,
        Some(
            CloseCause::Drain | CloseCause::BackendDown | CloseCause::InterfaceLost | CloseCause::PortTaken,
        )
        | None => 4,
    }
}

/// Appends a text with its length; a longer one is cut.
fn write_name(name: &str, bytes: &mut Vec<u8>) {
    let name = &name[..name.floor_char_boundary(LONGEST_NAME)];
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend(name.as_bytes());
}

/// Milliseconds since 1970.
fn millis(time: Time) -> u64 {
    let since = time.0.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
