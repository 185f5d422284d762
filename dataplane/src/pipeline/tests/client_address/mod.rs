//! Clients' addresses for the backends: headers of PROXY protocol version 2 before streams and datagrams, and TCP options.

mod datagram;
mod header;
mod model;
mod option;
mod stream;

use vl3lb_common::ClientAddress;

use super::*;
use crate::flow::{HotEntry, RequestKey};
use crate::port::Port;
use crate::testing::{CHUNK, MemPort};
use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice};

/// The signature, and the rest for `CLIENTS` at port 40000 and the service at 8080.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V4_REST: [u8; 16] = [
    0x21, 0x11, 0, 12, 172, 16, 1, 100, 172, 16, 1, 103, 0x9c, 0x40, 0x1f, 0x90,
];
pub(super) const CLIENTS: [&str; 2] = ["172.16.1.100:40000", "[2001:db8::64]:40000"];

/// The header that a backend gets from a client of [`CLIENTS`].
pub(super) fn header(client: &str) -> Vec<u8> {
    if client == CLIENTS[0] {
        return [SIGNATURE, &V4_REST].concat();
    }
    let address = |last: u8| -> [u8; 16] {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        address[15] = last;
        address
    };
    let rest = [
        &[0x21, 0x21, 0, 36][..],
        &address(0x64),
        &address(0x67),
        &[0x9c, 0x40, 0x1f, 0x90],
    ];
    [SIGNATURE, &rest.concat()].concat()
}

/// A TCP segment as its receiver sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) window: u16,
    pub(super) flags: u8,
    pub(super) options: Vec<TcpOptionElement>,
    /// Of the IP packet.
    pub(super) length: usize,
    pub(super) payload: Vec<u8>,
}

impl Segment {
    pub(super) fn of(packet: &[u8], ethernet: bool) -> Self {
        let link = if ethernet { 14 } else { 0 };
        let sliced = SlicedPacket::from_ip(&packet[link..]).unwrap();
        let (source, destination): (IpAddr, IpAddr) = match sliced.net.as_ref().unwrap() {
            NetSlice::Ipv4(v4) => (
                v4.header().source_addr().into(),
                v4.header().destination_addr().into(),
            ),
            NetSlice::Ipv6(v6) => (
                v6.header().source_addr().into(),
                v6.header().destination_addr().into(),
            ),
            NetSlice::Arp(_) => panic!("ARP"),
        };
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            panic!("no TCP segment");
        };
        Self {
            source: SocketAddr::new(source, tcp.source_port()),
            destination: SocketAddr::new(destination, tcp.destination_port()),
            sequence: tcp.sequence_number(),
            acknowledgment: tcp.acknowledgment_number(),
            window: tcp.window_size(),
            flags: tcp.slice()[13],
            options: tcp.options_iterator().filter_map(Result::ok).collect(),
            length: packet.len() - link,
            payload: tcp.payload().to_vec(),
        }
    }
}

/// A world whose TCP service has the header, and the frames that its packets are made of anew.
pub(super) struct Proxied {
    pub(super) world: World,
    pub(super) port: MemPort,
}

impl Proxied {
    pub(super) fn new(setup: Setup) -> Self {
        Self::with(setup, ClientAddress::ProxyV2)
    }

    fn with(setup: Setup, client_address: ClientAddress) -> Self {
        Self {
            world: World::new(Setup {
                client_address,
                ..setup
            }),
            port: MemPort::new(256),
        }
    }

    /// What comes out for a packet: nothing if it is dropped. All of it is valid.
    pub(super) fn pass(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let world = &mut self.world;
        let mut frames = frames_of(packet, CHUNK);
        let verdict = world.engines[0].forward(&mut frames, Origin::Queue, world.now);
        let packets = match verdict {
            Verdict::Drop => Vec::new(),
            Verdict::Transmit => vec![frames.iter().flat_map(|f| f.bytes().to_vec()).collect()],
            verdict => {
                let mut out = Vec::new();
                world.engines[0].make_anew(verdict, &mut self.port, &frames, world.now, &mut out);
                self.port.transmit(&mut out);
                self.port.take_transmitted()
            }
        };
        for packet in &packets {
            validate::assert_valid(packet, world.ethernet());
        }
        assert_eq!(self.port.frames_in_hand(), 0, "no frame is kept");
        packets
    }

    /// The one segment that comes out for a packet.
    fn one(&mut self, packet: &[u8]) -> Segment {
        let out = self.pass(packet);
        let [only] = &out[..] else {
            panic!("{} packets come out", out.len())
        };
        Segment::of(only, self.world.ethernet())
    }

    fn packet(&self, from: &str, to: &str, segment: &Tcp<'_>, payload: &[u8]) -> Vec<u8> {
        builder::tcp(self.world.addresses(from, to), segment, payload)
    }

    fn client(&self, client: &str, segment: &Tcp<'_>, payload: &[u8]) -> Vec<u8> {
        self.packet(client, service_of(client), segment, payload)
    }

    /// Both SYNs, the client's number 1,000 and the backend's 5,000; how the backend sees the client.
    fn open(&mut self, client: &str, options: &[TcpOptionElement]) -> Segment {
        let syn = Tcp {
            flags: flags::SYN,
            sequence: 1_000,
            acknowledgment: 0,
            options,
        };
        let seen = self.one(&self.client(client, &syn, b""));
        assert_eq!((seen.sequence, &seen.payload[..]), (1_000, &b""[..]));
        let syn_ack = Tcp {
            flags: flags::SYN | flags::ACK,
            sequence: 5_000,
            acknowledgment: 1_001,
            options,
        };
        let answer = self.one(&self.backend(&seen, &syn_ack, b""));
        assert_eq!((answer.sequence, answer.acknowledgment), (5_000, 1_001));
        assert_eq!(
            usize::from(answer.window),
            0xffff - header(client).len(),
            "the header takes its part of the window"
        );
        seen
    }

    /// The flow of a client.
    fn entry(&self, client: &str) -> HotEntry {
        let client: SocketAddr = client.parse().unwrap();
        let service: SocketAddr = service_of(&client.to_string()).parse().unwrap();
        let table = self.world.engines[0].tables.flows.table();
        let key = RequestKey {
            client: to_octets(client.ip()),
            client_port: client.port(),
            local: table.find_local(&to_octets(service.ip())).unwrap(),
            service_port: service.port(),
            protocol: Protocol::Tcp.number(),
        };
        *table.entry(table.request(&key, self.world.now).unwrap())
    }

    fn backend(&self, seen: &Segment, segment: &Tcp<'_>, payload: &[u8]) -> Vec<u8> {
        let (from, to) = (seen.destination.to_string(), seen.source.to_string());
        self.packet(&from, &to, segment, payload)
    }
}

pub(super) fn service_of(client: &str) -> &'static str {
    if client.starts_with('[') {
        "[2001:db8::67]:8080"
    } else {
        "172.16.1.103:8080"
    }
}

const fn ack(sequence: u32, acknowledgment: u32) -> Tcp<'static> {
    Tcp {
        flags: flags::ACK,
        sequence,
        acknowledgment,
        options: &[],
    }
}

fn setups() -> impl Iterator<Item = (Proxied, &'static str, Vec<u8>, u32)> {
    let framings = [Framing::Ethernet, Framing::RawIp];
    framings.into_iter().flat_map(|framing| {
        CLIENTS.map(|client| {
            let proxied = Proxied::new(Setup {
                framing,
                ..Setup::default()
            });
            let header = header(client);
            let length = u32::try_from(header.len()).unwrap();
            (proxied, client, header, length)
        })
    })
}
