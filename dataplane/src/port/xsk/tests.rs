//! Against a real kernel: a veth pair, the steer programs, and a packet socket at the other end.

use std::collections::HashSet;
use std::net::IpAddr;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{Protocol, ServiceKey};

use super::*;
use crate::config::{FastPathConfig, Mode, ZeroCopy};
use crate::error::SetupError;
use crate::link::LinkInfo;
use crate::port::{Frame, Port, packet_frames};
use crate::steer::{Rules, Steer};
use crate::testing::builder::{self, Addresses, Tcp, flags};
use crate::testing::netns::{NEAR, Wire, with_veth};
use crate::testing::world::SERVICE;

const FRAMES: u32 = 256;

/// An attached interface with one port per queue, for a UDP and a TCP service at [`SERVICE`].
struct Bench {
    // Dropped in this order: nothing arrives at closed sockets.
    steer: Steer,
    ports: Vec<XskPort>,
    wire: Wire,
}

impl Bench {
    fn new(mode: Mode) -> Self {
        let link = LinkInfo::inspect(NEAR).unwrap();
        let mut steer = Steer::attach(&link, mode, None, FastPathConfig::default()).unwrap();
        let workers = u16::try_from(steer.queues()).unwrap();
        let ports = XskPort::open(layout(&steer, ZeroCopy::Auto)).unwrap();
        for (queue, socket) in ports.iter().flat_map(XskPort::receivers) {
            steer.register_socket(queue, socket).unwrap();
        }
        let service: std::net::SocketAddr = SERVICE.parse().unwrap();
        let key = |protocol| ServiceKey {
            address: service.ip(),
            port: service.port(),
            protocol,
        };
        let rules = Rules {
            services: HashSet::from([key(Protocol::Tcp), key(Protocol::Udp)]),
            addresses: vec![IpAddr::from([172, 16, 1, 103])],
            nat_ports: NatPorts::new(10_240, 32_767).unwrap(),
            kernel_ports: std::sync::Arc::default(),
            workers,
            owner_key: OwnerKey::from_seed(7),
        };
        steer.allow(&rules).unwrap();
        Self {
            steer,
            ports,
            wire: Wire::open(),
        }
    }

    /// The packets that wait at each port, with the port's number.
    fn poll_once(&mut self) -> Vec<(usize, Vec<XskFrame>)> {
        let mut received = Vec::new();
        for (number, port) in self.ports.iter_mut().enumerate() {
            let mut packets = Vec::new();
            port.receive(&mut packets, 64);
            if !packets.is_empty() {
                received.push((number, packets));
            }
        }
        received
    }

    /// Receives until `count` packets have come. Fails if none comes for two seconds.
    fn receive(&mut self, count: usize) -> Vec<(usize, Vec<XskFrame>)> {
        let mut received = Vec::new();
        let mut missing = count;
        while missing > 0 {
            let batch = self.poll_once();
            if batch.is_empty() {
                self.wait();
            }
            for (_, packets) in &batch {
                missing -= packets.iter().filter(|frame| !frame.continues()).count();
            }
            received.extend(batch);
        }
        received
    }

    fn wait(&self) {
        let mut fds: Vec<_> = self
            .ports
            .iter()
            .filter_map(Port::wait_descriptor)
            .map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN))
            .collect();
        let limit = Timespec {
            tv_sec: 2,
            tv_nsec: 0,
        };
        assert!(
            poll(&mut fds, Some(&limit)).unwrap() > 0,
            "no packet for two seconds; {:?}",
            self.steer.steered()
        );
    }

    /// Sends everything, and waits until the kernel gave all frames back.
    fn transmit(&mut self, port: usize, mut packets: Vec<XskFrame>) {
        let port = &mut self.ports[port];
        for _ in 0..1_000_000 {
            port.transmit(&mut packets);
            if packets.is_empty() && port.in_flight() == 0 {
                return;
            }
            std::thread::yield_now();
        }
        panic!(
            "{} frames not sent, {} not given back",
            packets.len(),
            port.in_flight()
        );
    }

    fn assert_nothing_outstanding(&self) {
        assert_eq!(XskPort::outstanding(self.ports.iter()), 0);
    }
}

fn layout(steer: &Steer, zero_copy: ZeroCopy) -> Layout<'_> {
    Layout {
        receive: steer.receive_interface(),
        receive_queues: steer.queues(),
        transmit_queues: steer.queues(),
        transmit: steer.transmit_interface(),
        workers: u16::try_from(steer.queues()).unwrap(),
        frames: FRAMES,
        zero_copy,
    }
}

fn request(client_port: u16) -> Vec<u8> {
    let client = format!("172.16.1.100:{client_port}");
    builder::udp(Addresses::ethernet(&client, SERVICE), b"request")
}

fn from_test(frame: &[u8]) -> bool {
    frame.len() > 34 && frame[26..34] == [172, 16, 1, 100, 172, 16, 1, 103]
}

/// Packets come in and go out unchanged, many times the number of frames that there are.
fn echo(mode: Mode) {
    let mut bench = Bench::new(mode);
    let rounds = u16::try_from(4 * FRAMES / 16).unwrap();
    for round in 0..rounds {
        let sent: HashSet<_> = (0..16).map(|flow| request(40_000 + 16 * round + flow)).collect();
        for packet in &sent {
            bench.wire.send(packet);
        }
        for (port, packets) in bench.receive(sent.len()) {
            bench.transmit(port, packets);
        }
        let returned: HashSet<_> = (0..16)
            .map(|_| bench.wire.receive_matching(from_test).expect("16 packets back"))
            .collect();
        assert_eq!(returned, sent, "round {round}");
    }
    bench.assert_nothing_outstanding();
    assert_eq!(
        bench.steer.steered().redirected,
        u64::from(rounds) * 16,
        "steered to a socket"
    );
}

#[test]
fn packets_come_and_go_in_native_mode() {
    with_veth(1, || echo(Mode::Native));
}

#[test]
fn packets_come_and_go_in_generic_mode() {
    with_veth(1, || echo(Mode::Generic));
}

#[test]
fn packets_come_and_go_in_companion_mode() {
    with_veth(1, || echo(Mode::Companion));
}

/// Each queue sends the packets that the other one received, and the frames return to their owners.
/// Returns the number of packets per queue.
fn two_queues(mode: Mode) -> [usize; 2] {
    let mut bench = Bench::new(mode);
    assert_eq!(bench.ports.len(), 2);
    let mut seen = [0; 2];
    for round in 0..4 * u16::try_from(FRAMES / 16).unwrap() {
        for flow in 0..16 {
            bench.wire.send(&request(40_000 + 16 * round + flow));
        }
        for (port, packets) in bench.receive(16) {
            seen[port] += packets.len();
            bench.transmit(1 - port, packets);
        }
        for _ in 0..16 {
            bench.wire.receive_matching(from_test).expect("16 packets back");
        }
    }
    bench.poll_once();
    bench.assert_nothing_outstanding();
    seen
}

#[test]
fn two_queues_exchange_frames_in_native_mode() {
    with_veth(2, || {
        let [first, second] = two_queues(Mode::Native);
        assert!(first > 0 && second > 0, "{first}, {second}");
    });
}

#[test]
fn two_queues_exchange_frames_in_companion_mode() {
    with_veth(2, || {
        let [first, second] = two_queues(Mode::Companion);
        assert!(first > 0 && second > 0, "{first}, {second}");
    });
}

/// The kernel does not record a veth's receive queue on the generic path: one queue gets all.
#[test]
fn two_queues_exchange_frames_in_generic_mode() {
    with_veth(2, || {
        two_queues(Mode::Generic);
    });
}

#[test]
fn a_tcp_super_packet_arrives_whole_in_generic_mode() {
    with_veth(1, || {
        let mut bench = Bench::new(Mode::Generic);
        let payload: Vec<u8> = (0..=250).cycle().take(60_000).collect();
        let addresses = Addresses::ethernet("172.16.1.100:40000", SERVICE);
        let mut packet = builder::tcp(addresses, &Tcp::flags(flags::ACK), &payload);
        builder::make_checksum_partial(&mut packet, true);
        // Twice as often as there are frames for: each is given back.
        for _ in 0..2 * FRAMES / 16 {
            bench.wire.send_super_packet(&packet, 1448);
            let mut received = bench.receive(1);
            let (port, frames) = received.remove(0);
            assert!(received.is_empty());
            assert!(frames.len() > 1);
            assert_eq!(packet_frames(&frames), frames.len(), "one packet");
            assert_eq!(
                frames.iter().map(Frame::bytes).collect::<Vec<_>>().concat(),
                packet
            );
            for frame in frames {
                bench.ports[port].release(frame);
            }
        }
        bench.assert_nothing_outstanding();
    });
}

#[test]
fn packets_of_several_frames_are_sent_as_one() {
    with_veth(1, || {
        for name in [NEAR, crate::testing::netns::FAR] {
            crate::testing::netns::ip(&format!("link set {name} mtu 9000"));
        }
        let mut bench = Bench::new(Mode::Generic);
        let addresses = Addresses::ethernet("172.16.1.100:40000", SERVICE);
        let packet = builder::udp(addresses, &[0x5a; 8000]);
        let mut frames = Vec::new();
        for part in packet.chunks(3000) {
            let mut frame = bench.ports[0].allocate().unwrap();
            assert_eq!(frame.capacity(), 3840);
            frame.set_len(part.len());
            frame.bytes_mut().copy_from_slice(part);
            frame.set_continues(true);
            frames.push(frame);
        }
        frames.last_mut().unwrap().set_continues(false);
        bench.transmit(0, frames);
        assert_eq!(bench.wire.receive_matching(from_test), Some(packet));
        bench.assert_nothing_outstanding();
    });
}

#[test]
fn packets_that_the_kernel_would_leak_are_not_sent() {
    with_veth(1, || {
        let mut bench = Bench::new(Mode::Native);
        let packet = request(40_000);
        let mut frames = Vec::new();
        // An empty packet, one with more frames than a socket buffer has, and a good one.
        let lengths = [vec![0], vec![1000; 19], vec![packet.len()]];
        for lengths in lengths {
            let last = lengths.len() - 1;
            for (index, length) in lengths.into_iter().enumerate() {
                let mut frame = bench.ports[0].allocate().unwrap();
                frame.set_len(length);
                frame.set_continues(index < last);
                frames.push(frame);
            }
        }
        frames.last_mut().unwrap().bytes_mut().copy_from_slice(&packet);
        bench.transmit(0, frames);
        assert_eq!(bench.wire.receive_matching(from_test), Some(packet));
        bench.assert_nothing_outstanding();
        assert_eq!(bench.ports[0].statistics().tx_invalid, 2);
    });
}

#[test]
fn a_burst_larger_than_the_rings_is_sent_in_parts_and_in_order() {
    with_veth(1, || {
        let mut bench = Bench::new(Mode::Native);
        let mut frames = Vec::new();
        while let Some(mut frame) = bench.ports[0].allocate() {
            let packet = request(40_000 + u16::try_from(frames.len()).unwrap());
            frame.set_len(packet.len());
            frame.bytes_mut().copy_from_slice(&packet);
            frames.push(frame);
        }
        let count = frames.len();
        assert_eq!(
            count,
            usize::try_from(FRAMES / 2).unwrap(),
            "half is for receiving"
        );
        bench.transmit(0, frames);
        for number in 0..count {
            let expected = request(40_000 + u16::try_from(number).unwrap());
            assert_eq!(bench.wire.receive_matching(from_test), Some(expected));
        }
        bench.assert_nothing_outstanding();
    });
}

#[test]
fn a_frame_that_was_dropped_keeps_the_memory_mapped() {
    with_veth(1, || {
        let mut bench = Bench::new(Mode::Native);
        let mut frame = bench.ports[0].allocate().unwrap();
        assert_eq!(XskPort::outstanding(bench.ports.iter()), 1);
        drop(bench);
        frame.set_len(100);
        frame.bytes_mut().fill(1);
        assert_eq!(frame.bytes(), [1; 100]);
    });
}

#[test]
fn a_queue_says_when_its_frames_are_away() {
    with_veth(1, || {
        let mut bench = Bench::new(Mode::Native);
        let mut away: Vec<XskFrame> = std::iter::from_fn(|| bench.ports[0].allocate()).collect();
        assert!(
            !bench.ports[0].lacks_frames(),
            "the queue was filled when it was opened"
        );
        bench.wire.send(&request(40_000));
        let received = bench.receive(1);
        away.extend(received.into_iter().flat_map(|(_, packets)| packets));
        assert!(bench.poll_once().is_empty());
        assert!(
            bench.ports[0].lacks_frames(),
            "none was free for the one received"
        );
        away.drain(..).for_each(|frame| bench.ports[0].release(frame));
        assert!(bench.poll_once().is_empty());
        assert!(!bench.ports[0].lacks_frames());
        bench.assert_nothing_outstanding();
    });
}

#[test]
fn a_taken_queue_and_a_missing_interface_are_named() {
    with_veth(1, || {
        let bench = Bench::new(Mode::Native);
        let taken = XskPort::open(layout(&bench.steer, ZeroCopy::Auto)).unwrap_err();
        assert!(
            matches!(&taken, SetupError::BindSocket { cause, .. } if cause.raw_os_error() == Some(libc::EBUSY)),
            "{taken}"
        );
        assert!(taken.to_string().contains("queue 0 of lb0"), "{taken}");
        let gone = Layout {
            receive: "gone0",
            transmit: "gone0",
            ..layout(&bench.steer, ZeroCopy::Auto)
        };
        let gone = XskPort::open(gone).unwrap_err().to_string();
        assert!(gone.contains("gone0"), "{gone}");
    });
}

#[test]
fn zero_copy_by_force_is_refused_where_the_driver_has_none() {
    with_veth(1, || {
        let link = LinkInfo::inspect(NEAR).unwrap();
        let steer = Steer::attach(&link, Mode::Native, None, FastPathConfig::default()).unwrap();
        let refused = XskPort::open(layout(&steer, ZeroCopy::On))
            .unwrap_err()
            .to_string();
        assert!(refused.contains("zeroCopy: auto"), "{refused}");
        let ports = XskPort::open(layout(&steer, ZeroCopy::Auto)).unwrap();
        assert!(!ports[0].is_zero_copy());
    });
}
