//! What the hosts of the fuzz target send, and which of it must arrive.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use vl3lb_common::{Protocol, Timestamp};

use super::check::Outcome;
use super::hostile::repair;
use super::model::{Flow, Mapping, Nat};
use super::network::{self, CLIENTS, Network, SERVICES};
use super::options::Options;
use crate::flow::Direction;
use crate::packet::Framing;
use crate::testing::builder::{self, Addresses, MACS, Tcp, flags};
use crate::testing::conversation::Conversation;

/// Packets that are remembered.
const RECENT: usize = 64;
/// UDP flows that backends answer.
const ANSWERED: usize = 256;

/// What must become of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    None,
    /// Translated for a backend.
    Request,
    /// Translated for the client.
    Reply,
}

/// A packet to send.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) packet: Vec<u8>,
    pub(super) demand: Demand,
    /// The flow that a host acts in.
    flow: Option<Flow>,
    /// A host sends it as it should be, but for a checksum that its kernel has left to be completed.
    pub(super) is_sound: bool,
    /// Not sent by a host of the flow as it should be; `of` is the packet that it was made of.
    pub(super) is_hostile: bool,
    pub(super) of: Vec<u8>,
}

impl Input {
    const fn hostile(packet: Vec<u8>, of: Vec<u8>) -> Self {
        Self {
            packet,
            demand: Demand::None,
            flow: None,
            is_sound: false,
            is_hostile: true,
            of,
        }
    }

    /// Without a demand.
    const fn free(packet: Vec<u8>) -> Self {
        Self {
            packet,
            demand: Demand::None,
            flow: None,
            is_sound: false,
            is_hostile: false,
            of: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    SynSent,
    Accepted,
    Open,
}

/// A TCP connection.
#[derive(Debug)]
struct Connection {
    conversation: Conversation,
    phase: Phase,
    mapping: Option<Mapping>,
    options: Options,
    /// The longest segment that both ends take.
    mss: u16,
}

/// All clients and backends.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) framing: Framing,
    /// Some routes have a smaller MTU than others.
    is_narrow: bool,
    connections: HashMap<Flow, Connection>,
    /// In the order in which they began: for picking one.
    order: Vec<Flow>,
    udp: VecDeque<(Flow, Mapping)>,
    received: VecDeque<Vec<u8>>,
    pub(super) sent: VecDeque<Vec<u8>>,
    /// Fragments of a datagram, in the order in which they will be sent.
    fragments: Vec<Vec<u8>>,
}

impl Hosts {
    pub(super) fn new(network: &Network) -> Self {
        Self {
            framing: network.framing,
            is_narrow: network.is_narrow,
            connections: HashMap::new(),
            order: Vec::new(),
            udp: VecDeque::new(),
            received: VecDeque::new(),
            sent: VecDeque::new(),
            fragments: Vec::new(),
        }
    }

    /// The next packet, if the host whose turn it is has one to send. `has_backends`: new flows find one.
    pub(super) fn next(
        &mut self,
        rng: &mut StdRng,
        nat: &Nat,
        has_backends: bool,
        now: Timestamp,
    ) -> Option<Input> {
        match rng.random_range(0..100) {
            0..45 => self.client(rng, nat, has_backends, now),
            45..80 => self.backend(rng, nat, now),
            80..85 => Some(Input::free(pick(rng, &self.received)?.clone())),
            85..92 => {
                let of = pick(rng, &self.received)?.clone();
                Some(Input::hostile(self.changed(rng, &of), of))
            }
            92..95 => Some(Input::hostile(self.forged(rng), Vec::new())),
            95..97 => self.icmp_error(rng).map(Input::free),
            _ => self.fragment(rng).map(Input::free),
        }
    }

    /// Notes what became of a packet.
    pub(super) fn note(&mut self, input: &Input, out: &[Vec<u8>], outcome: Outcome) {
        push(&mut self.received, input.packet.clone(), RECENT);
        for output in out {
            push(&mut self.sent, output.clone(), RECENT);
        }
        let Some(flow) = input.flow else { return };
        match outcome {
            Outcome::Request(_, mapping) if flow.protocol == Protocol::Udp => {
                push(&mut self.udp, (flow, mapping), ANSWERED);
            }
            Outcome::Request(_, mapping) => {
                if let Some(connection) = self.connections.get_mut(&flow) {
                    connection.mapping = Some(mapping);
                }
            }
            Outcome::Reply(..) => {}
            _ => self.end(&flow),
        }
    }

    fn end(&mut self, flow: &Flow) {
        self.connections.remove(flow);
        self.order.retain(|other| other != flow);
    }

    /// A datagram, or the client's next segment.
    fn client(&mut self, rng: &mut StdRng, nat: &Nat, has_backends: bool, now: Timestamp) -> Option<Input> {
        let flow = if rng.random() && !self.order.is_empty() {
            self.order[rng.random_range(0..self.order.len())]
        } else {
            any_flow(rng)
        };
        let opens = has_backends && !nat.is_crowded;
        if flow.protocol == Protocol::Udp {
            let packet = self.datagram(rng, flow.client, flow.service);
            let is_due = opens && self.fits(&packet);
            return Some(self.act(flow, packet, if is_due { Demand::Request } else { Demand::None }));
        }
        let is_sure = nat.sure(&flow, now).is_some();
        let Some(connection) = self.connections.get_mut(&flow) else {
            let mut conversation = Conversation::new(rng.random(), rng.random());
            let options = Options::any(rng);
            let (mss, syn) = options.of_syn(rng);
            let header = Tcp {
                options: &syn,
                ..conversation.header(Direction::In, flags::SYN, 0)
            };
            let connection = Connection {
                conversation,
                phase: Phase::SynSent,
                mapping: None,
                options,
                mss,
            };
            self.connections.insert(flow, connection);
            self.order.push(flow);
            let demand = if opens && !nat.knows(&flow) {
                Demand::Request
            } else {
                Demand::None
            };
            let packet = builder::tcp(self.addresses(flow.client, flow.service), &header, b"");
            return Some(self.act(flow, packet, demand));
        };
        let bits = match connection.phase {
            Phase::SynSent => return None,
            Phase::Accepted => flags::ACK,
            Phase::Open => open_bits(rng),
        };
        connection.phase = Phase::Open;
        let payload = segment(rng, bits);
        let options = connection.options.of_segment(rng);
        let header = Tcp {
            options: &options,
            ..connection.conversation.header(Direction::In, bits, payload.len())
        };
        let mss = connection.mss;
        let packet = builder::tcp(self.addresses(flow.client, flow.service), &header, &payload);
        let is_due = is_sure && self.is_sendable(&packet, mss);
        let demand = if is_due { Demand::Request } else { Demand::None };
        Some(self.segment(rng, flow, packet, bits, demand))
    }

    /// An answer, or a backend's next segment.
    fn backend(&mut self, rng: &mut StdRng, nat: &Nat, now: Timestamp) -> Option<Input> {
        if rng.random() || self.order.is_empty() {
            let &(flow, mapping) = pick(rng, &self.udp)?;
            let packet = self.datagram(rng, mapping.backend, mapping.outside);
            let is_sure = nat.sure(&flow, now) == Some(mapping) && self.fits(&packet);
            return Some(self.act(flow, packet, if is_sure { Demand::Reply } else { Demand::None }));
        }
        let flow = self.order[rng.random_range(0..self.order.len())];
        let connection = self.connections.get_mut(&flow)?;
        let mapping = connection.mapping?;
        let (bits, payload) = match connection.phase {
            Phase::SynSent => (flags::SYN | flags::ACK, Vec::new()),
            Phase::Accepted => return None,
            Phase::Open => {
                let bits = open_bits(rng);
                (bits, segment(rng, bits))
            }
        };
        let options = if connection.phase == Phase::SynSent {
            connection.phase = Phase::Accepted;
            let (mss, syn) = connection.options.of_syn(rng);
            connection.mss = connection.mss.min(mss);
            syn
        } else {
            connection.options.of_segment(rng)
        };
        let mss = connection.mss;
        let header = Tcp {
            options: &options,
            ..connection
                .conversation
                .header(Direction::Out, bits, payload.len())
        };
        let packet = builder::tcp(
            self.addresses(mapping.backend, mapping.outside),
            &header,
            &payload,
        );
        let is_due = nat.sure(&flow, now) == Some(mapping) && self.is_sendable(&packet, mss);
        let demand = if is_due { Demand::Reply } else { Demand::None };
        Some(self.segment(rng, flow, packet, bits, demand))
    }

    /// The connection ends with a FIN or RST, but the other one may not know.
    fn segment(
        &mut self,
        rng: &mut StdRng,
        flow: Flow,
        mut packet: Vec<u8>,
        bits: u8,
        demand: Demand,
    ) -> Input {
        if bits & flags::RST != 0 {
            self.end(&flow);
        }
        // A kernel leaves the checksum to its device, and always that of a super-packet.
        if self.ip_len(&packet) > 1_500 || rng.random_range(0..4) == 0 {
            builder::make_checksum_partial(&mut packet, self.framing == Framing::Ethernet);
        }
        self.act(flow, packet, demand)
    }

    const fn act(&self, flow: Flow, packet: Vec<u8>, demand: Demand) -> Input {
        Input {
            packet,
            demand,
            flow: Some(flow),
            is_sound: true,
            is_hostile: false,
            of: Vec::new(),
        }
    }

    /// A datagram, long and without DF at times.
    fn datagram(&self, rng: &mut StdRng, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let payload = if rng.random_range(0..8) == 0 {
            let mut long = vec![0; rng.random_range(1_200..1_440)];
            rng.fill_bytes(&mut long);
            long
        } else {
            payload(rng)
        };
        let mut packet = builder::udp(self.addresses(from, to), &payload);
        if from.is_ipv4() && rng.random_range(0..4) == 0 {
            let link = self.framing.header_len();
            packet[link + 6] &= !0x40;
            repair(&mut packet, link);
        }
        packet
    }

    fn ip_len(&self, packet: &[u8]) -> usize {
        packet.len() - self.framing.header_len()
    }

    /// Whether it is not too long for any route.
    fn fits(&self, packet: &[u8]) -> bool {
        !self.is_narrow || self.ip_len(packet) <= 1_300
    }

    /// Whether a segment with so much data is not refused: as it is, or in segments that the ends agreed on.
    fn is_sendable(&self, packet: &[u8], mss: u16) -> bool {
        self.fits(packet) && (self.ip_len(packet) <= 1_500 || mss <= 1_400)
    }

    /// One of a datagram's, in any order.
    fn fragment(&mut self, rng: &mut StdRng) -> Option<Vec<u8>> {
        if self.fragments.is_empty() {
            let (from, to) = match pick(rng, &self.udp).filter(|_| rng.random()) {
                Some((_, mapping)) => (mapping.backend, mapping.outside),
                None => {
                    let mut flow = any_flow(rng);
                    flow.client.set_port(rng.random_range(50_000..50_004));
                    (flow.client, flow.service)
                }
            };
            let mut payload = vec![7; rng.random_range(100..4_000)];
            rng.fill_bytes(&mut payload);
            let packet = builder::udp(self.addresses(from, to), &payload);
            let size = 8 * rng.random_range(1..180);
            let ethernet = self.framing == Framing::Ethernet;
            self.fragments = builder::fragments(&packet, ethernet, size, rng.random());
            self.fragments.shuffle(rng);
        }
        self.fragments.pop()
    }

    pub(super) fn addresses(&self, source: SocketAddr, destination: SocketAddr) -> Addresses {
        Addresses {
            macs: (self.framing == Framing::Ethernet).then_some(MACS),
            source,
            destination,
            ttl: 64,
        }
    }
}

fn any_flow(rng: &mut StdRng) -> Flow {
    let is_v4 = rng.random();
    let (protocol, port, _) = SERVICES[rng.random_range(0..SERVICES.len())];
    let client = network::client(is_v4, rng.random_range(0..CLIENTS));
    Flow {
        protocol,
        client: SocketAddr::new(client, rng.random_range(40_000..40_012)),
        service: SocketAddr::new(network::own(is_v4), port),
    }
}

/// The flags of a segment in an open connection.
fn open_bits(rng: &mut StdRng) -> u8 {
    match rng.random_range(0..20) {
        0 => flags::FIN | flags::ACK,
        1 => flags::RST | flags::ACK,
        2 => flags::RST,
        _ => flags::ACK | flags::PSH,
    }
}

/// The data of a segment with these flags or, at times, of a super-packet. A reset has none.
fn segment(rng: &mut StdRng, bits: u8) -> Vec<u8> {
    if bits & flags::RST != 0 {
        return Vec::new();
    }
    let length = match rng.random_range(0..40) {
        0 => rng.random_range(1_000..20_000),
        1..4 => rng.random_range(1_000..1_400),
        _ => return payload(rng),
    };
    let mut payload = vec![0; length];
    rng.fill_bytes(&mut payload);
    payload
}

pub(super) fn payload(rng: &mut StdRng) -> Vec<u8> {
    let mut payload = vec![0; rng.random_range(0..48)];
    rng.fill_bytes(&mut payload);
    payload
}

pub(super) fn pick<'a, T>(rng: &mut StdRng, of: &'a VecDeque<T>) -> Option<&'a T> {
    (!of.is_empty()).then(|| &of[rng.random_range(0..of.len())])
}

/// Appends; forgets the oldest above `most`.
fn push<T>(to: &mut VecDeque<T>, item: T, most: usize) {
    to.push_back(item);
    if to.len() > most {
        to.pop_front();
    }
}
