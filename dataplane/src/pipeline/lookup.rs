//! Which flow a packet belongs to.

use vl3lb_common::Protocol;

use super::Context;
use super::policy::Policy;
use super::tuple::Tuple;
use crate::flow::{FlowId, FlowTable, Probe};
use crate::packet::{Parsed, TcpFlags};

/// Where the flow of a packet is looked for.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    pub(super) tuple: Tuple,
    /// None for UDP. SCTP: SYN for an INIT, ACK for all others.
    pub(super) flags: TcpFlags,
    /// The worker whose NAT port the packet is sent to, if it is one.
    pub(super) nat_owner: Option<u16>,
    /// That is this one, so that the packet may be a reply.
    pub(super) is_reply: bool,
    /// By its reply key then, else by its request key.
    pub(super) probe: Probe,
}

/// The flow of a packet.
pub(super) enum Found {
    /// The packet is the backend's.
    Reply(FlowId),
    /// The packet is the client's.
    Request(FlowId),
    /// No flow here, or one that has expired.
    Nothing(Option<FlowId>),
}

impl Lookup {
    /// A place to be filled.
    pub(super) const EMPTY: Self = Self {
        tuple: Tuple {
            protocol: Protocol::Udp,
            source_port: 0,
            destination_port: 0,
            local: 0,
        },
        flags: TcpFlags(0),
        nat_owner: None,
        is_reply: false,
        probe: Probe::NONE,
    };

    #[inline(always)]
    pub(super) fn new(
        policy: &Policy,
        table: &FlowTable,
        parsed: &Parsed,
        tuple: Tuple,
        flags: TcpFlags,
    ) -> Self {
        let nat_owner = policy.nat_owner(tuple);
        let is_reply = nat_owner == Some(policy.worker);
        let probe = if is_reply {
            table.reply_probe(&tuple.reply_key(parsed.source))
        } else {
            table.request_probe(&tuple.request_key(parsed.source))
        };
        Self {
            tuple,
            flags,
            nat_owner,
            is_reply,
            probe,
        }
    }
}

/// Finds the flow of a packet.
#[inline(always)]
pub(super) fn find(table: &FlowTable, context: Context<'_>) -> Found {
    let Context {
        parsed, lookup, now, ..
    } = context;
    let tuple = lookup.tuple;
    let request_probe;
    let probe = if lookup.is_reply {
        if let Some(id) = table.reply_at(&lookup.probe, tuple.reply_key(parsed.source), now) {
            return Found::Reply(id);
        }
        request_probe = table.request_probe(&tuple.request_key(parsed.source));
        &request_probe
    } else {
        &lookup.probe
    };
    // Whoever has the flow owns it: the owner's hash is computed only where there is none.
    table
        .request_at(probe, tuple.request_key(parsed.source), now)
        .map_or_else(Found::Nothing, Found::Request)
}
