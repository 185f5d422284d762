//! What the hosts of the fuzz target send, and which of it must arrive.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use vl3lb_common::{Protocol, Timestamp};

use super::check::Outcome;
use super::model::{Flow, Mapping, Nat};
use super::network::{self, CLIENTS, SERVICES};
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
}

/// All clients and backends.
#[derive(Debug)]
pub(super) struct Hosts {
    framing: Framing,
    connections: HashMap<Flow, Connection>,
    /// In the order in which they began: for picking one.
    order: Vec<Flow>,
    udp: VecDeque<(Flow, Mapping)>,
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
    /// Fragments of a datagram, in the order in which they will be sent.
    fragments: Vec<Vec<u8>>,
}

impl Hosts {
    pub(super) fn new(framing: Framing) -> Self {
        Self {
            framing,
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
            let packet = builder::udp(self.addresses(flow.client, flow.service), &payload(rng));
            return Some(self.act(flow, packet, if opens { Demand::Request } else { Demand::None }));
        }
        let is_sure = nat.sure(&flow, now).is_some();
        let Some(connection) = self.connections.get_mut(&flow) else {
            let mut conversation = Conversation::new(rng.random(), rng.random());
            let header = conversation.header(Direction::In, flags::SYN, 0);
            let connection = Connection {
                conversation,
                phase: Phase::SynSent,
                mapping: None,
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
        let payload = payload(rng);
        let header = connection.conversation.header(Direction::In, bits, payload.len());
        let packet = builder::tcp(self.addresses(flow.client, flow.service), &header, &payload);
        Some(self.segment(
            flow,
            packet,
            bits,
            if is_sure { Demand::Request } else { Demand::None },
        ))
    }

    /// An answer, or a backend's next segment.
    fn backend(&mut self, rng: &mut StdRng, nat: &Nat, now: Timestamp) -> Option<Input> {
        if rng.random() || self.order.is_empty() {
            let &(flow, mapping) = pick(rng, &self.udp)?;
            let packet = builder::udp(self.addresses(mapping.backend, mapping.outside), &payload(rng));
            let is_sure = nat.sure(&flow, now) == Some(mapping);
            return Some(self.act(flow, packet, if is_sure { Demand::Reply } else { Demand::None }));
        }
        let flow = self.order[rng.random_range(0..self.order.len())];
        let connection = self.connections.get_mut(&flow)?;
        let mapping = connection.mapping?;
        let (bits, payload) = match connection.phase {
            Phase::SynSent => (flags::SYN | flags::ACK, Vec::new()),
            Phase::Accepted => return None,
            Phase::Open => (open_bits(rng), payload(rng)),
        };
        if connection.phase == Phase::SynSent {
            connection.phase = Phase::Accepted;
        }
        let header = connection
            .conversation
            .header(Direction::Out, bits, payload.len());
        let packet = builder::tcp(
            self.addresses(mapping.backend, mapping.outside),
            &header,
            &payload,
        );
        let is_sure = nat.sure(&flow, now) == Some(mapping);
        Some(self.segment(
            flow,
            packet,
            bits,
            if is_sure { Demand::Reply } else { Demand::None },
        ))
    }

    /// The connection ends with a FIN or RST, but the other one may not know.
    fn segment(&mut self, flow: Flow, packet: Vec<u8>, bits: u8, demand: Demand) -> Input {
        if bits & flags::RST != 0 {
            self.end(&flow);
        }
        self.act(flow, packet, demand)
    }

    const fn act(&self, flow: Flow, packet: Vec<u8>, demand: Demand) -> Input {
        Input {
            packet,
            demand,
            flow: Some(flow),
            is_hostile: false,
            of: Vec::new(),
        }
    }

    /// With up to four bytes changed, or cut, or both. MAC addresses stay: others are none of the interface's.
    fn changed(&self, rng: &mut StdRng, packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        let link = self.framing.header_len();
        let start = link.saturating_sub(2).min(packet.len() - 1);
        let headers = packet.len().min(link + 64);
        for _ in 0..rng.random_range(0..=4) {
            let end = if rng.random_range(0..4) == 0 {
                packet.len()
            } else {
                headers
            };
            let at = rng.random_range(start..end);
            packet[at] = if rng.random() {
                rng.random()
            } else {
                packet[at] ^ (1 << rng.random_range(0..8))
            };
        }
        if rng.random_range(0..4) == 0 {
            packet.truncate(rng.random_range(1..=packet.len()));
        }
        if rng.random() {
            repair(&mut packet, link);
        }
        packet
    }

    /// A packet with right checksums of any sender.
    fn forged(&self, rng: &mut StdRng) -> Vec<u8> {
        let is_v4 = rng.random();
        let source = match rng.random_range(0..5) {
            0 => network::own(is_v4),
            1 => network::host(is_v4, 255),
            2 => network::backend(is_v4, rng.random_range(0..network::BACKENDS)),
            _ => network::client(is_v4, rng.random_range(0..CLIENTS)),
        };
        let port = |rng: &mut StdRng| match rng.random_range(0..4) {
            0 => SERVICES[rng.random_range(0..SERVICES.len())].1,
            1 => SERVICES[rng.random_range(0..SERVICES.len())].2,
            2 => rng.random_range(20_000..20_032),
            _ => rng.random_range(40_000..40_012),
        };
        let (from, to) = (port(rng), port(rng));
        let addresses = self.addresses(
            SocketAddr::new(source, from),
            SocketAddr::new(network::own(is_v4), to),
        );
        if rng.random() {
            return builder::udp(addresses, &payload(rng));
        }
        let header = Tcp {
            flags: rng.random(),
            sequence: rng.random(),
            acknowledgment: rng.random(),
            options: &[],
        };
        builder::tcp(addresses, &header, &payload(rng))
    }

    /// About a packet that the balancer has sent, from its receiver.
    fn icmp_error(&self, rng: &mut StdRng) -> Option<Vec<u8>> {
        let quote = pick(rng, &self.sent)?.get(self.framing.header_len()..)?;
        let is_v4 = quote.first()? >> 4 == 4;
        let (_, receiver) = super::seen::addresses_of(quote, false)?;
        let kind = if is_v4 {
            [3, 11, 12, 5, 8]
        } else {
            [1, 2, 3, 4, 128]
        };
        let kind = kind[rng.random_range(0..kind.len())];
        // No MTU below which the hosts' packets do not fit.
        let info = rng.random_range(900..1_500);
        let addresses = self.addresses(
            SocketAddr::new(receiver, 0),
            SocketAddr::new(network::own(is_v4), 0),
        );
        let length = rng.random_range(quote.len().min(28)..=quote.len().min(500));
        Some(builder::icmp_error(
            addresses,
            kind,
            rng.random_range(0..5),
            info,
            &quote[..length],
        ))
    }

    /// One of a datagram's, in any order.
    fn fragment(&mut self, rng: &mut StdRng) -> Option<Vec<u8>> {
        if self.fragments.is_empty() {
            let mut flow = any_flow(rng);
            flow.client.set_port(rng.random_range(50_000..50_004));
            let addresses = self.addresses(flow.client, flow.service);
            let packet = builder::udp(addresses, &vec![7; rng.random_range(100..1_400)]);
            let size = 8 * rng.random_range(1..100);
            let ethernet = self.framing == Framing::Ethernet;
            self.fragments = builder::fragments(&packet, ethernet, size, rng.random());
            self.fragments.shuffle(rng);
        }
        self.fragments.pop()
    }

    fn addresses(&self, source: SocketAddr, destination: SocketAddr) -> Addresses {
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

fn payload(rng: &mut StdRng) -> Vec<u8> {
    let mut payload = vec![0; rng.random_range(0..48)];
    rng.fill_bytes(&mut payload);
    payload
}

/// Makes the checksum of an IPv4 header right.
fn repair(packet: &mut [u8], link: usize) {
    let Some(ip) = packet.get_mut(link..) else { return };
    if ip.len() < 20 || ip[0] >> 4 != 4 {
        return;
    }
    let end = ip.len().min(usize::from(ip[0] & 0xf) * 4);
    ip[10..12].fill(0);
    let mut sum: u32 = ip[..end]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    ip[10..12].copy_from_slice(&[high, low]);
}

fn pick<'a, T>(rng: &mut StdRng, of: &'a VecDeque<T>) -> Option<&'a T> {
    (!of.is_empty()).then(|| &of[rng.random_range(0..of.len())])
}

/// Appends; forgets the oldest above `most`.
fn push<T>(to: &mut VecDeque<T>, item: T, most: usize) {
    to.push_back(item);
    if to.len() > most {
        to.pop_front();
    }
}
