//! Packets from spoofed sources, sent from the network's end of the balancer's link.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::net::sockopt;
use vl3lb_dataplane::config::ZeroCopy;
use vl3lb_dataplane::{Frame, Layout, Port, XskPort};

use crate::compare::error::CompareError;
use crate::failure::Failure;
use crate::frame::flags::ACK;
use crate::frame::template::{Segment, Template};
use crate::frame::{TCP, UDP};
use crate::load::engine::BURST;
use crate::load::pacing::{Rate, Schedule};
use crate::load::run::nanos;
use crate::net::{BALANCER_ADDRESS, BALANCER_MAC, NETWORK_PORT, WIRE_MAC};

use super::attack::Attack;

/// Spoofed addresses are in this network; nothing else is.
pub(super) const SOURCES: &str = "10.64.0.0/12";
const FIRST_SOURCE: u32 = Ipv4Addr::new(10, 64, 0, 0).to_bits();
/// Addresses in it.
pub(super) const MAX_SOURCES: u32 = 1 << 20;
/// The lowest source port.
const FIRST_PORT: u16 = 1024;
/// Frames of packet memory.
const FRAMES: u32 = 4096;
/// Payload of a datagram: that of a frame of 64 bytes without FCS.
const PAYLOAD: usize = 22;
/// Bytes that may be under way, with the kernel's overhead: more than all frames. With the kernel's default a peer whose
/// packets wait in a queue of the kernel would slow the flood down.
const SEND_BUFFER: usize = 64 << 20;
/// Pause while no packet is due.
const PAUSE: Duration = Duration::from_micros(50);

/// Makes and sends the packets of an attack.
#[derive(Debug)]
pub(super) struct Generator<P: Port = XskPort> {
    port: P,
    template: Template,
    /// Of TCP segments; `None`: datagrams.
    flags: Option<u8>,
    sources: u32,
    random: StdRng,
    waiting: Vec<P::Frame>,
}

impl Generator {
    /// For the namespace of the calling thread, which must be the router's. Only sends: no XDP program is attached, so
    /// the link stays as it is for all other packets.
    pub(super) fn open(attack: Attack, sources: u32, seed: u64) -> Result<Self, Failure> {
        let mut ports = XskPort::open(Layout {
            receive: NETWORK_PORT,
            receive_queues: 1,
            transmit: NETWORK_PORT,
            transmit_queues: 1,
            workers: 1,
            frames: FRAMES,
            zero_copy: ZeroCopy::Off,
        })?;
        let port = ports.pop().ok_or(CompareError::NoPort)?;
        for (_, socket) in port.receivers() {
            sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER)
                .map_err(Failure::system("enlarge the send buffer of the generator"))?;
        }
        Ok(Self::new(port, attack, sources, seed))
    }
}

impl<P: Port> Generator<P> {
    fn new(port: P, attack: Attack, sources: u32, seed: u64) -> Self {
        let target = attack.target();
        let (protocol, payload) = if target.udp { (UDP, PAYLOAD) } else { (TCP, 0) };
        let template = Template::new(
            Some((WIRE_MAC, BALANCER_MAC)),
            Ipv4Addr::from_bits(FIRST_SOURCE).into(),
            SocketAddr::from((BALANCER_ADDRESS, target.port)),
            protocol,
            payload,
        );
        Self {
            port,
            template,
            flags: (!target.udp).then(|| attack.flags()),
            sources,
            random: StdRng::seed_from_u64(seed),
            waiting: Vec::with_capacity(BURST),
        }
    }

    /// Sends at `rate` for `duration`, or until `stop`. Returns the number of packets that the kernel took.
    pub(super) fn run(&mut self, rate: Rate, duration: Duration, stop: &AtomicBool) -> u64 {
        let (start, schedule) = (Instant::now(), Schedule::new(rate, duration));
        let mut sent = 0;
        loop {
            let elapsed = start.elapsed();
            if elapsed >= duration || stop.load(Ordering::Relaxed) {
                break;
            }
            let due = schedule.due(nanos(elapsed)).saturating_sub(sent);
            let burst = usize::try_from(due).map_or(BURST, |due| due.min(BURST));
            if burst == 0 {
                std::thread::sleep(PAUSE);
            }
            while self.waiting.len() < burst
                && let Some(mut frame) = self.port.allocate()
            {
                self.write(&mut frame);
                self.waiting.push(frame);
            }
            let before = self.waiting.len();
            self.port.transmit(&mut self.waiting);
            sent += (before - self.waiting.len()) as u64;
        }
        for frame in self.waiting.drain(..) {
            self.port.release(frame);
        }
        sent
    }

    /// A packet of a source and a port at random.
    fn write(&mut self, frame: &mut P::Frame) {
        let source = Ipv4Addr::from_bits(FIRST_SOURCE + self.random.random_range(0..self.sources));
        let port = self.random.random_range(FIRST_PORT..=u16::MAX);
        let segment = self.flags.map(|flags| Segment {
            flags,
            sequence: self.random.random(),
            acknowledgment: if flags & ACK == 0 { 0 } else { self.random.random() },
        });
        self.template.set_source(source);
        frame.set_len(self.template.len());
        self.template.write(frame.bytes_mut(), port, segment, |_| ());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use vl3lb_dataplane::testing::MemPort;
    use vl3lb_dataplane::testing::validate::assert_valid;

    use super::*;

    /// Some packets of `attack`.
    fn packets(attack: Attack, sources: u32) -> Vec<Vec<u8>> {
        let mut generator = Generator::new(MemPort::new(64), attack, sources, 1);
        for _ in 0..32 {
            let mut frame = generator.port.allocate().unwrap();
            generator.write(&mut frame);
            generator.waiting.push(frame);
        }
        generator.port.transmit(&mut generator.waiting);
        generator.port.take_transmitted()
    }

    #[test]
    fn every_packet_is_valid_and_of_another_flow() {
        for attack in [Attack::Udp, Attack::Syn, Attack::Ack] {
            let target = attack.target();
            let mut flows = HashSet::new();
            for packet in packets(attack, MAX_SOURCES) {
                assert_valid(&packet, true);
                let packet = SlicedPacket::from_ethernet(&packet).unwrap();
                let Some(NetSlice::Ipv4(ip)) = packet.net else {
                    panic!("not IPv4")
                };
                let source = ip.header().source_addr();
                assert_eq!(source.octets()[0], 10);
                assert!((64..80).contains(&source.octets()[1]), "{source}");
                assert_eq!(ip.header().destination_addr(), BALANCER_ADDRESS);
                let (port, to) = match packet.transport {
                    Some(TransportSlice::Udp(udp)) if target.udp => {
                        (udp.source_port(), udp.destination_port())
                    }
                    Some(TransportSlice::Tcp(tcp)) if !target.udp => {
                        assert_eq!(
                            (tcp.syn(), tcp.ack()),
                            (attack == Attack::Syn, attack == Attack::Ack)
                        );
                        (tcp.source_port(), tcp.destination_port())
                    }
                    other => panic!("{other:?}"),
                };
                assert_eq!(to, target.port);
                assert!(flows.insert((source, port)));
            }
            assert_eq!(flows.len(), 32);
        }
    }

    #[test]
    fn the_number_of_sources_is_bounded() {
        let sources: HashSet<Vec<u8>> = packets(Attack::Syn, 2)
            .into_iter()
            .map(|packet| packet[26..30].to_vec())
            .collect();
        assert_eq!(sources, HashSet::from([vec![10, 64, 0, 0], vec![10, 64, 0, 1]]));
    }

    #[test]
    fn a_flood_ends_after_its_time_or_when_it_is_stopped() {
        let mut generator = Generator::new(MemPort::new(4096), Attack::Syn, 100, 1);
        let (rate, time) = (Rate::Fixed(10_000.0), Duration::from_millis(50));
        let sent = generator.run(rate, time, &AtomicBool::new(false));
        assert!((1..=501).contains(&sent), "{sent}");
        let day = Duration::from_secs(86_400);
        assert_eq!(generator.run(Rate::FlatOut, day, &AtomicBool::new(true)), 0);
    }
}
