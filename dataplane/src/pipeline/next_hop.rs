//! Where frames are sent: the Ethernet addresses of backends and clients.

use std::net::IpAddr;

use vl3lb_common::addr::from_octets;
use vl3lb_common::flow_query::WorkerEvent;
use vl3lb_common::next_hop::{Link, NextHop};
use vl3lb_common::{Backend, DropReason, MacAddr};

use super::Engine;
use crate::flow::FlowId;
use crate::packet::{self, Framing};
use crate::port::Frame;

impl Engine {
    /// Where frames to a backend go; `None` on a raw-IP link.
    #[inline]
    pub(super) fn mac_of(&self, backend: &Backend) -> Result<Option<MacAddr>, DropReason> {
        if self.framing == Framing::RawIp || backend.mac.is_some() {
            return Ok(backend.mac);
        }
        self.want_neighbor(
            self.snapshot
                .next_hops
                .neighbor_of(backend.address)
                .unwrap_or(backend.address),
        );
        Err(DropReason::NeighborUnresolved)
    }

    /// The MAC address for frames to a client, and whether the kernel knows it: the kernel's next
    /// hop if it knows one, else the neighbour that the client's packet came from. So the first
    /// reply never waits for ARP or ND, and the kernel's routes hold where they say something.
    pub(super) fn client_mac(&self, client: &[u8; 16], head: &[u8]) -> (MacAddr, bool) {
        if self.framing == Framing::RawIp {
            return (MacAddr::default(), true);
        }
        match self.snapshot.next_hops.resolve(from_octets(*client)) {
            NextHop::Mac(mac) => (mac, true),
            NextHop::Unresolved(neighbor) => {
                self.want_neighbor(neighbor);
                (packet::source_mac(head), false)
            }
            NextHop::NoRoute => (packet::source_mac(head), false),
        }
    }

    /// Follows the kernel's routes and neighbours when they changed since the flow's last packet.
    #[inline]
    pub(super) fn refresh_client_mac(&mut self, id: FlowId) {
        let generation = self.snapshot.next_hops.generation;
        let entry = self.flows.entry(id);
        if self.framing == Framing::RawIp || entry.hop_generation == generation {
            return;
        }
        let client = from_octets(entry.client);
        if let NextHop::Mac(mac) = self.snapshot.next_hops.resolve(client) {
            self.flows.entry_mut(id).set_client_mac(mac.0, false, generation);
        }
    }

    /// The MAC address of a flow's client side; `None` on a raw-IP link.
    #[inline]
    pub(super) fn flow_client_mac(&self, id: FlowId) -> Option<MacAddr> {
        (self.framing == Framing::Ethernet).then(|| MacAddr(self.flows.entry(id).client_mac))
    }

    /// Writes the Ethernet addresses; nothing to do on a raw-IP link.
    #[inline]
    pub(super) fn address_frame<F: Frame>(&self, packet: &mut [F], mac: Option<MacAddr>) {
        if let (Link::Ethernet(own), Some(mac), Some(head)) =
            (self.snapshot.next_hops.link, mac, packet.first_mut())
        {
            packet::set_macs(head.bytes_mut(), mac, own);
        }
    }

    /// Asks the control side to have the kernel look for a neighbour. Lost if the ring is full: the
    /// next packet asks again.
    fn want_neighbor(&self, neighbor: IpAddr) {
        if self.events.push(WorkerEvent::Unresolved(neighbor)).is_err() {
            self.stats.events_lost.add(1);
        }
    }
}
