//! The packet tester (RFC 2544), at the network's end of the balancer's link: AF_XDP on a veth pair, the descriptor
//! of a TUN device.
//!
//! It is the client and all backends in one thread: the load generator sends requests through an [`Engine`] that
//! sends each request which the peer forwards to a backend back as its reply. So every packet that a peer forwards
//! arrives here, and no other program and no other part of the network takes part.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{Protocol, ServiceKey};
use vl3lb_dataplane::config::{Mode, ZeroCopy};
use vl3lb_dataplane::{Frame, Framing, LinkInfo, Port, Rules, Steer, XskPort};

use crate::attachment::{Ports, attach};
use crate::failure::Failure;
use crate::frame::reflect::reflect;
use crate::frame::template::Template;
use crate::frame::{Layout, UDP, be16, be32};
use crate::load::check::Checker;
use crate::load::clock::Monotonic;
use crate::load::due_windows::DueWindows;
use crate::load::engine::{BURST, Engine};
use crate::load::interval::Window;
use crate::load::latency::Latency;
use crate::load::pacing::{Rate, Schedule};
use crate::load::pattern::{Pattern, Spread};
use crate::load::payload::{STAMP_LEN, Stamp};
use crate::load::run::nanos;
use crate::load::sender::{self, Job};
use crate::load::tally::{Errors, Tally};
use crate::net::{BALANCER_ADDRESS, BALANCER_MAC, CLIENT_ADDRESS, NETWORK_PORT, WIRE_MAC, backend_address};

use super::error::CompareError;
use super::peer::PacketPath;
use super::services::PACKETS;
use super::tun_port::TunPort;

/// Bytes of a frame with its Ethernet header and without FCS: exactly what a stamp needs.
pub(crate) const FRAME_LEN: usize = 64;
/// Frames of the tester: its rings are half as long.
const FRAMES: u32 = 8192;
/// First source port of the client.
const FIRST_PORT: u16 = 20_000;
/// Flows at most: the client's ports.
pub(crate) const MAX_FLOWS: u16 = 40_000;
/// Replies that may wait for the transmit ring.
const MAX_WAITING: usize = 4 * BURST;
/// Time in which packets may still arrive when no more are sent.
const GRACE: Duration = Duration::from_millis(100);

/// The load of a trial.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) rate: Rate,
    pub(crate) duration: Duration,
    /// Poll all the time, instead of sleeping while no packet is due: exact, but takes the whole core.
    pub(crate) busy_poll: bool,
}

/// The result of a trial.
#[derive(Debug)]
pub(crate) struct Trial {
    /// Requests, and replies that the client received.
    pub(crate) tally: Tally,
    /// Requests that were due.
    due: u64,
    /// Requests that the peer forwarded to a backend, and the replies of those.
    pub(crate) forwarded: u64,
    replied: u64,
    /// From the first request until no more are sent.
    pub(crate) elapsed: Duration,
    pub(crate) latency: Latency,
    pub(crate) due_windows: DueWindows,
    /// Flows with a reply.
    pub(crate) flows_alive: u32,
    /// Flows with a request that was forwarded to another backend than earlier ones, in earlier trials too.
    pub(crate) flows_moved: u32,
}

impl Trial {
    /// Packets that the tester sent to the peer.
    pub(crate) const fn sent(&self) -> u64 {
        self.tally.sent + self.replied
    }

    /// Packets that the peer forwarded.
    pub(crate) const fn passed(&self) -> u64 {
        self.forwarded + self.tally.received
    }

    /// Packets that it did not.
    pub(crate) const fn lost(&self) -> u64 {
        self.sent().saturating_sub(self.passed())
    }

    /// Forwarded packets per second.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(crate) fn rate(&self) -> f64 {
        self.passed() as f64 / self.elapsed.as_secs_f64()
    }

    /// Whether the tester missed the rate by more than 2%.
    pub(crate) const fn is_generator_bound(&self) -> bool {
        self.tally.sent.saturating_mul(100) < self.due.saturating_mul(98)
    }
}

/// The tester, ready to send. Stays in the thread and namespace in which it was opened.
pub(crate) struct Tester<P: Port = XskPort> {
    engine: LinkEngine<P>,
    flows: u16,
}

impl Tester {
    /// Attaches to the network's end of the link, in the namespace of the calling thread. `backends` may be selected
    /// by the peer.
    pub(crate) fn open(path: PacketPath, flows: u16, backends: u16) -> Result<Self, Failure> {
        let link = LinkInfo::inspect(NETWORK_PORT)?;
        let ports = Ports {
            mode: Mode::Native,
            queues: Some(1),
            frames: FRAMES,
            zero_copy: ZeroCopy::Off,
        };
        let rules = |workers| Rules {
            services: (0..backends).map(backend).collect(),
            addresses: vec![CLIENT_ADDRESS.into()],
            nat_ports: NatPorts::new(FIRST_PORT, FIRST_PORT + flows - 1).expect("at least one flow"),
            kernel_ports: std::sync::Arc::default(),
            workers,
            owner_key: OwnerKey::from_seed(0),
        };
        let (steer, mut ports) = attach(&link, ports, rules)?;
        let port = ports.pop().ok_or(CompareError::NoPort)?;
        Ok(Self::new(port, Some(steer), Framing::Ethernet, path, flows))
    }
}

impl Tester<TunPort> {
    /// Takes the other end of the balancer's interface.
    pub(crate) fn on_tun(device: File, path: PacketPath, flows: u16) -> Self {
        let port = TunPort::new(device, FRAMES as usize);
        Self::new(port, None, Framing::RawIp, path, flows)
    }
}

impl<P: Port> Tester<P> {
    fn new(port: P, steer: Option<Steer>, framing: Framing, path: PacketPath, flows: u16) -> Self {
        let target = match path {
            PacketPath::Balanced | PacketPath::Reflected => (BALANCER_ADDRESS, PACKETS.port),
            PacketPath::Routed => (backend_address(0), PACKETS.target_port),
        };
        let macs = (framing == Framing::Ethernet).then_some((WIRE_MAC, BALANCER_MAC));
        let engine = LinkEngine {
            _steer: steer,
            port,
            framing,
            template: Template::new(
                macs,
                CLIENT_ADDRESS.into(),
                SocketAddr::from(target),
                UDP,
                STAMP_LEN,
            ),
            waiting: Vec::with_capacity(2 * BURST),
            received: Vec::with_capacity(2 * BURST),
            busy_poll: true,
            trial: 0,
            counts: Counts::default(),
            backends: vec![None; flows.into()],
            answered: vec![false; flows.into()],
        };
        Self { engine, flows }
    }

    /// Sends `load` and waits for the packets that are under way at its end.
    ///
    /// # Errors
    ///
    /// None of the ports here has one.
    pub(crate) fn run(&mut self, load: Load) -> Result<Trial, Failure> {
        self.engine.start_trial(load.busy_poll);
        let flows = self.flows.into();
        let mut job = Job {
            schedule: Schedule::new(load.rate, load.duration),
            pattern: Pattern::new(Spread::Sequential, flows, 0, 1, 0),
            checker: Checker::new(self.engine.trial, 0, 1, flows, 0),
            size: FRAME_LEN,
            end: nanos(load.duration),
            count: u64::MAX,
            grace: nanos(GRACE),
            one_way: false,
            due_windows: Some(DueWindows::new(load.duration)),
        };
        let clock = Monotonic::from(Instant::now());
        let (mut window, stop) = (Window::unseen(), AtomicBool::new(false));
        let outcome = sender::drive(&mut self.engine, &clock, &mut job, &mut window, &stop)?;
        self.engine.discard();
        let Counts {
            forwarded,
            replied,
            moved,
        } = self.engine.counts;
        let alive = self.engine.answered.iter().filter(|&&answered| answered).count();
        Ok(Trial {
            tally: outcome.tally,
            due: outcome.due,
            forwarded,
            replied,
            elapsed: Duration::from_nanos(outcome.ended),
            latency: outcome.latency,
            due_windows: job
                .due_windows
                .take()
                .unwrap_or_else(|| DueWindows::new(Duration::ZERO)),
            flows_alive: u32::try_from(alive).unwrap_or(u32::MAX),
            flows_moved: moved,
        })
    }
}

/// Sends requests to the peer, receives replies, and replies for the backends.
struct LinkEngine<P: Port> {
    // Dropped before the port is.
    _steer: Option<Steer>,
    port: P,
    framing: Framing,
    template: Template,
    /// Requests and replies that wait for the transmit ring.
    waiting: Vec<P::Frame>,
    received: Vec<P::Frame>,
    busy_poll: bool,
    /// Number of the trial in stamps: packets of earlier ones are ignored.
    trial: u16,
    counts: Counts,
    /// By flow: the backend of its requests.
    backends: Vec<Option<Ipv4Addr>>,
    /// By flow: whether it had a reply in this trial.
    answered: Vec<bool>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    forwarded: u64,
    replied: u64,
    moved: u32,
}

impl<P: Port> LinkEngine<P> {
    fn start_trial(&mut self, busy_poll: bool) {
        self.busy_poll = busy_poll;
        self.trial = self.trial.wrapping_add(1);
        self.counts = Counts::default();
        self.answered.fill(false);
    }

    /// Gives back the frames that were not sent.
    fn discard(&mut self) {
        for frame in self.waiting.drain(..) {
            self.port.release(frame);
        }
    }

    /// A request that the peer forwarded to a backend becomes its reply.
    fn reply(&mut self, mut frame: P::Frame, layout: &Layout) {
        let destination = Ipv4Addr::from_bits(be32(frame.bytes(), layout.addresses + 4));
        let stamp = Stamp::read(&frame.bytes()[layout.payload..layout.end]);
        let Some(stamp) = stamp.ok().filter(|stamp| stamp.run == self.trial) else {
            return self.port.release(frame);
        };
        self.counts.forwarded += 1;
        if let Some(backend) = self.backends.get_mut(stamp.flow as usize) {
            let before = backend.replace(destination);
            self.counts.moved += u32::from(before.is_some_and(|before| before != destination));
        }
        if self.waiting.len() < MAX_WAITING && reflect(frame.bytes_mut(), self.framing) {
            self.waiting.push(frame);
            self.counts.replied += 1;
        } else {
            self.port.release(frame);
        }
    }
}

impl<P: Port> Engine for LinkEngine<P> {
    fn room(&self) -> usize {
        BURST
            .saturating_sub(self.waiting.len())
            .min(self.port.free_frames())
    }

    fn push(&mut self, flow: u32, stamp: &Stamp) {
        let mut frame = self.port.allocate().expect("the caller looks for room");
        let port = FIRST_PORT + u16::try_from(flow).expect("flows are counted in a u16");
        frame.set_len(self.template.len());
        self.template
            .write(frame.bytes_mut(), port, None, |payload| stamp.write(payload));
        self.waiting.push(frame);
    }

    fn flush(&mut self, _errors: &mut Errors) -> Result<usize, Failure> {
        let before = self.waiting.len();
        self.port.transmit(&mut self.waiting);
        Ok(before - self.waiting.len())
    }

    fn receive(&mut self, _errors: &mut Errors, arrived: &mut dyn FnMut(u32, &[u8])) -> usize {
        let count = self.port.receive(&mut self.received, BURST);
        let mut received = std::mem::take(&mut self.received);
        for frame in received.drain(..) {
            let bytes = frame.bytes();
            let Some(layout) = Layout::of(bytes, self.framing).filter(|layout| layout.address_len == 4)
            else {
                self.port.release(frame);
                continue;
            };
            if be32(bytes, layout.addresses + 4) != CLIENT_ADDRESS.to_bits() {
                self.reply(frame, &layout);
                continue;
            }
            let flow = be16(bytes, layout.transport + 2).wrapping_sub(FIRST_PORT);
            if let Some(answered) = self.answered.get_mut(usize::from(flow)) {
                *answered = true;
                arrived(flow.into(), &bytes[layout.payload..layout.end]);
            }
            self.port.release(frame);
        }
        self.received = received;
        count
    }

    fn wait(&mut self, limit: Duration) {
        let Some(descriptor) = self.port.wait_descriptor().filter(|_| !self.busy_poll) else {
            return;
        };
        let limit = Timespec::try_from(limit).unwrap_or_default();
        // A signal ends the wait early, which is as good as a packet.
        poll(
            &mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)],
            Some(&limit),
        )
        .ok();
    }

    fn overrun(&self) -> u64 {
        let statistics = self.port.statistics();
        statistics.rx_dropped + statistics.rx_ring_full
    }
}

/// A backend's address and port, which the steer program redirects to the tester.
fn backend(index: u16) -> ServiceKey {
    ServiceKey {
        address: IpAddr::V4(backend_address(index)),
        port: PACKETS.target_port,
        protocol: Protocol::Udp,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use vl3lb_dataplane::testing::MemPort;
    use vl3lb_dataplane::testing::builder::{Addresses, udp};
    use vl3lb_dataplane::testing::validate::assert_valid;

    use super::*;

    const CLIENT: &str = "172.16.1.10:20007";
    const SERVICE: &str = "172.16.1.103:7000";
    const OWN: &str = "172.16.1.103:10240";

    fn tester() -> Tester<MemPort> {
        let mut tester = Tester::new(MemPort::new(64), None, Framing::RawIp, PacketPath::Balanced, 10);
        tester.engine.start_trial(true);
        tester
    }

    fn stamp(trial: u16) -> Stamp {
        Stamp {
            run: trial,
            flow: 7,
            sequence: 3,
            intended: 1000,
            sent: 1000,
        }
    }

    fn payload(trial: u16) -> [u8; STAMP_LEN] {
        let mut payload = [0; STAMP_LEN];
        stamp(trial).write(&mut payload);
        payload
    }

    /// Flows and payloads that arrive at the client when the peer sends this packet.
    fn receive(tester: &mut Tester<MemPort>, packet: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let engine = &mut tester.engine;
        assert!(engine.port.push_packet(packet));
        let mut arrived = Vec::new();
        engine.receive(&mut Errors::default(), &mut |flow, payload| {
            arrived.push((flow, payload.to_vec()));
        });
        engine.flush(&mut Errors::default()).unwrap();
        arrived
    }

    #[test]
    fn a_request_goes_to_the_service_from_the_port_of_its_flow() {
        let mut tester = tester();
        tester.engine.push(7, &stamp(1));
        tester.engine.flush(&mut Errors::default()).unwrap();
        let requests = tester.engine.port.take_transmitted();
        let packet = SlicedPacket::from_ip(&requests[0]).unwrap();
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport)
        else {
            panic!("not IPv4 and UDP");
        };
        assert_eq!(ip.header().source_addr(), CLIENT_ADDRESS);
        assert_eq!(ip.header().destination_addr(), BALANCER_ADDRESS);
        assert_eq!((udp.source_port(), udp.destination_port()), (20_007, 7000));
        assert_eq!(udp.payload(), payload(1));
        assert_valid(&requests[0], false);
    }

    #[test]
    fn a_forwarded_request_is_sent_back_as_its_reply() {
        let mut tester = tester();
        let forwarded = Addresses::raw(OWN, "172.16.1.21:7001");
        assert!(receive(&mut tester, &udp(forwarded, &payload(1))).is_empty());
        let replies = tester.engine.port.take_transmitted();
        assert_eq!(replies, [udp(forwarded.reversed(), &payload(1))]);
        assert_valid(&replies[0], false);
        // Another backend for the same flow.
        receive(
            &mut tester,
            &udp(Addresses::raw(OWN, "172.16.1.22:7001"), &payload(1)),
        );
        let Counts {
            forwarded,
            replied,
            moved,
        } = tester.engine.counts;
        assert_eq!((forwarded, replied, moved), (2, 2, 1));
    }

    #[test]
    fn a_reply_arrives_at_the_flow_of_its_port() {
        let mut tester = tester();
        let reply = udp(Addresses::raw(SERVICE, CLIENT), &payload(1));
        assert_eq!(receive(&mut tester, &reply), [(7, payload(1).to_vec())]);
        assert!(tester.engine.answered[7]);
        let stray = udp(Addresses::raw(SERVICE, "172.16.1.10:19999"), &payload(1));
        assert!(receive(&mut tester, &stray).is_empty());
    }

    #[test]
    fn requests_of_an_earlier_trial_have_no_reply() {
        let mut tester = tester();
        let late = udp(Addresses::raw(OWN, "172.16.1.21:7001"), &payload(0));
        assert!(receive(&mut tester, &late).is_empty());
        assert!(tester.engine.port.take_transmitted().is_empty());
        assert_eq!(tester.engine.counts.forwarded, 0);
    }
}
