//! AF_XDP: frames are made and taken here, past the kernel's protocols.
//!
//! The steer program sends what comes to our source ports to our sockets, exactly as it does with a balancer's
//! NAT ports; everything else stays with the kernel. All queues of the interface are read, one is sent
//! through.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vl3lb_common::snapshot::NatPorts;
use vl3lb_dataplane::config::ZeroCopy;
use vl3lb_dataplane::link::{Link, LinkInfo, Path};
use vl3lb_dataplane::packet::Framing;
use vl3lb_dataplane::port::xsk::{XskFrame, XskPort};
use vl3lb_dataplane::port::{Frame, Port};
use vl3lb_dataplane::steer::{Rules, Steer};

use super::{BURST, Engine};
use crate::attachment::{Wanted, attach};
use crate::failure::Failure;
use crate::frame::checksum::{self, Checksum};
use crate::frame::template::{Segment, Template};
use crate::frame::{Layout, TCP, UDP, be16, be32, flags};
use crate::load::payload::Stamp;
use crate::load::plan::{Plan, Traffic};
use crate::load::run::Used;
use crate::load::tally::Errors;

/// Frames of 4 KiB for each queue.
const FRAMES: u32 = 4096;
/// How long the kernel may take to find the next hop.
const RESOLVE: Duration = Duration::from_secs(2);
/// How long handshakes may take, and after what time a SYN is sent again.
const HANDSHAKES: Duration = Duration::from_secs(5);
const REPEAT: Duration = Duration::from_millis(500);
/// The first sequence number of each connection.
const FIRST_SEQUENCE: u32 = 1_000_000;

/// An interface that frames are sent through.
#[derive(Debug)]
pub(in crate::load) struct XdpEngine {
    // Fields are dropped in this order: nothing is steered to sockets that are gone.
    _steer: Steer,
    ports: Vec<XskPort>,
    framing: Framing,
    /// What answers come from.
    target: (IpAddr, u16),
    tuples: Tuples,
    /// By source address.
    templates: Vec<Template>,
    /// The same without payload; TCP only.
    controls: Vec<Template>,
    /// By flow; TCP only.
    connections: Vec<Connection>,
    pending: Vec<XskFrame>,
    received: Vec<XskFrame>,
}

/// Which source address and port each flow has.
#[derive(Debug)]
struct Tuples {
    sources: Vec<IpAddr>,
    first_port: u16,
    /// Ports of each address.
    ports: u32,
    flows: u32,
}

/// The state of a TCP connection as far as a generator needs it.
#[derive(Debug, Clone, Copy, Default)]
struct Connection {
    established: bool,
    /// The next sequence number to send.
    sequence: u32,
    /// The next one expected from the other side.
    acknowledgment: u32,
}

impl XdpEngine {
    /// Attaches to the interface and, for TCP, opens a connection for each flow.
    ///
    /// # Errors
    ///
    /// No route, next hop, or answer to a handshake; an interface that cannot be attached to; a right that is
    /// missing.
    pub(in crate::load) fn open(plan: &Plan) -> Result<(Self, Used), Failure> {
        let target = plan.target;
        let path = Path::to(target.ip())
            .map_err(|error| Failure::unreachable(format!("look up the route to {}: {error}", target.ip())))?
            .ok_or_else(|| {
                Failure::arguments(format!(
                    "target {target}: not the address of another host, so that AF_XDP cannot reach it"
                ))
            })?;
        let link = LinkInfo::inspect(&path.interface).map_err(|error| Failure::new(error.to_string()))?;
        let macs = match link.link {
            Link::RawIp => None,
            Link::Ethernet(own) => {
                let neighbor = path.resolve(RESOLVE).map_err(|error| {
                    Failure::new(format!("ask the kernel for {}: {error}", path.neighbor))
                })?;
                let neighbor = neighbor.ok_or_else(|| {
                    Failure::unreachable(format!(
                        "{target}: the next hop {} does not answer on {}",
                        path.neighbor, path.interface
                    ))
                })?;
                Some((own, neighbor))
            }
        };
        let sources = if plan.sources.is_empty() {
            vec![path.source]
        } else {
            plan.sources.clone()
        };
        let tuples = Tuples::new(sources, plan.first_port, plan.flows)?;
        let (protocol, connections) = match plan.traffic {
            Traffic::Udp => (UDP, 0),
            Traffic::TcpPackets | Traffic::Tcp { .. } => (TCP, plan.flows as usize),
        };
        let templates = |protocol, payload| -> Vec<_> {
            let sources = tuples.sources.iter();
            sources
                .map(|source| Template::new(macs, *source, target, protocol, payload))
                .collect()
        };
        let (templates, controls) = (templates(protocol, plan.payload_len()), templates(TCP, 0));
        let wanted = Wanted {
            mode: plan.mode,
            queues: None,
            frames: FRAMES,
            zero_copy: ZeroCopy::Auto,
        };
        let rules = |workers| Rules {
            services: HashSet::new(),
            addresses: tuples.sources.clone(),
            nat_ports: tuples.range(workers),
            workers,
        };
        let (steer, ports) = attach(&link, wanted, rules).map_err(|error| Failure::new(error.to_string()))?;
        let used = Used {
            engine: "xdp",
            reason: steer.reason().to_owned(),
            interface: Some(link.name.clone()),
            mode: Some(format!(
                "{} {}",
                steer.mode().name(),
                if ports.iter().all(XskPort::is_zero_copy) {
                    "zero-copy"
                } else {
                    "copy"
                }
            )),
        };
        let mut engine = Self {
            _steer: steer,
            ports,
            framing: if macs.is_some() {
                Framing::Ethernet
            } else {
                Framing::RawIp
            },
            target: (target.ip(), target.port()),
            tuples,
            templates,
            controls,
            connections: vec![Connection::default(); connections],
            pending: Vec::with_capacity(BURST),
            received: Vec::with_capacity(BURST),
        };
        if protocol == TCP {
            engine.open_connections()?;
        }
        Ok((engine, used))
    }

    /// Opens all connections: SYN, and ACK to each SYN-ACK.
    fn open_connections(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        let mut errors = Errors::default();
        for connection in &mut self.connections {
            connection.sequence = FIRST_SEQUENCE;
        }
        let mut unopened: Vec<u32> = (0..self.tuples.flows).collect();
        while start.elapsed() < HANDSHAKES {
            for &flow in &unopened {
                let syn = Segment {
                    flags: flags::SYN,
                    sequence: FIRST_SEQUENCE,
                    acknowledgment: 0,
                };
                self.push_control(flow, syn);
                self.exchange(&mut errors)?;
            }
            let asked = Instant::now();
            while asked.elapsed() < REPEAT {
                self.exchange(&mut errors)?;
                unopened.retain(|&flow| !self.connections[flow as usize].established);
                if unopened.is_empty() {
                    return self.acknowledge_all();
                }
                self.wait(REPEAT.saturating_sub(asked.elapsed()));
            }
        }
        let refused = if errors.reset > 0 {
            " (some were reset)"
        } else {
            ""
        };
        Err(Failure::unreachable(format!(
            "{}:{}: {} of {} handshakes were not answered{refused}; tcp-packets need vl3-perf reflect at the other \
             end",
            self.target.0,
            self.target.1,
            unopened.len(),
            self.tuples.flows
        )))
    }

    fn acknowledge_all(&mut self) -> Result<(), Failure> {
        let mut errors = Errors::default();
        for flow in 0..self.tuples.flows {
            let connection = &mut self.connections[flow as usize];
            connection.sequence = FIRST_SEQUENCE.wrapping_add(1);
            let ack = Segment {
                flags: flags::ACK,
                sequence: connection.sequence,
                acknowledgment: connection.acknowledgment,
            };
            self.push_control(flow, ack);
            self.exchange(&mut errors)?;
        }
        Ok(())
    }

    /// A segment without payload; without a free frame it is left out, and sent by a later try.
    fn push_control(&mut self, flow: u32, segment: Segment) {
        let (source, port) = self.tuples.of(flow);
        let template = &self.controls[source];
        if let Some(mut frame) = self.ports[0].allocate() {
            frame.set_len(template.len());
            template.write(frame.bytes_mut(), port, Some(segment), |_| {});
            self.pending.push(frame);
        }
    }

    fn exchange(&mut self, errors: &mut Errors) -> Result<(), Failure> {
        self.flush(errors)?;
        self.receive(errors, &mut |_, _| {});
        Ok(())
    }
}

impl Tuples {
    fn new(sources: Vec<IpAddr>, first_port: u16, flows: u32) -> Result<Self, Failure> {
        let addresses = u32::try_from(sources.len()).unwrap_or(u32::MAX).max(1);
        let ports = flows.div_ceil(addresses);
        let most = u32::from(u16::MAX - first_port) + 1;
        if ports > most {
            return Err(Failure::arguments(format!(
                "--flows {flows}: {addresses} source addresses with ports from {first_port} on have room for {}; \
                 give more addresses (--source) or a lower --first-port",
                addresses * most
            )));
        }
        Ok(Self {
            sources,
            first_port,
            ports,
            flows,
        })
    }

    /// Number of the source address, and port.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most `u16::MAX`, checked in `new`"
    )]
    fn of(&self, flow: u32) -> (usize, u16) {
        let port = u32::from(self.first_port) + flow % self.ports;
        ((flow / self.ports) as usize, port as u16)
    }

    /// The flow of an address and port, if it is one.
    #[inline]
    fn flow(&self, address: IpAddr, port: u16) -> Option<u32> {
        let source = self.sources.iter().position(|source| *source == address)?;
        let offset = u32::from(port.checked_sub(self.first_port)?);
        let flow = u32::try_from(source).ok()? * self.ports + offset;
        (offset < self.ports && flow < self.flows).then_some(flow)
    }

    /// The ports to steer to us: at least one for each of `workers`.
    fn range(&self, workers: u16) -> NatPorts {
        let count = self.ports.max(workers.into());
        let last = u32::from(self.first_port) + count - 1;
        let last = u16::try_from(last).unwrap_or(u16::MAX);
        NatPorts::new(self.first_port.min(last - workers + 1), last).expect("ports from 1024 on")
    }
}

impl Engine for XdpEngine {
    fn room(&self) -> usize {
        (BURST - self.pending.len().min(BURST)).min(self.ports[0].free_frames())
    }

    fn push(&mut self, flow: u32, stamp: &Stamp) {
        let (source, port) = self.tuples.of(flow);
        let template = &self.templates[source];
        let mut frame = self.ports[0].allocate().expect("the caller asked for room");
        frame.set_len(template.len());
        let segment = self.connections.get_mut(flow as usize).map(|connection| {
            let segment = Segment::data(connection.sequence, connection.acknowledgment);
            let payload = template.payload_len();
            connection.sequence = connection.sequence.wrapping_add(payload);
            segment
        });
        template.write(frame.bytes_mut(), port, segment, |payload| stamp.write(payload));
        self.pending.push(frame);
    }

    fn flush(&mut self, _errors: &mut Errors) -> Result<usize, Failure> {
        let before = self.pending.len();
        self.ports[0].transmit(&mut self.pending);
        Ok(before - self.pending.len())
    }

    fn receive(&mut self, errors: &mut Errors, arrived: &mut dyn FnMut(u32, &[u8])) -> usize {
        let mut count = 0;
        for index in 0..self.ports.len() {
            self.ports[index].receive(&mut self.received, BURST);
            let mut whole = true;
            for frame in self.received.drain(..) {
                // Answers are as long as what was sent, which fits one frame.
                let single = whole && !frame.continues();
                whole = !frame.continues();
                if single && let Some(answer) = look(frame.bytes(), self.framing, self.target, &self.tuples) {
                    count += 1;
                    answer.take(frame.bytes(), &mut self.connections, errors, arrived);
                }
                self.ports[index].release(frame);
            }
        }
        count
    }

    fn wait(&mut self, limit: Duration) {
        let limit = Timespec::try_from(limit).unwrap_or_default();
        let mut sockets: Vec<_> = self
            .ports
            .iter()
            .filter_map(Port::wait_descriptor)
            .map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN))
            .collect();
        // A signal ends the wait early, which is as good as a packet.
        poll(&mut sockets, Some(&limit)).ok();
    }

    fn overrun(&self) -> u64 {
        let overruns = self.ports.iter().map(|port| {
            let statistics = port.statistics();
            // A packet that found no frame to fill is among `rx_dropped`.
            statistics.rx_dropped + statistics.rx_ring_full
        });
        overruns.sum()
    }
}

/// A packet from the target to one of our flows.
struct Answer {
    flow: u32,
    layout: Layout,
}

fn look(frame: &[u8], framing: Framing, target: (IpAddr, u16), tuples: &Tuples) -> Option<Answer> {
    let layout = Layout::of(frame, framing)?;
    let (source, destination) = addresses(frame, &layout)?;
    let from = (source, be16(frame, layout.transport));
    if from != target {
        return None;
    }
    let flow = tuples.flow(destination, be16(frame, layout.transport + 2))?;
    Some(Answer { flow, layout })
}

impl Answer {
    fn take(
        &self,
        frame: &[u8],
        connections: &mut [Connection],
        errors: &mut Errors,
        arrived: &mut dyn FnMut(u32, &[u8]),
    ) {
        let layout = &self.layout;
        // The kernel of another host would drop it, so it counts as damaged, not as an answer.
        if checksum::look(frame, layout) == Checksum::Wrong {
            errors.payload += 1;
            return;
        }
        if let Some(connection) = connections.get_mut(self.flow as usize) {
            connection.take(frame, layout, errors);
        }
        if layout.payload < layout.end || layout.protocol == UDP {
            arrived(self.flow, &frame[layout.payload..layout.end]);
        }
    }
}

impl Connection {
    fn take(&mut self, frame: &[u8], layout: &Layout, errors: &mut Errors) {
        let received = frame[layout.transport + 13];
        if received & flags::RST != 0 {
            errors.reset += 1;
            return;
        }
        let syn = received & flags::SYN != 0;
        let length = u32::try_from(layout.end - layout.payload).unwrap_or(0) + u32::from(syn);
        let end = be32(frame, layout.transport + 4).wrapping_add(length);
        self.established |= syn && received & flags::ACK != 0;
        // Not backwards (RFC 9293 section 3.4: numbers are compared modulo 2^32).
        if syn || end.wrapping_sub(self.acknowledgment) < 1 << 31 {
            self.acknowledgment = end;
        }
    }
}

/// Source and destination.
fn addresses(frame: &[u8], layout: &Layout) -> Option<(IpAddr, IpAddr)> {
    let (source, rest) = frame[layout.addresses..].split_at_checked(layout.address_len)?;
    let destination = rest.get(..layout.address_len)?;
    let address = |bytes: &[u8]| match layout.address_len {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    };
    Some((address(source)?, address(destination)?))
}

impl Drop for XdpEngine {
    /// Resets the connections, so that nobody on the way keeps them.
    fn drop(&mut self) {
        for flow in 0..self.connections.len() {
            let connection = self.connections[flow];
            if !connection.established {
                continue;
            }
            let reset = Segment {
                flags: flags::RST | flags::ACK,
                sequence: connection.sequence,
                acknowledgment: connection.acknowledgment,
            };
            self.push_control(u32::try_from(flow).unwrap_or(u32::MAX), reset);
            self.ports[0].transmit(&mut self.pending);
        }
        for frame in self.pending.drain(..) {
            self.ports[0].release(frame);
        }
    }
}
