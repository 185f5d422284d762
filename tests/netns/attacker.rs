//! A sender of forged packets, as near to the balancer as can be: at the other end of its veth pair.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use etherparse::{EtherType, IpFragOffset, IpNumber, Ipv4Header, PacketBuilder, TcpHeader};
use serde_json::Value;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_testbed::packet_socket::PacketSocket;
use vl3lb_testbed::{Netns, OrPanic, process};
use vl3lb_tests::topology::Topology;
use vl3lb_tests::wait;

/// An open socket at the balancer's link, and the balancer's MAC address.
pub(crate) struct Attacker {
    socket: PacketSocket,
    balancer: [u8; 6],
}

impl Attacker {
    /// Of a network with veth links.
    pub(crate) fn new(topology: &Topology) -> Self {
        let port = &topology.balancer.router_port;
        let open = || PacketSocket::sender(port).or_panic();
        Self {
            socket: topology.router().netns.run(open),
            balancer: mac(&topology.balancer.netns),
        }
    }

    /// Sends a TCP segment without data, with `sequence` and what `change` makes of its header.
    pub(crate) fn tcp(
        &self,
        source_mac: [u8; 6],
        from: SocketAddr,
        to: SocketAddr,
        sequence: u32,
        change: impl FnOnce(&mut TcpHeader),
    ) {
        let link = PacketBuilder::ethernet2(source_mac, self.balancer);
        let ip = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
            _ => unreachable!("addresses of one family"),
        };
        let mut header = TcpHeader::new(from.port(), to.port(), sequence, 1_000);
        change(&mut header);
        let builder = ip.tcp_header(header);
        let mut frame = Vec::with_capacity(builder.size(0));
        builder.write(&mut frame, &[]).expect("write into memory");
        self.send(&frame);
    }

    /// Sends the fragment at `offset`, in bytes, of a datagram over IPv4 whose others do not come. Only the first one has
    /// ports.
    pub(crate) fn fragment(
        &self,
        source_mac: [u8; 6],
        from: SocketAddr,
        to: SocketAddr,
        id: u16,
        offset: u16,
    ) {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else {
            unreachable!("IPv4 addresses")
        };
        let udp = [from.port(), to.port(), 3_000, 0].map(u16::to_be_bytes).concat();
        let payload = [&udp[..], &[0; 64]].concat();
        let length = payload.len().try_into().expect("a short packet");
        let mut header = Ipv4Header::new(length, 64, IpNumber::UDP, source.octets(), destination.octets())
            .expect("a short packet");
        header.identification = id;
        header.dont_fragment = false;
        header.more_fragments = true;
        header.fragment_offset = IpFragOffset::try_new(offset / 8).expect("an offset");
        header.header_checksum = header.calc_header_checksum();
        let ethernet = [&self.balancer[..], &source_mac, &EtherType::IPV4.0.to_be_bytes()].concat();
        self.send(&[&ethernet[..], &header.to_bytes(), &payload].concat());
    }

    fn send(&self, frame: &[u8]) {
        wait::until("room in the queue", wait::STEP, || self.socket.send(frame));
    }
}

/// Packets that a thread sends until this is dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Calls `send` with 0, 1, 2, ... and pauses after each `burst` of them.
    pub(crate) fn start(burst: u32, pause: Duration, send: impl Fn(u32) + Send + 'static) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopping, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                for _ in 0..burst {
                    send(counter.fetch_add(1, Ordering::Relaxed));
                }
                std::thread::sleep(pause);
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// SYNs to a service, with sources of 10.64.0.0/16, each another one; answers to them end at the second client.
    pub(crate) fn of_syns(topology: &Topology, port: u16, burst: u32, pause: Duration) -> Self {
        let attacker = Attacker::new(topology);
        let source_mac = mac(&topology.clients[1].netns);
        let to = SocketAddr::new(Family::V4.balancer(), port);
        Self::start(burst, pause, move |number| {
            let [_, _, high, low] = number.to_be_bytes();
            let from = SocketAddr::from((Ipv4Addr::new(10, 64, high, low), 40_000));
            let sequence = number.wrapping_mul(0x9e37_79b1);
            attacker.tcp(source_mac, from, to, sequence, |tcp| tcp.syn = true);
        })
    }

    /// Packets sent so far.
    pub(crate) fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many packets were sent.
    pub(crate) fn wait(&self, packets: u32) {
        wait::until("the flood", wait::STEP, || {
            let sent = self.sent();
            (sent >= packets).then_some(()).ok_or(sent)
        });
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            !matches!(ended, Some(Err(_))) || std::thread::panicking(),
            "the flood's thread panicked"
        );
    }
}

/// The MAC address of a node's vL3 interface.
pub(crate) fn mac(netns: &Netns) -> [u8; 6] {
    let json = process::run(netns.command("ip").args(["-j", "link", "show", INTERFACE])).or_panic();
    let links: Value = serde_json::from_str(&json).expect("ip prints JSON");
    let bytes = links[0]["address"].as_str().expect("a MAC address").split(':');
    let bytes: Vec<u8> = bytes
        .map(|byte| u8::from_str_radix(byte, 16).expect("a byte"))
        .collect();
    bytes.try_into().expect("six bytes")
}
