//! The packet tester: RFC 2544's one, on the network's end of the balancer's wire: AF_XDP on a veth pair, the descriptor
//! of a TUN device.
//!
//! It plays the clients and the backends at once, in one busy thread: it sends requests, and each request that
//! comes out of the peer is turned round and sent back as its reply. So whatever a peer passes on arrives here, and
//! no other program and no other part of the network is involved.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{Protocol, ServiceKey};
use vl3lb_dataplane::config::{Mode, ZeroCopy};
use vl3lb_dataplane::link::LinkInfo;
use vl3lb_dataplane::port::xsk::XskPort;
use vl3lb_dataplane::port::{Frame, Port};
use vl3lb_dataplane::steer::{Rules, Steer};

use crate::attachment::{Wanted, attach};
use crate::failure::Failure;
use crate::net::{BALANCER_ADDRESS, CLIENT_ADDRESS, NETWORK_PORT, backend_address};

use super::frame::{self, FRAME_LEN, Mark};
use super::peer::Path;
use super::services::PACKETS;
use super::tun_port::TunPort;
use super::window::Windows;

/// Packets handled in one go.
const BURST: usize = 64;
/// Frames of the tester: its rings are half as long.
const FRAMES: u32 = 8192;
/// First source port of the client.
const FIRST_PORT: u16 = 20_000;
/// Flows at most: the client's ports.
pub(crate) const MOST_FLOWS: u16 = 40_000;
/// How long packets may still arrive when nothing more is sent.
const LATE: Duration = Duration::from_millis(100);
/// A gentle tester sleeps this long when nothing is due.
const NAP: Duration = Duration::from_micros(100);

/// What to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Requests per second; `None` is as many as can be.
    pub(crate) rate: Option<f64>,
    pub(crate) duration: Duration,
    /// Sleep when nothing is due, and leave the core to others.
    pub(crate) gentle: bool,
}

/// What became of it. Replies are sent for requests that came out of the peer.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Requests that were due.
    pub(crate) due: u64,
    pub(crate) requests: u64,
    pub(crate) requests_passed: u64,
    pub(crate) replies: u64,
    pub(crate) replies_passed: u64,
    /// From the first request until no more are sent.
    pub(crate) elapsed: Duration,
    /// Nanoseconds from when a request was due to when it, or its reply, came back to the client.
    pub(crate) latency: Histogram<u64>,
    /// The same by when the request was due.
    pub(crate) windows: Windows,
    /// Flows that were answered in the second half of the load, or while it was waited for late packets.
    pub(crate) flows_alive: u32,
    /// Flows of which a request came out to another backend than those before.
    pub(crate) flows_moved: u32,
}

impl Outcome {
    /// Packets that the peer passed on.
    pub(crate) fn passed(&self) -> u64 {
        self.requests_passed + self.replies_passed
    }

    /// Packets that it did not.
    pub(crate) fn lost(&self) -> u64 {
        (self.requests + self.replies).saturating_sub(self.passed())
    }

    /// Packets passed per second.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(crate) fn rate(&self) -> f64 {
        self.passed() as f64 / self.elapsed.as_secs_f64()
    }

    /// Whether the tester fell behind the rate that was asked for.
    pub(crate) fn is_generator_bound(&self) -> bool {
        self.requests.saturating_mul(100) < self.due.saturating_mul(98)
    }
}

/// The tester, ready to send. Lives in the thread and namespace that it was opened in.
pub(crate) struct Tester<P: Port = XskPort> {
    // The program goes before the socket does.
    _steer: Option<Steer>,
    port: P,
    path: Path,
    templates: Vec<[u8; FRAME_LEN]>,
    trial: u32,
    outgoing: Vec<P::Frame>,
    incoming: Vec<P::Frame>,
    /// By flow: where its requests came out.
    backends: Vec<Option<Ipv4Addr>>,
    /// By flow: when it was last answered, since the trial's start; `None` in this trial never.
    answered: Vec<Option<Duration>>,
}

impl Tester {
    /// Attaches to the wire in the namespace of the calling thread. `backends` are those that may be chosen.
    pub(crate) fn open(path: Path, flows: u16, backends: u16) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("attach the tester to {NETWORK_PORT}: {error}"))
        };
        let link = LinkInfo::inspect(NETWORK_PORT).map_err(|error| failed(&error))?;
        let wanted = Wanted {
            mode: Mode::Native,
            queues: Some(1),
            frames: FRAMES,
            zero_copy: ZeroCopy::Off,
        };
        let nat_ports = NatPorts::new(FIRST_PORT, last_port(flows)).ok_or_else(|| failed(&"no flows"))?;
        let rules = |workers| Rules {
            services: (0..backends).map(backend).collect(),
            addresses: vec![CLIENT_ADDRESS.into()],
            nat_ports,
            workers,
        };
        let (steer, mut ports) = attach(&link, wanted, rules).map_err(|error| failed(&error))?;
        let port = ports.pop().ok_or_else(|| failed(&"no socket"))?;
        Ok(Self::over(port, Some(steer), path, flows))
    }
}

impl Tester<TunPort> {
    /// Takes the other end of the balancer's interface.
    pub(crate) fn on_tun(device: File, path: Path, flows: u16) -> Self {
        Self::over(TunPort::new(device, FRAMES as usize), None, path, flows)
    }
}

impl<P: Port> Tester<P> {
    fn over(port: P, steer: Option<Steer>, path: Path, flows: u16) -> Self {
        let destination = match path {
            Path::Balanced | Path::Reflected => SocketAddrV4::new(BALANCER_ADDRESS, PACKETS.port),
            Path::Routed => SocketAddrV4::new(backend_address(0), PACKETS.target_port),
        };
        let templates: Vec<_> = (FIRST_PORT..=last_port(flows))
            .map(|port| frame::template(SocketAddrV4::new(CLIENT_ADDRESS, port), destination))
            .collect();
        Self {
            _steer: steer,
            port,
            path,
            trial: 0,
            outgoing: Vec::with_capacity(2 * BURST),
            incoming: Vec::with_capacity(2 * BURST),
            backends: vec![None; templates.len()],
            answered: vec![None; templates.len()],
            templates,
        }
    }

    /// Packets that the peer handles for each request.
    pub(crate) fn packets_per_request(&self) -> f64 {
        match self.path {
            Path::Balanced | Path::Routed => 2.0,
            Path::Reflected => 1.0,
        }
    }

    /// Sends `load` and waits for what comes back.
    pub(crate) fn run(&mut self, load: Load) -> Outcome {
        self.trial += 1;
        self.answered.fill(None);
        let mut outcome = Outcome {
            due: 0,
            requests: 0,
            requests_passed: 0,
            replies: 0,
            replies_passed: 0,
            elapsed: load.duration,
            latency: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds"),
            windows: Windows::new(load.duration),
            flows_alive: 0,
            flows_moved: 0,
        };
        let start = Instant::now();
        let mut sending = true;
        loop {
            let now = start.elapsed();
            if sending && now >= load.duration {
                sending = false;
                outcome.elapsed = now;
            }
            if sending {
                self.request(&load, now, &mut outcome);
            } else if now >= outcome.elapsed + LATE {
                break;
            }
            self.port.transmit(&mut self.outgoing);
            let got = self.port.receive(&mut self.incoming, BURST);
            self.take_in(start.elapsed(), sending, &mut outcome);
            if load.gentle && got == 0 && self.outgoing.is_empty() {
                std::thread::sleep(NAP);
            }
        }
        for frame in self.outgoing.drain(..) {
            self.port.release(frame);
        }
        let late = load.duration / 2;
        let alive = self.answered.iter().flatten().filter(|&&at| at >= late).count();
        outcome.flows_alive = u32::try_from(alive).unwrap_or(u32::MAX);
        outcome
    }

    /// Puts the requests that are due into `outgoing`.
    fn request(&mut self, load: &Load, now: Duration, outcome: &mut Outcome) {
        let room = BURST.saturating_sub(self.outgoing.len());
        let count = match load.rate {
            Some(rate) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a count of packets"
                )]
                let due = (now.as_secs_f64() * rate) as u64;
                outcome.due = due;
                room.min(usize::try_from(due - outcome.requests.min(due)).unwrap_or(room))
            }
            None => room,
        };
        for _ in 0..count {
            let Some(mut frame) = self.port.allocate() else {
                return;
            };
            let due = match load.rate {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                Some(rate) => Duration::from_secs_f64(outcome.requests as f64 / rate),
                None => now,
            };
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a remainder of the number of flows"
            )]
            let flow = (outcome.requests % self.templates.len() as u64) as u32;
            frame.set_len(FRAME_LEN);
            let Some(bytes) = frame.bytes_mut().first_chunk_mut::<FRAME_LEN>() else {
                self.port.release(frame);
                return;
            };
            bytes.copy_from_slice(&self.templates[flow as usize]);
            let mark = Mark {
                trial: self.trial,
                flow,
                due: nanos(due),
            };
            frame::set_mark(bytes, mark);
            self.outgoing.push(frame);
            outcome.requests += 1;
        }
        if load.rate.is_none() {
            outcome.due = outcome.requests;
        }
    }

    /// Looks at what has come out of the peer.
    fn take_in(&mut self, now: Duration, sending: bool, outcome: &mut Outcome) {
        for mut frame in self.incoming.drain(..) {
            let arrival = frame::read(frame.bytes()).filter(|arrival| arrival.mark.trial == self.trial);
            let Some(arrival) = arrival else {
                self.port.release(frame);
                continue;
            };
            let flow = arrival.mark.flow as usize;
            if arrival.destination == CLIENT_ADDRESS {
                match self.path {
                    Path::Balanced | Path::Routed => outcome.replies_passed += 1,
                    Path::Reflected => outcome.requests_passed += 1,
                }
                let latency = nanos(now).saturating_sub(arrival.mark.due);
                outcome.latency.saturating_record(latency.max(1));
                outcome.windows.record(arrival.mark.due, latency);
                if let Some(answered) = self.answered.get_mut(flow) {
                    *answered = Some(now);
                }
                self.port.release(frame);
                continue;
            }
            outcome.requests_passed += 1;
            if let Some(backend) = self.backends.get_mut(flow) {
                let before = backend.replace(arrival.destination);
                outcome.flows_moved += u32::from(before.is_some_and(|before| before != arrival.destination));
            }
            // Replies to late requests are not waited for, nor more of them than fit.
            match frame.bytes_mut().first_chunk_mut::<FRAME_LEN>() {
                Some(bytes) if sending && self.outgoing.len() < 4 * BURST => {
                    frame::turn_round(bytes);
                    frame.set_len(FRAME_LEN);
                    self.outgoing.push(frame);
                    outcome.replies += 1;
                }
                _ => self.port.release(frame),
            }
        }
    }
}

/// The client's last source port.
fn last_port(flows: u16) -> u16 {
    FIRST_PORT + flows.clamp(1, MOST_FLOWS) - 1
}

/// What a backend listens on, as the steer program sees it.
fn backend(index: u16) -> ServiceKey {
    ServiceKey {
        address: backend_address(index).into(),
        port: PACKETS.target_port,
        protocol: Protocol::Udp,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
