//! The ports and the own address of a packet: with its source address, the key of its flow.

use vl3lb_common::Protocol;

use crate::flow::{ReplyKey, RequestKey};
use crate::packet::{Parsed, TcpFlags, Transport};

/// Ports and addresses of a TCP, UDP or SCTP packet to one of the own addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuple {
    pub(super) protocol: Protocol,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) local: u8,
}

impl Tuple {
    /// Of a TCP or UDP packet, and its TCP flags.
    #[inline(always)]
    pub(super) const fn of(parsed: &Parsed, local: u8) -> Option<(Self, TcpFlags)> {
        match parsed.transport {
            Transport::Tcp {
                source_port,
                destination_port,
                flags,
                ..
            } => Some((
                Self {
                    protocol: Protocol::Tcp,
                    source_port,
                    destination_port,
                    local,
                },
                flags,
            )),
            Transport::Udp {
                source_port,
                destination_port,
            } => {
                let tuple = Self {
                    protocol: Protocol::Udp,
                    source_port,
                    destination_port,
                    local,
                };
                Some((tuple, TcpFlags(0)))
            }
            Transport::Sctp { .. } | Transport::Icmp | Transport::Fragment { .. } => None,
        }
    }

    /// Of an SCTP packet.
    pub(super) const fn of_sctp(parsed: &Parsed, local: u8) -> Option<Self> {
        match parsed.transport {
            Transport::Sctp {
                source_port,
                destination_port,
            } => Some(Self {
                protocol: Protocol::Sctp,
                source_port,
                destination_port,
                local,
            }),
            _ => None,
        }
    }

    /// Of any packet with ports.
    #[cold]
    pub(super) fn of_any(parsed: &Parsed, local: u8) -> Option<Self> {
        let plain = Self::of(parsed, local).map(|(tuple, _)| tuple);
        plain.or_else(|| Self::of_sctp(parsed, local))
    }

    pub(super) const fn request_key(self, client: [u8; 16]) -> RequestKey {
        RequestKey {
            client,
            client_port: self.source_port,
            local: self.local,
            service_port: self.destination_port,
            protocol: self.protocol.number(),
        }
    }

    pub(super) const fn reply_key(self, backend: [u8; 16]) -> ReplyKey {
        ReplyKey {
            backend,
            backend_port: self.source_port,
            local: self.local,
            nat_port: self.destination_port,
            protocol: self.protocol.number(),
        }
    }
}
