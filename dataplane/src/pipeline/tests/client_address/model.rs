//! Property: over networks that lose, repeat and reorder packets, the backend's stream is the header and then the client's,
//! the client's stream is the backend's, and neither end sees what breaks TCP: segments outside of the window or longer than
//! the segment size, acknowledgments and SACK blocks of what did not arrive.

use std::collections::BTreeMap;

use etherparse::TcpOptionElement;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::header::Header;
use super::*;
use TcpOptionElement::{MaximumSegmentSize, SelectiveAcknowledgement, WindowScale};

/// Packets that are delivered with losses; then all arrive, so that each run ends.
const LOSSY: usize = 600;
/// No run needs more.
const MOST: usize = 20_000;

/// What differs between runs.
#[derive(Debug, Clone)]
struct Run {
    seed: u64,
    v6: bool,
    framing: Framing,
    /// Whether the ends use options: segment size, window scale, SACK.
    options: bool,
    /// Whether the client's packets are super-packets, with partial checksums.
    offload: bool,
    /// Whether the backend speaks before the client.
    greets: bool,
    /// Bytes of the client and of the backend.
    lengths: [usize; 2],
    /// The backend's window.
    window: u32,
    /// Lost, repeated: packets in a hundred.
    lost: u32,
    repeated: u32,
    /// Both initial numbers.
    initial: [u32; 2],
}

/// One end of the connection.
struct End {
    /// The number of its SYN.
    initial: u32,
    data: Vec<u8>,
    /// Bytes of `data` that the peer has acknowledged, and that were sent at most.
    acknowledged: usize,
    sent: usize,
    /// Up to where the peer takes bytes, counted as `sent`.
    edge: usize,
    established: bool,
    /// The number of the peer's SYN, once it is known.
    peer: Option<u32>,
    /// Of the peer, in order; and what came early.
    received: Vec<u8>,
    early: BTreeMap<usize, Vec<u8>>,
    /// The largest edge that it has offered.
    offered: usize,
    /// The longest payload that its peer takes, without options.
    mss: usize,
}

impl End {
    fn new(initial: u32, data: Vec<u8>) -> Self {
        Self {
            initial,
            data,
            acknowledged: 0,
            sent: 0,
            edge: 0,
            established: false,
            peer: None,
            received: Vec::new(),
            early: BTreeMap::new(),
            offered: 0,
            mss: 536,
        }
    }

    const fn number(&self, at: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "runs are short")]
        self.initial.wrapping_add(1).wrapping_add(at as u32)
    }

    fn acknowledgment(&self) -> u32 {
        let received = u32::try_from(self.received.len()).unwrap();
        self.peer.unwrap().wrapping_add(1).wrapping_add(received)
    }

    /// Takes in an acknowledgment and a window, in bytes. Old ones change nothing.
    fn take_acknowledgment(&mut self, acknowledgment: u32, window: u32) {
        let ahead = acknowledgment
            .wrapping_sub(self.number(self.acknowledged))
            .cast_signed();
        let Ok(ahead) = usize::try_from(ahead) else { return };
        let acknowledged = self.acknowledged + ahead;
        assert!(acknowledged <= self.sent, "acknowledged what was not sent");
        self.acknowledged = acknowledged;
        self.edge = self.edge.max(acknowledged + window as usize);
    }

    /// Takes in data at a sequence number.
    fn take_data(&mut self, sequence: u32, payload: &[u8]) {
        let first = self.peer.unwrap().wrapping_add(1);
        let at = sequence.wrapping_sub(first).cast_signed();
        let at = usize::try_from(at).expect("no data before the stream");
        assert!(
            at + payload.len() <= self.offered,
            "{} bytes at {at} are outside of the window, which ends at {}",
            payload.len(),
            self.offered
        );
        let early = self.early.entry(at).or_default();
        if payload.len() > early.len() {
            *early = payload.to_vec();
        }
        while let Some((&at, _)) = self
            .early
            .first_key_value()
            .filter(|(at, _)| **at <= self.received.len())
        {
            let bytes = self.early.remove(&at).unwrap();
            let known = (self.received.len() - at).min(bytes.len());
            self.received.extend_from_slice(&bytes[known..]);
        }
    }
}

/// Where a packet is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Balancer,
    Client,
    Backend,
}

struct Network {
    run: Run,
    random: StdRng,
    proxied: Proxied,
    client: End,
    backend: End,
    /// The balancer's address and port, and the backend's, once the backend has a SYN.
    addresses: Option<(SocketAddr, SocketAddr)>,
    flying: Vec<(To, Vec<u8>)>,
    delivered: usize,
}

impl Network {
    fn new(run: Run) -> Self {
        let bytes = |salt: usize, length: usize| -> Vec<u8> {
            (0..length)
                .map(|n| (n * 7 + n / 251 + salt).to_le_bytes()[0])
                .collect()
        };
        let proxied = Proxied::new(Setup {
            framing: run.framing,
            ..Setup::default()
        });
        Self {
            random: StdRng::seed_from_u64(run.seed),
            proxied,
            client: End::new(run.initial[0], bytes(1, run.lengths[0])),
            backend: End::new(run.initial[1], bytes(2, run.lengths[1])),
            addresses: None,
            flying: Vec::new(),
            delivered: 0,
            run,
        }
    }

    fn name(&self) -> &'static str {
        CLIENTS[usize::from(self.run.v6)]
    }

    fn run(mut self) {
        let header = header(self.name());
        let expected = [&header[..], &self.client.data].concat();
        while self.client.acknowledged < self.client.data.len()
            || self.client.received.len() < self.backend.data.len()
            || self.backend.received.len() < expected.len()
        {
            assert!(self.delivered < MOST, "the connection does not come to its end");
            if self.flying.is_empty() || self.random.random_ratio(1, 20) {
                self.time_out();
            }
            self.step();
        }
        assert_eq!(self.backend.received, expected);
        assert_eq!(self.client.received, self.backend.data);
        assert_eq!(self.proxied.world.drops(), []);
    }

    /// Delivers one of the flying packets, or loses it.
    fn step(&mut self) {
        self.delivered += 1;
        self.proxied.world.pass(Duration::from_micros(100));
        if self.flying.is_empty() {
            return;
        }
        // Mostly in order, as on a network.
        let at = if self.random.random_ratio(4, 5) {
            0
        } else {
            self.random.random_range(0..self.flying.len().min(8))
        };
        let (to, packet) = self.flying.remove(at);
        let chance = self.random.random_range(0..100);
        if self.delivered < LOSSY && chance < self.run.lost {
            return;
        }
        if self.delivered < LOSSY && chance < self.run.lost + self.run.repeated {
            self.flying.push((to, packet.clone()));
        }
        match to {
            To::Balancer => self.through_the_balancer(&packet),
            To::Client => self.at_the_client(&packet),
            To::Backend => self.at_the_backend(&packet),
        }
    }

    fn through_the_balancer(&mut self, packet: &[u8]) {
        let ethernet = self.proxied.world.ethernet();
        let client: SocketAddr = self.name().parse().unwrap();
        for packet in self.proxied.pass(packet) {
            let to_client = Segment::of(&packet, ethernet).destination == client;
            let to = if to_client { To::Client } else { To::Backend };
            self.flying.push((to, packet));
        }
    }

    fn at_the_client(&mut self, packet: &[u8]) {
        let segment = Segment::of(packet, self.proxied.world.ethernet());
        let end = &mut self.client;
        if segment.flags & flags::SYN != 0 {
            assert_eq!(segment.acknowledgment, end.number(0));
            end.peer = Some(segment.sequence);
            end.edge = end.edge.max(usize::from(segment.window));
            end.established = true;
            end.mss = mss(&segment.options).unwrap_or(536);
            self.send(To::Client, 0, 0);
            return self.send_new(To::Client);
        }
        if !end.established {
            return;
        }
        let scale = if self.run.options { SCALE } else { 0 };
        end.take_acknowledgment(segment.acknowledgment, u32::from(segment.window) << scale);
        let header = header(CLIENTS[usize::from(self.run.v6)]).len();
        for (from, to) in blocks(&segment.options) {
            let at = |edge: u32| edge.wrapping_sub(self.client.number(0)) as usize;
            let (from, to) = (at(from), at(to));
            assert!(from <= to && to <= self.client.sent, "SACK of {from} to {to}");
            let is_there = |at: usize| {
                let at = at + header;
                let early = &self.backend.early;
                at < self.backend.received.len()
                    || early
                        .iter()
                        .any(|(begin, bytes)| (*begin..begin + bytes.len()).contains(&at))
            };
            assert!(
                (from..to).all(is_there),
                "SACK of {from} to {to}, which are not there"
            );
        }
        if !segment.payload.is_empty() {
            self.client.take_data(segment.sequence, &segment.payload);
            let at = self.client.sent;
            self.send(To::Client, at, 0);
        }
        self.send_new(To::Client);
    }

    fn at_the_backend(&mut self, packet: &[u8]) {
        let segment = Segment::of(packet, self.proxied.world.ethernet());
        assert!(segment.length <= 1_500, "{} bytes", segment.length);
        let room = self.backend_mss() - options_len(&segment);
        assert!(
            segment.payload.len() <= room,
            "{} bytes of {room}",
            segment.payload.len()
        );
        let end = &mut self.backend;
        if segment.flags & flags::SYN != 0 {
            assert_eq!(segment.payload, b"");
            end.peer = Some(segment.sequence);
            end.offered = end.offered.max(self.run.window.min(0xffff) as usize);
            end.mss = mss(&segment.options).unwrap_or(536);
            self.addresses = Some((segment.source, segment.destination));
            return self.send_syn(To::Backend);
        }
        if end.peer.is_none() {
            return;
        }
        if segment.acknowledgment != end.initial {
            end.established = true;
            end.take_acknowledgment(segment.acknowledgment, 0xffff);
        }
        if !segment.payload.is_empty() {
            end.take_data(segment.sequence, &segment.payload);
            let at = self.backend.sent;
            self.send(To::Backend, at, 0);
        }
        if self.run.greets || self.backend.received.len() > header(self.name()).len() {
            self.send_new(To::Backend);
        }
    }

    /// Nothing has come for a while: sends again what is not acknowledged.
    fn time_out(&mut self) {
        if !self.client.established {
            return self.send_syn(To::Client);
        }
        if self.backend.peer.is_some() && !self.backend.established {
            self.send_syn(To::Backend);
        }
        for end in [To::Client, To::Backend] {
            let this = self.end(end);
            if !this.established || this.acknowledged == this.data.len() && end == To::Backend {
                continue;
            }
            let at = this.acknowledged;
            let outstanding = this.sent - at;
            let length = outstanding.min(self.segment_len(end));
            self.send(end, at, length);
        }
        self.send_new(To::Client);
        if self.backend.established {
            self.send_new(To::Backend);
        }
    }

    const fn end(&mut self, of: To) -> &mut End {
        match of {
            To::Backend => &mut self.backend,
            _ => &mut self.client,
        }
    }

    const fn backend_mss(&self) -> usize {
        if self.run.options { BACKEND_MSS } else { 1_460 }
    }

    /// A random length of the next payload.
    fn segment_len(&mut self, of: To) -> usize {
        let mss = self.end(of).mss;
        let most = match of {
            To::Client if self.run.offload => 9_000,
            To::Client => mss,
            // Options are part of it.
            _ => mss - 40,
        };
        if self.random.random_ratio(1, 2) {
            most
        } else {
            self.random.random_range(1..=most)
        }
    }

    /// Sends what the window takes.
    fn send_new(&mut self, of: To) {
        for _ in 0..4 {
            let length = self.segment_len(of);
            let end = self.end(of);
            let length = length.min(end.edge.min(end.data.len()).saturating_sub(end.sent));
            if length == 0 {
                return;
            }
            let at = end.sent;
            end.sent += length;
            self.send(of, at, length);
        }
    }

    /// Sends `length` bytes of an end's data from `at` on, with an acknowledgment.
    fn send(&mut self, of: To, at: usize, length: usize) {
        let is_client = of == To::Client;
        let end = self.end(of);
        let payload = end.data[at..at + length].to_vec();
        let (sequence, acknowledgment) = (end.number(at), end.acknowledgment());
        let mut options = Vec::new();
        let mut window = 0xffff;
        if is_client {
            end.offered = usize::MAX;
        } else {
            let scale = if self.run.options { SCALE } else { 0 };
            window = (self.run.window >> scale).min(0xffff);
            let end = &mut self.backend;
            let received = end.received.len();
            end.offered = end.offered.max(received + ((window << scale) as usize));
            if self.run.options
                && let Some((&early, bytes)) = end.early.first_key_value()
            {
                let first = end.peer.unwrap().wrapping_add(1);
                #[expect(clippy::cast_possible_truncation, reason = "runs are short")]
                let edge = |at: usize| first.wrapping_add(at as u32);
                let block = (edge(early), edge(early + bytes.len()));
                options.push(SelectiveAcknowledgement(block, [None; 3]));
            }
        }
        let header = Header {
            bits: flags::ACK,
            sequence,
            acknowledgment,
            window: u16::try_from(window).unwrap(),
            options,
        };
        self.launch(of, &header, &payload);
    }

    fn send_syn(&mut self, of: To) {
        let (options, window) = (self.run.options, self.run.window.min(0xffff));
        let end = self.end(of);
        let own_mss = if of == To::Client { 1_460 } else { BACKEND_MSS };
        let (bits, acknowledgment) = if of == To::Client {
            (flags::SYN, 0)
        } else {
            (flags::SYN | flags::ACK, end.peer.unwrap().wrapping_add(1))
        };
        let header = Header {
            bits,
            sequence: end.initial,
            acknowledgment,
            window: u16::try_from(window).unwrap(),
            options: if options {
                vec![
                    MaximumSegmentSize(u16::try_from(own_mss).unwrap()),
                    WindowScale(SCALE),
                ]
            } else {
                Vec::new()
            },
        };
        self.launch(of, &header, b"");
    }

    fn launch(&mut self, of: To, header: &Header, payload: &[u8]) {
        let (source, destination) = match of {
            To::Client => (
                self.name().parse().unwrap(),
                service_of(self.name()).parse().unwrap(),
            ),
            _ => {
                let (balancer, backend) = self.addresses.unwrap();
                (backend, balancer)
            }
        };
        let ethernet = self.proxied.world.ethernet();
        let mut packet = header.packet(source, destination, ethernet, payload);
        if of == To::Client && self.run.offload {
            builder::make_checksum_partial(&mut packet, ethernet);
        }
        self.flying.push((To::Balancer, packet));
    }
}

/// Both ends' shift of windows.
const SCALE: u8 = 2;
const BACKEND_MSS: usize = 1_300;

fn mss(options: &[TcpOptionElement]) -> Option<usize> {
    options.iter().find_map(|option| match option {
        MaximumSegmentSize(mss) => Some(usize::from(*mss)),
        _ => None,
    })
}

fn blocks(options: &[TcpOptionElement]) -> Vec<(u32, u32)> {
    let blocks = options.iter().filter_map(|option| match option {
        SelectiveAcknowledgement(first, rest) => {
            Some(std::iter::once(*first).chain(rest.iter().flatten().copied()))
        }
        _ => None,
    });
    blocks.flatten().collect()
}

fn options_len(segment: &Segment) -> usize {
    let fixed = if segment.source.is_ipv4() { 40 } else { 60 };
    segment.length - segment.payload.len() - fixed
}

prop_compose! {
    fn runs()(
        seed in any::<u64>(),
        [v6, raw, options, offload, greets] in any::<[bool; 5]>(),
        client in prop_oneof![Just(0_usize), 1..200_usize, 1..60_000_usize],
        backend in prop_oneof![Just(0_usize), 1..20_000_usize],
        window in prop_oneof![200..3_000_u32, Just(0xffff), Just(200_000)],
        lost in 0..30_u32,
        repeated in 0..15_u32,
        initial in any::<[u32; 2]>(),
        wraps in any::<bool>(),
    ) -> Run {
        Run {
            seed,
            v6,
            framing: if raw { Framing::RawIp } else { Framing::Ethernet },
            options,
            offload,
            greets,
            lengths: [client, backend],
            window: if options { window } else { window.min(0xffff) },
            lost,
            repeated,
            initial: if wraps { [u32::MAX - 40, u32::MAX - 9] } else { initial },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_backends_stream_is_the_header_and_the_clients(run in runs()) {
        Network::new(run).run();
    }
}
