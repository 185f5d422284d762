//! What is known of a packet, by which filters accept it: its flow, or its addresses.

use std::net::IpAddr;

use vl3lb_common::addr::from_octets;
use vl3lb_common::capture::{CaptureDirection, CapturedFlow, Subject};
use vl3lb_common::{DropReason, Protocol, ServiceSlot, Timestamp};

use crate::flow::{Direction, FlowId, FlowTable, HotEntry};
use crate::packet::{self, Framing, Parsed, Transport};
use crate::pipeline::Engine;
use crate::pipeline::local_client::tuple_of;
use crate::pipeline::policy::Policy;
use crate::pipeline::tuple::Tuple;
use crate::port::{Frame, packet_len};

/// Bytes behind the header of an ICMP message that are taken for headers: those of an IPv6 packet in it, and its ports.
const QUOTE: usize = 48;

/// What is known of a packet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Description {
    pub(super) subject: Subject,
    /// The other way to read a packet without ports: its source is the backend.
    pub(super) reversed: Option<Subject>,
    pub(super) direction: Option<CaptureDirection>,
    pub(super) flow: Option<CapturedFlow>,
}

impl Engine {
    /// A packet with ports, as it came in.
    pub(super) fn describe(&self, parsed: &Parsed, tuple: Tuple, now: Timestamp) -> Description {
        let table = self.tables.flows.table();
        for tuple in [Some(tuple), tuple_of(table, tuple)].into_iter().flatten() {
            if let Some(id) = table.reply(&tuple.reply_key(parsed.source), now) {
                return self.describe_flow(id, Direction::Out);
            }
            if let Some(id) = table.request(&tuple.request_key(parsed.source), now) {
                return self.describe_flow(id, Direction::In);
            }
        }
        let service = self.policy.service_of(parsed, tuple);
        let source = from_octets(parsed.source);
        let is_reply = service.is_none() && self.policy.nat_owner(tuple).is_some();
        let subject = Subject {
            service,
            protocol: Some(tuple.protocol),
            hash: self.hash_of(parsed, tuple),
            ..Subject::default()
        };
        let (subject, direction) = if is_reply {
            let backend = Some((source, Some(tuple.source_port)));
            (Subject { backend, ..subject }, Some(CaptureDirection::Out))
        } else {
            let (client, port) = (Some(source), Some(tuple.destination_port));
            let direction = service.map(|_| CaptureDirection::In);
            (
                Subject {
                    client,
                    port,
                    ..subject
                },
                direction,
            )
        };
        Description {
            subject,
            direction,
            ..Description::default()
        }
    }

    /// The hash of a packet's flow, if the packet is a client's.
    #[inline]
    pub(super) fn hash_of(&self, parsed: &Parsed, tuple: Tuple) -> u64 {
        self.policy.owner_key.tuple_hash(
            &parsed.source,
            tuple.source_port,
            tuple.destination_port,
            tuple.protocol.number(),
        )
    }

    pub(super) fn describe_flow(&self, id: FlowId, direction: Direction) -> Description {
        let table = self.tables.flows.table();
        let entry = table.entry(id);
        let endpoint = table.endpoint(entry);
        Description {
            subject: subject_of(&self.policy, table, entry),
            reversed: None,
            direction: Some(match direction {
                Direction::In => CaptureDirection::In,
                Direction::Out => CaptureDirection::Out,
            }),
            flow: Some(CapturedFlow {
                client: (from_octets(entry.client), entry.client_port),
                backend: (from_octets(endpoint.address), endpoint.port),
                backend_slot: entry.backend(),
                nat_port: entry.nat_port,
            }),
        }
    }
}

impl Description {
    pub(super) fn set_dropped(&mut self, dropped: Option<(Option<ServiceSlot>, DropReason)>) {
        let Some((service, reason)) = dropped else { return };
        for subject in [Some(&mut self.subject), self.reversed.as_mut()]
            .into_iter()
            .flatten()
        {
            subject.reason = Some(reason);
            subject.service = subject.service.or(service);
        }
    }
}

/// The packets of a flow.
pub(super) fn subject_of(policy: &Policy, table: &FlowTable, entry: &HotEntry) -> Subject {
    let endpoint = table.endpoint(entry);
    Subject {
        service: Some(entry.service()),
        client: Some(from_octets(entry.client)),
        backend: Some((from_octets(endpoint.address), Some(endpoint.port))),
        port: Some(entry.service_port),
        protocol: Protocol::from_number(entry.protocol),
        reason: None,
        hash: hash_of_flow(policy, entry),
    }
}

/// The hash of a flow, by which it is in a sample or not.
#[inline]
pub(super) fn hash_of_flow(policy: &Policy, entry: &HotEntry) -> u64 {
    policy.owner_key.tuple_hash(
        &entry.client,
        entry.client_port,
        entry.service_port,
        entry.protocol,
    )
}

/// An ICMP message or a fragment, which goes to `to` if it is forwarded. Which of its ends is the client is not known.
pub(super) fn describe_slow(parsed: &Parsed, to: Option<[u8; 16]>) -> Description {
    let ends: (IpAddr, Option<IpAddr>) = (from_octets(parsed.source), to.map(from_octets));
    let subject = Subject {
        protocol: Protocol::from_number(parsed.protocol()),
        ..Subject::default()
    };
    let backend = |address| (address, None);
    Description {
        subject: Subject {
            client: Some(ends.0),
            backend: ends.1.map(backend),
            ..subject
        },
        reversed: Some(Subject {
            client: ends.1,
            backend: Some(backend(ends.0)),
            ..subject
        }),
        ..Description::default()
    }
}

pub(super) fn parse<F: Frame>(packet: &[F], framing: Framing) -> Option<Parsed> {
    let head = packet.first()?.bytes();
    packet::parse(head, packet_len(packet), framing).ok()
}

pub(super) fn headers_of<F: Frame>(packet: &[F], framing: Framing) -> Option<(Parsed, usize)> {
    let parsed = parse(packet, framing)?;
    let length = headers(&parsed);
    Some((parsed, length))
}

/// Length of all headers of a packet; of an ICMP message with those of the packet in it.
pub(super) const fn headers(parsed: &Parsed) -> usize {
    const ICMP: usize = 8;
    parsed.l4()
        + match parsed.transport {
            Transport::Tcp { header_len, .. } => header_len,
            Transport::Udp { .. } => 8,
            // The common header, and that of the first chunk: RFC 9260 section 3.
            Transport::Sctp { .. } => 12 + 4,
            Transport::Icmp => ICMP + QUOTE,
            // Its offset is not 0, so all of it is payload; of the first one the ports are shown.
            Transport::Fragment { offset, .. } => {
                if offset == 0 {
                    8
                } else {
                    0
                }
            }
        }
}
