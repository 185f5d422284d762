//! A whole plane with its threads over ports of memory: no kernel, no privileges.

use std::sync::Mutex;
use std::time::Instant;

use vl3lb_common::capture::{Capture, CaptureSettings};
use vl3lb_common::dataplane::{AttachError, AttachErrorKind};
use vl3lb_common::next_hop::Link;

use super::*;
use crate::error::SetupError;
use crate::port::memory::{MemInterface, MemPort, MemProvider, Wire as MemWire};
use crate::port::provider::Attached;
use crate::port::tap::{Direction, Tap, TapSink};
use crate::port::{Frame, Port};

const FRAMES: usize = 512;
const CLIENTS: std::ops::Range<u16> = 40_000..40_050;

fn interface(link: Link, receive_queues: u32, transmit_queues: u32) -> MemInterface {
    MemInterface {
        index: 7,
        link,
        mtu: 1500,
        receive_queues,
        transmit_queues,
    }
}

fn plane(workers: Option<usize>) -> (Plane<MemProvider>, MemProvider) {
    let provider = MemProvider::new(FRAMES);
    let config = Config {
        cores: workers.map(|workers| vec![0; workers]),
        ..config(Mode::Auto)
    };
    (Plane::with_ports(config, provider.clone()), provider)
}

/// Packets that the plane transmits, until `count` are there.
fn transmitted(wires: &[Arc<MemWire>], count: usize) -> Vec<Vec<u8>> {
    let end = Instant::now() + LIMIT;
    let mut packets = Vec::new();
    while packets.len() < count {
        assert!(
            Instant::now() < end,
            "{} of {count} packets in time",
            packets.len()
        );
        packets.extend(wires.iter().flat_map(|wire| wire.take_transmitted()));
        std::thread::yield_now();
    }
    packets
}

fn addresses(link: Link, source: &str, destination: &str) -> Addresses {
    match link {
        Link::Ethernet(_) => Addresses::ethernet(source, destination),
        Link::RawIp => Addresses::raw(source, destination),
    }
}

/// A request and a reply for each of [`CLIENTS`], over alternating queues. Returns the NAT ports in the
/// order of the clients.
fn exchange_all(provider: &MemProvider, interface: MemInterface) -> Vec<u16> {
    let wires = provider.wires();
    let queues = interface.receive_queues as usize;
    let link = interface.link;
    let l4 = match link {
        Link::Ethernet(_) => 34,
        Link::RawIp => 20,
    };
    let port = |packet: &[u8], at: usize| u16::from_be_bytes([packet[l4 + at], packet[l4 + at + 1]]);
    let mut nat_ports = Vec::new();
    for client in CLIENTS {
        let from = format!("172.16.1.100:{client}");
        let request = builder::udp(addresses(link, &from, SERVICE), b"request");
        assert!(wires[usize::from(client) % queues].send(&request));
        let [to_backend] = &transmitted(&wires, 1)[..] else {
            panic!("one packet for one")
        };
        validate::assert_valid(to_backend, link != Link::RawIp);
        nat_ports.push(port(to_backend, 0));
        let to = format!("172.16.1.103:{}", port(to_backend, 0));
        let reply = builder::udp(addresses(link, BACKEND, &to), b"reply");
        assert!(wires[usize::from(client + 1) % queues].send(&reply));
        let [to_client] = &transmitted(&wires, 1)[..] else {
            panic!("one packet for one")
        };
        validate::assert_valid(to_client, link != Link::RawIp);
        assert_eq!((port(to_client, 0), port(to_client, 2)), (8080, client));
    }
    nat_ports
}

fn kind(result: Result<Arc<Attachment>, AttachError>) -> Option<AttachErrorKind> {
    result.err().map(|error| error.kind)
}

#[test]
fn a_plane_waits_for_its_interface_balances_and_stops() {
    let (plane, provider) = plane(None);
    assert_eq!(kind(plane.attach()), Some(AttachErrorKind::InterfaceAbsent));
    assert!(plane.stats().is_empty() && plane.flow_feeds().is_empty());
    plane.healthy().unwrap();
    plane.publish(Arc::new(world::snapshot(1, Link::RawIp))).unwrap();

    let interface = interface(Link::RawIp, 2, 2);
    provider.set_interface(Some(interface));
    let attachment = plane.attach().unwrap();
    assert_eq!(attachment.cores.len(), 2);
    // The snapshot that was published before is in force.
    exchange_all(&provider, interface);
    let sum =
        |counter: fn(&WorkerStats) -> u64| plane.stats().iter().map(|stats| counter(stats)).sum::<u64>();
    assert_eq!(plane.stop(), 0, "frames are missing");
    assert_eq!(sum(|stats| stats.received.get()), 100);
    assert_eq!(sum(|stats| stats.transmitted.get()), 100);
}

#[test]
fn a_capture_reaches_the_workers_and_ends() {
    let (plane, provider) = plane(None);
    plane.publish(Arc::new(world::snapshot(1, Link::RawIp))).unwrap();
    assert!(plane.capture_feeds().is_empty());
    let interface = interface(Link::RawIp, 2, 2);
    provider.set_interface(Some(interface));
    plane.attach().unwrap();
    let mut settings = CaptureSettings::default();
    settings.captures[0] = Some(Capture {
        snap_length: 64,
        ..Capture::default()
    });
    plane.set_capture(&Arc::new(settings));
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + LIMIT;
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    };
    let matched = || {
        plane
            .capture_feeds()
            .iter()
            .map(|feed| feed.matched(0))
            .sum::<u64>()
    };
    // A worker takes the settings in its next round.
    wait("packets are captured", &|| {
        exchange_all(&provider, interface);
        matched() >= 100
    });
    plane.set_capture(&Arc::default());
    wait("the capture ends", &|| {
        let before = matched();
        exchange_all(&provider, interface);
        matched() == before
    });
    assert_eq!(plane.stop(), 0, "frames are missing");
}

#[test]
fn flows_outlive_interfaces_with_any_number_of_queues() {
    for workers in 1..4 {
        let (plane, provider) = plane(Some(workers));
        plane.publish(Arc::new(world::snapshot(1, Link::RawIp))).unwrap();
        let mut flows = Vec::new();
        for (receive, transmit) in [(1, 1), (2, 2), (4, 1), (1, 4), (3, 2)] {
            let interface = interface(Link::RawIp, receive, transmit);
            provider.set_interface(Some(interface));
            plane.attach().unwrap();
            assert_eq!(plane.stats().len(), workers);
            let nat_ports = exchange_all(&provider, interface);
            if flows.is_empty() {
                flows.clone_from(&nat_ports);
            }
            assert_eq!(
                nat_ports, flows,
                "{workers} workers, {receive} and {transmit} queues"
            );
        }
        assert_eq!(plane.stop(), 0, "frames are missing");
    }
}

#[test]
fn flows_outlive_a_change_of_the_link_type() {
    let (plane, provider) = plane(None);
    let mut flows = Vec::new();
    for (generation, link) in [(1, Link::RawIp), (2, Link::Ethernet(MACS.1)), (3, Link::RawIp)] {
        let interface = interface(link, 1, 1);
        provider.set_interface(Some(interface));
        let change = (generation > 1).then_some(LinkChange::Replaced);
        assert_eq!(plane.link_change(), change);
        plane.attach().unwrap();
        let request = builder::udp(addresses(link, "172.16.1.100:40000", SERVICE), b"request");
        if generation > 1 {
            assert!(!provider.wires()[0].send(&request), "nothing is steered yet");
        }
        plane
            .publish(Arc::new(world::snapshot(generation, link)))
            .unwrap();
        let nat_ports = exchange_all(&provider, interface);
        if flows.is_empty() {
            flows.clone_from(&nat_ports);
        }
        assert_eq!(nat_ports, flows);
    }
    assert_eq!(plane.stop(), 0);
}

#[test]
fn attachments_under_load_lose_no_frame() {
    let (plane, provider) = plane(Some(2));
    plane.publish(Arc::new(world::snapshot(1, Link::RawIp))).unwrap();
    provider.set_interface(Some(interface(Link::RawIp, 2, 1)));
    for round in 0..20 {
        plane.attach().unwrap();
        for client in CLIENTS {
            let from = format!("172.16.1.100:{client}");
            let request = builder::udp(Addresses::raw(&from, SERVICE), b"request");
            provider.wires()[usize::from(client) % 2].send(&request);
        }
        if round % 2 == 0 {
            plane.detach();
        }
    }
    plane.healthy().unwrap();
    assert_eq!(plane.stop(), 0);
}

/// The packets that taps saw.
type Seen = Arc<Mutex<Vec<(Direction, Vec<u8>)>>>;

#[derive(Debug, Clone, Default)]
struct Recorder(Seen);

impl TapSink for Recorder {
    fn packet<F: Frame>(&mut self, direction: Direction, packet: &[F]) {
        let bytes = packet.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
        self.0.lock().unwrap().push((direction, bytes));
    }
}

/// Wraps all ports of a provider.
#[derive(Debug)]
struct Tapped(MemProvider, Recorder);

impl PortProvider for Tapped {
    type Port = Tap<MemPort, Recorder>;
    type Steering = <MemProvider as PortProvider>::Steering;

    fn attach(&self, workers: Option<u16>) -> Result<Attached<Self::Port, Self::Steering>, SetupError> {
        let attached = self.0.attach(workers)?;
        let tap = |port| Tap::new(port, self.1.clone());
        Ok(Attached {
            ports: attached.ports.into_iter().map(tap).collect(),
            steering: attached.steering,
            attachment: attached.attachment,
            fast_path: attached.fast_path,
            shed: attached.shed,
        })
    }

    fn link_change(&self, attachment: &Attachment) -> Option<LinkChange> {
        self.0.link_change(attachment)
    }
}

#[test]
fn a_tap_sees_every_packet_of_a_plane() {
    let provider = MemProvider::new(FRAMES);
    let interface = interface(Link::RawIp, 1, 1);
    provider.set_interface(Some(interface));
    let recorder = Recorder::default();
    let plane = Plane::with_ports(config(Mode::Auto), Tapped(provider.clone(), recorder.clone()));
    plane.attach().unwrap();
    plane.publish(Arc::new(world::snapshot(1, Link::RawIp))).unwrap();
    exchange_all(&provider, interface);
    assert_eq!(plane.stop(), 0);
    let seen = recorder.0.lock().unwrap();
    assert_eq!(seen.len(), 4 * CLIENTS.len());
    for packets in seen.chunks(4) {
        let directions: Vec<_> = packets.iter().map(|(direction, _)| *direction).collect();
        let turn = [Direction::Received, Direction::Transmitted];
        assert_eq!(directions, [turn, turn].concat());
        assert_eq!(&packets[0].1[28..], b"request");
        assert_eq!(&packets[3].1[28..], b"reply");
    }
}

#[test]
fn a_tap_shows_a_packet_that_waits_for_the_ring_only_once() {
    let recorder = Recorder::default();
    let mut port = MemPort::new(8);
    port.set_transmit_room(1);
    let mut tap = Tap::new(port, recorder.clone());
    let mut packets: Vec<_> = (0..3).map(|_| tap.allocate().unwrap()).collect();
    tap.transmit(&mut packets);
    tap.transmit(&mut packets);
    assert_eq!(packets.len(), 2);
    assert_eq!(recorder.0.lock().unwrap().len(), 1);
    packets.into_iter().for_each(|frame| tap.release(frame));
    assert_eq!(Tap::outstanding(std::iter::once(&tap)), 0);
}
