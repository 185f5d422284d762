//! SCTP packets: the steps of all flows, and beside them the tags, the states and the checksum of associations.
//!
//! They are not many and cost a pass over the packet anyway, so they take the slow path from the beginning and leave the
//! code of other packets alone. For the steps an INIT is what a SYN is: [`flags`].

use vl3lb_common::{DropReason, Timestamp};

use crate::flow::{Direction, FlowId, State};
use crate::packet::{self, Parsed, SctpChunks, SctpPacket, TcpFlags};
use crate::pipeline::lookup::{self, Found, Lookup};
use crate::pipeline::reject::DropContext;
use crate::pipeline::tuple::Tuple;
use crate::pipeline::{Context, Engine, Origin, Verdict};
use crate::port::Frame;

impl Engine {
    /// Decides about an SCTP packet to the own address with the index `local`. O(payload).
    pub(super) fn sctp<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        local: u8,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        packet::check_sctp(packet, parsed)?;
        let read = packet::sctp_packet(packet, parsed)?;
        let tuple = Tuple::of_sctp(parsed, local).ok_or(DropReason::Internal)?;
        let table = self.tables.flows.table();
        let lookup = Lookup::new(&self.policy, table, parsed, tuple, flags(&read));
        let context = Context {
            parsed,
            lookup: &lookup,
            origin,
            now,
        };
        if let Some((id, direction)) = self.association(context)
            && !self.tables.flows.sctp_passes(id, direction, &read)
        {
            let service = self.tables.flows.table().entry(id).service();
            return Err(DropContext::of(service, DropReason::VerificationTag));
        }
        let verdict = self.balance(packet, context, None)?;
        if !matches!(verdict, Verdict::Transmit | Verdict::Fragment { .. }) {
            return Ok(verdict);
        }
        packet::seal_sctp(packet, parsed, &read)?;
        self.advance_association(context, &read);
        if parsed.dont_fragment {
            Ok(verdict)
        } else {
            self.identify(packet, parsed, Ok(verdict))
        }
    }

    /// The flow of a packet, and where the packet goes. The port of a service may be the NAT port of a flow that is older.
    fn association(&self, context: Context<'_>) -> Option<(FlowId, Direction)> {
        let table = self.tables.flows.table();
        match lookup::find(table, context) {
            Found::Reply(id) => Some((id, Direction::Out)),
            Found::Request(id) => Some((id, Direction::In)),
            Found::Nothing(_) => {
                let tuple = context.tuple();
                let key = tuple.reply_key(context.parsed.source);
                (self.policy.range_owner(tuple) == Some(self.policy.worker))
                    .then(|| table.reply(&key, context.now))
                    .flatten()
                    .map(|id| (id, Direction::Out))
            }
        }
    }

    /// Takes a packet that is to be sent into the state of its flow, which it may have opened.
    fn advance_association(&mut self, context: Context<'_>, read: &SctpPacket) {
        let Some((id, direction)) = self.association(context) else {
            return;
        };
        let now = context.now;
        let flows = &mut self.tables.flows;
        let is_new = flows.table().entry(id).state() == State::Opening
            && flows.table().counters(id).packets(Direction::In) == 1
            && direction == Direction::In;
        if is_new {
            flows.open_sctp(id, read);
            return;
        }
        let before = flows.advance_sctp(id, direction, read, now);
        match (before, flows.table().entry(id).state()) {
            (Some(State::Opening), State::Answered) => flows.count_connect(id, now),
            // The client has got what was sent to its address.
            (Some(State::Opening | State::Answered), State::Established) => {
                let client = flows.table().entry(id).client;
                self.tables.overload.prove(&client, now);
            }
            _ => {}
        }
    }
}

/// What the steps of all flows go by: an INIT opens a flow as a SYN does, and all other packets need one.
const fn flags(read: &SctpPacket) -> TcpFlags {
    TcpFlags(if read.chunks.has(SctpChunks::INIT) {
        TcpFlags::SYN
    } else {
        TcpFlags::ACK
    })
}
