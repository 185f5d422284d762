//! A short way for the packets that nearly all are: plain, of a flow that they leave in its state, with nothing to learn
//! or to decide. Each condition of the long way ([`super::decide`]) is asked for here; where one does not hold, nothing has
//! changed, and the packet goes the long way, which gives the same result for all.

use vl3lb_common::{MacAddr, Protocol, Timestamp};

use super::Engine;
use super::batch::Prepared;
use super::classify::Class;
use super::next_hop::is_client_known;
use super::policy::{LinkHeader, Policy};
use super::size::unsuspicious_len;
use crate::flow::{Direction, FlowId, HotEntry};
use crate::packet::{self, Family, Framing, PlainHeaders, TCP, Translation, UDP};
use crate::port::Frame;

impl Engine {
    /// Translates a packet in one frame and counts it, if it needs no more than that: it is to be transmitted. Else nothing changes.
    ///
    /// While somebody captures (`CAPTURES`), only of flows that no capture wants: this costs less than asking the filters
    /// first.
    #[inline(always)]
    pub(super) fn forward_plain<const CAPTURES: bool, F: Frame>(
        &mut self,
        frame: &mut F,
        prepared: &Prepared,
        now: Timestamp,
    ) -> bool {
        let lookup = &prepared.lookup;
        if !matches!(prepared.class, Class::Flow) || !prepared.parsed.plain {
            return false;
        }
        let is_udp = lookup.tuple.protocol == Protocol::Udp;
        let forwarded = match (is_udp, lookup.is_reply) {
            (true, false) => self.forward_to_backend::<CAPTURES, F, UDP>(frame, prepared, now),
            (true, true) => self.forward_to_client::<CAPTURES, F, UDP>(frame, prepared, now),
            (false, false) => self.forward_to_backend::<CAPTURES, F, TCP>(frame, prepared, now),
            (false, true) => self.forward_to_client::<CAPTURES, F, TCP>(frame, prepared, now),
        };
        forwarded.is_some()
    }

    #[inline(always)]
    fn forward_to_backend<const CAPTURES: bool, F: Frame, const N: usize>(
        &mut self,
        frame: &mut F,
        prepared: &Prepared,
        now: Timestamp,
    ) -> Option<()> {
        let table = self.tables.flows.table();
        let (tuple, probe) = (prepared.lookup.tuple, &prepared.lookup.probe);
        let id = table.guessed_request(probe, tuple.request_key(prepared.parsed.source), now)?;
        let entry = table.entry(id);
        if CAPTURES && !entry.is_uncaptured() {
            return None;
        }
        let reach = self.policy.reach(entry);
        if !reach.is_plain || !is_client_known(&self.policy, entry) {
            return None;
        }
        let macs = macs(&self.policy, || reach.mac())?;
        let endpoint = table.endpoint(entry);
        let to = Translation {
            source: table.local_address(entry.local),
            destination: endpoint.address,
            source_port: entry.nat_port,
            destination_port: endpoint.port,
        };
        self.go_on::<F, N>(frame, prepared, (id, Direction::In), macs, &to, now)
    }

    #[inline(always)]
    fn forward_to_client<const CAPTURES: bool, F: Frame, const N: usize>(
        &mut self,
        frame: &mut F,
        prepared: &Prepared,
        now: Timestamp,
    ) -> Option<()> {
        let table = self.tables.flows.table();
        let (tuple, probe) = (prepared.lookup.tuple, &prepared.lookup.probe);
        let id = table.guessed_reply(probe, tuple.reply_key(prepared.parsed.source), now)?;
        let entry = table.entry(id);
        if (CAPTURES && !entry.is_uncaptured()) || !self.policy.reach(entry).is_plain {
            return None;
        }
        // Looked at by itself: an address that may be absent would be copied once more.
        let is_ethernet = !matches!(self.policy.header, LinkHeader::RawIp);
        if is_ethernet && !self.policy.is_hop_current(entry) {
            return None;
        }
        let macs = macs(&self.policy, || Some(MacAddr(entry.client_mac)))?;
        let to = Translation {
            source: table.local_address(entry.local),
            destination: entry.client,
            source_port: entry.service_port,
            destination_port: entry.client_port,
        };
        self.go_on::<F, N>(frame, prepared, (id, Direction::Out), macs, &to, now)
    }

    /// The last conditions, and then the changes: the flow's state, which stays, the packet, and the counters.
    #[inline(always)]
    fn go_on<F: Frame, const N: usize>(
        &mut self,
        frame: &mut F,
        prepared: &Prepared,
        (id, direction): (FlowId, Direction),
        macs: Macs,
        to: &Translation,
        now: Timestamp,
    ) -> Option<()> {
        let (parsed, flows) = (&prepared.parsed, &mut self.tables.flows);
        let entry: &HotEntry = flows.table().entry(id);
        let (owner, bytes) = (entry.owner(), parsed.ip_len());
        // Datagrams are not segmented; their entry has another number there.
        let flow_mss = if N == TCP { entry.mss } else { 0 };
        if bytes > unsuspicious_len(&self.policy, Family::V4, flow_mss) {
            return None;
        }
        let segment = match N {
            TCP => Some(packet::tcp_segment(frame.bytes(), parsed)?),
            _ => None,
        };
        let head = frame.bytes_mut();
        // Both ways for themselves, so that all offsets are constants.
        if let Some((own, next_hop)) = macs {
            let headers = PlainHeaders::<N>::complete(head, Framing::Ethernet.header_len())?;
            if !flows.goes_on(id, direction, segment.as_ref(), now) {
                return None;
            }
            headers.translate(to);
            packet::set_macs(head, next_hop, own);
        } else {
            let headers = PlainHeaders::<N>::complete(head, Framing::RawIp.header_len())?;
            if !flows.goes_on(id, direction, segment.as_ref(), now) {
                return None;
            }
            headers.translate(to);
        }
        flows.count_packet(id, owner, direction, bytes);
        Some(())
    }
}

/// Source and destination of the Ethernet header; `None` on a raw-IP link.
type Macs = Option<(MacAddr, MacAddr)>;

/// `None` if `next_hop`, which counts on Ethernet only, is none.
#[inline(always)]
fn macs(policy: &Policy, next_hop: impl FnOnce() -> Option<MacAddr>) -> Option<Macs> {
    match policy.header {
        LinkHeader::RawIp => Some(None),
        LinkHeader::Ethernet(own) => Some(Some((own, next_hop()?))),
        LinkHeader::Unknown => None,
    }
}
