//! Classifies packets: of a flow, for the slow path, or stray.

use std::net::Ipv4Addr;

use vl3lb_common::DropReason;
use vl3lb_common::addr::to_octets;

use super::batch::Prepared;
use super::lookup::Lookup;
use super::policy::Policy;
use super::tuple::Tuple;
use crate::flow::FlowTable;
use crate::packet::{self, Parsed};
use crate::port::{Frame, packet_len};

/// The kind of a packet.
#[derive(Debug, Clone)]
pub(super) enum Class {
    /// A TCP or UDP packet with its ports: it has a flow, or may open one. [`Prepared::lookup`] is its own.
    Flow,
    /// An ICMP message, a fragment or an SCTP packet to the own address with this index, or any packet to an address that was an own one
    /// and still has flows.
    SlowPath { local: u8 },
    /// Not forwarded.
    Drop(DropReason),
}

impl Prepared {
    /// Fills this place with a packet.
    #[inline(always)]
    pub(super) fn classify<F: Frame>(&mut self, policy: &Policy, table: &FlowTable, packet: &[F]) {
        self.frames = packet.len();
        self.early = None;
        if let Err(reason) = self.set_class(policy, table, packet) {
            self.class = Class::Drop(reason);
        }
    }

    /// Writes parsed packet and class where they stay, which spares a copy.
    #[inline(always)]
    fn set_class<F: Frame>(
        &mut self,
        policy: &Policy,
        table: &FlowTable,
        packet: &[F],
    ) -> Result<(), DropReason> {
        let parsed = &mut self.parsed;
        let head = packet.first().ok_or(DropReason::Malformed)?.bytes();
        packet::parse_into(parsed, head, packet_len(packet), policy.framing)?;
        let Some(local) = table.find_local(&parsed.destination) else {
            let local = foreign(policy, table, parsed)?;
            self.class = Class::SlowPath { local };
            return Ok(());
        };
        self.class = match Tuple::of(parsed, local) {
            Some((tuple, flags)) => {
                self.lookup = Lookup::new(policy, table, parsed, tuple, flags);
                Class::Flow
            }
            None => Class::SlowPath { local },
        };
        Ok(())
    }
}

/// The index of the former own address that a packet is sent to.
#[cold]
fn foreign(policy: &Policy, table: &FlowTable, parsed: &Parsed) -> Result<u8, DropReason> {
    check_source(policy, table, parsed)?;
    table
        .find_departed(&parsed.destination)
        .ok_or(DropReason::NoService)
}

/// Drops a packet whose source is an own address, which cannot come in from outside, or the broadcast address of a
/// subnet (RFC 1122 section 3.2.1.3). No flow has such a client or backend, so packets of a flow need no check.
#[cold]
pub(super) fn check_source(policy: &Policy, table: &FlowTable, parsed: &Parsed) -> Result<(), DropReason> {
    let is_source = |broadcast: &Ipv4Addr| to_octets((*broadcast).into()) == parsed.source;
    if table.find_local(&parsed.source).is_some() || policy.snapshot.broadcasts.iter().any(is_source) {
        return Err(DropReason::Martian);
    }
    Ok(())
}
