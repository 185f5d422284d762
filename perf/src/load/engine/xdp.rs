//! AF_XDP: frames are made and received here, past the kernel's protocols.
//!
//! The steer program redirects packets to the flows' source ports to the sockets, exactly as it does with a balancer's
//! NAT ports; all others stay with the kernel. All queues of the interface receive, one of them sends.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vl3lb_common::MacAddr;
use vl3lb_common::hash::OwnerKey;
use vl3lb_dataplane::config::ZeroCopy;
use vl3lb_dataplane::{Frame, Framing, Link, LinkInfo, Path, Port, Rules, Steer, XskFrame, XskPort};

use super::segments::Connection;
use super::tuples::Tuples;
use super::{BURST, Engine};
use crate::attachment::{Ports, attach};
use crate::failure::Failure;
use crate::frame::checksum::{self, Checksum};
use crate::frame::template::{Segment, Template};
use crate::frame::{Layout, TCP, UDP, be16};
use crate::load::error::{LoadError, PlanError};
use crate::load::payload::Stamp;
use crate::load::plan::{Plan, Protocol};
use crate::load::run::Used;
use crate::load::tally::Errors;

/// Frames of 4 KiB for each queue.
const FRAMES: u32 = 4096;
/// Time for the kernel to resolve the next hop.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for all handshakes, and until a SYN is sent again.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const SYN_INTERVAL: Duration = Duration::from_millis(500);

/// An interface that frames are sent through.
#[derive(Debug)]
pub(in crate::load) struct XdpEngine {
    // Dropped before the ports are: nothing is redirected to closed sockets.
    _steer: Steer,
    ports: Vec<XskPort>,
    framing: Framing,
    /// The source of replies.
    target: SocketAddr,
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

impl XdpEngine {
    /// Attaches to the interface of the route to the target. For TCP, opens a connection for each flow.
    ///
    /// # Errors
    ///
    /// No route, next hop, or answer to a handshake; the interface cannot be attached to; a capability is missing.
    pub(super) fn open(plan: &Plan) -> Result<(Self, Used), Failure> {
        let target = plan.target;
        let path = Path::to(target.ip())
            .map_err(|cause| LoadError::NoRoute { target, cause })?
            .ok_or(PlanError::Target {
                target,
                reason: "is not the address of another host, so that AF_XDP cannot reach it",
            })?;
        let link = LinkInfo::inspect(&path.interface)?;
        let macs = match link.link {
            Link::RawIp => None,
            Link::Ethernet(own) => Some((own, next_hop(target, &path)?)),
        };
        let sources = if plan.sources.is_empty() {
            vec![path.source]
        } else {
            plan.sources.clone()
        };
        let tuples = Tuples::new(sources, plan.first_port, plan.flows())?;
        let protocol = match plan.protocol {
            Protocol::Udp => UDP,
            Protocol::TcpPackets | Protocol::Tcp => TCP,
        };
        let templates = |protocol, payload| -> Vec<_> {
            let sources = tuples.sources.iter();
            sources
                .map(|source| Template::new(macs, *source, target, protocol, payload))
                .collect()
        };
        let (templates, controls) = (templates(protocol, plan.payload_len()), templates(TCP, 0));
        let ports = Ports {
            mode: plan.mode.into(),
            queues: None,
            frames: FRAMES,
            zero_copy: ZeroCopy::Auto,
        };
        let rules = |workers| Rules {
            services: HashSet::new(),
            addresses: tuples.sources.clone(),
            nat_ports: tuples.range(workers),
            kernel_ports: std::sync::Arc::default(),
            workers,
            owner_key: OwnerKey::from_seed(0),
        };
        let (steer, ports) = attach(&link, ports, rules)?;
        let copy = if ports.iter().all(XskPort::is_zero_copy) {
            "zero-copy"
        } else {
            "copy"
        };
        let used = Used {
            engine: "xdp",
            reason: steer.reason().to_owned(),
            interface: Some(link.name.clone()),
            mode: Some(format!("{} {copy}", steer.mode().name())),
        };
        let connections = if protocol == TCP { plan.flows() } else { 0 };
        let mut engine = Self {
            _steer: steer,
            ports,
            framing: if macs.is_some() {
                Framing::Ethernet
            } else {
                Framing::RawIp
            },
            target,
            tuples,
            templates,
            controls,
            connections: vec![Connection::new(); connections as usize],
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
        let mut unanswered: Vec<u32> = (0..self.tuples.flows).collect();
        while start.elapsed() < HANDSHAKE_TIMEOUT {
            for &flow in &unanswered {
                self.push_control(flow, Connection::SYN);
                self.exchange(&mut errors)?;
            }
            let sent = Instant::now();
            while sent.elapsed() < SYN_INTERVAL {
                self.exchange(&mut errors)?;
                unanswered.retain(|&flow| !self.connections[flow as usize].established);
                if unanswered.is_empty() {
                    return self.acknowledge_all();
                }
                self.wait(SYN_INTERVAL.saturating_sub(sent.elapsed()));
            }
        }
        Err(LoadError::Handshakes {
            target: self.target,
            flows: self.tuples.flows,
            unanswered: unanswered.len(),
            resets: errors.reset,
        }
        .into())
    }

    fn acknowledge_all(&mut self) -> Result<(), Failure> {
        let mut errors = Errors::default();
        for flow in 0..self.tuples.flows {
            let ack = self.connections[flow as usize].acknowledge();
            self.push_control(flow, ack);
            self.exchange(&mut errors)?;
        }
        Ok(())
    }

    /// A segment without payload. Without a free frame it is not sent; a SYN is repeated later.
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

/// The MAC address of the next hop.
fn next_hop(target: SocketAddr, path: &Path) -> Result<MacAddr, LoadError> {
    let (hop, interface) = (path.neighbor, &path.interface);
    let neighbor = path
        .resolve(RESOLVE_TIMEOUT)
        .map_err(|cause| LoadError::Neighbor {
            hop,
            interface: interface.clone(),
            cause,
        })?;
    neighbor.ok_or_else(|| LoadError::NoNeighbor {
        target,
        hop,
        interface: interface.clone(),
    })
}

impl Engine for XdpEngine {
    fn room(&self) -> usize {
        (BURST - self.pending.len().min(BURST)).min(self.ports[0].free_frames())
    }

    fn push(&mut self, flow: u32, stamp: &Stamp) {
        let (source, port) = self.tuples.of(flow);
        let template = &self.templates[source];
        let mut frame = self.ports[0].allocate().expect("the caller looks for room");
        frame.set_len(template.len());
        let connection = self.connections.get_mut(flow as usize);
        let segment = connection.map(|connection| connection.data(template.payload_len()));
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
                // Replies are as long as the packets sent, which fit one frame.
                let single = whole && !frame.continues();
                whole = !frame.continues();
                let bytes = frame.bytes();
                if single && let Some((flow, layout)) = reply(bytes, self.framing, self.target, &self.tuples)
                {
                    count += 1;
                    // Another host's kernel would drop it, so it counts as damaged.
                    if checksum::look(bytes, &layout) == Checksum::Wrong {
                        errors.payload += 1;
                    } else {
                        if let Some(connection) = self.connections.get_mut(flow as usize) {
                            connection.receive(bytes, &layout, errors);
                        }
                        if layout.payload < layout.end || layout.protocol == UDP {
                            arrived(flow, &bytes[layout.payload..layout.end]);
                        }
                    }
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
            // Packets without a frame to fill are counted as `rx_dropped`.
            statistics.rx_dropped + statistics.rx_ring_full
        });
        overruns.sum()
    }
}

/// The flow of a packet from the target, and the packet's layout.
fn reply(frame: &[u8], framing: Framing, target: SocketAddr, tuples: &Tuples) -> Option<(u32, Layout)> {
    let layout = Layout::of(frame, framing)?;
    let (source, rest) = frame[layout.addresses..].split_at_checked(layout.address_len)?;
    let (source, destination) = (address(source)?, address(rest.get(..layout.address_len)?)?);
    let (source_port, destination_port) = (be16(frame, layout.transport), be16(frame, layout.transport + 2));
    if (source, source_port) != (target.ip(), target.port()) {
        return None;
    }
    Some((tuples.flow(destination, destination_port)?, layout))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

impl Drop for XdpEngine {
    /// Resets the connections, so that no device on the way keeps them.
    fn drop(&mut self) {
        for flow in 0..self.connections.len() {
            let connection = self.connections[flow];
            if connection.established {
                self.push_control(u32::try_from(flow).unwrap_or(u32::MAX), connection.reset());
                self.ports[0].transmit(&mut self.pending);
            }
        }
        for frame in self.pending.drain(..) {
            self.ports[0].release(frame);
        }
    }
}
