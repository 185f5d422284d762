//! A load: target, traffic, rate, duration. It is the common part of the command lines of `load` and `latency`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::error::PlanError;
use super::pacing::Rate;
use super::pattern::Spread;
use super::payload::{MAX_FLOWS, STAMP_LEN};
use super::target;
use crate::attachment::AttachMode;
use crate::report::number::{NumberError, parse_duration, parse_whole};

/// The smallest Ethernet frame, without FCS; the default length of requests over TCP too.
const SMALLEST_FRAME: usize = 64;
/// Headers before the payload of a frame: Ethernet and UDP or TCP without options.
const ETHERNET: usize = 14;
const UDP: usize = 8;
const TCP: usize = 20;
/// The longest request over TCP.
const MAX_REQUEST: usize = 65_536;
/// The longest frame: a frame of packet memory holds 3,840 bytes behind its headroom.
const MAX_FRAME: usize = 3_840;
/// Connections at most.
const MAX_CONNECTIONS: u32 = 1 << 20;
/// The largest `--count`.
const MAX_COUNT: u64 = 1_000_000_000_000_000;

/// One load. [`Plan::complete`] fills in the defaults that depend on other arguments, and checks it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Plan {
    /// The address to send to: ADDRESS:PORT, [ADDRESS]:PORT for IPv6
    #[arg(value_name = "TARGET", value_parser = parse_target)]
    pub(crate) target: SocketAddr,

    /// Traffic
    #[arg(short, long, value_enum, default_value_t = Protocol::Udp)]
    pub(crate) protocol: Protocol,

    /// The same as --protocol udp
    #[arg(short, long, conflicts_with = "protocol")]
    udp: bool,

    /// Bytes of a frame without FCS, or of a request over TCP [default: 64, or the least that fits]
    #[arg(long = "size", value_name = "BYTES")]
    size: Option<usize>,

    /// Flows, each with its own source port; k and M stand for thousands and millions [default: 1k for load, 16 for
    /// latency]
    #[arg(long = "flows", value_name = "N", value_parser = parse_u32)]
    flows: Option<u32>,

    /// TCP connections that are open at the same time [default: 64 for load, 16 for latency]
    #[arg(short, long, value_name = "N", value_parser = parse_u32, conflicts_with = "flows")]
    connections: Option<u32>,

    /// TCP: requests over a connection before it is closed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), default_value_t = 1)]
    requests: u32,

    /// TCP: open all connections first and keep them open
    #[arg(long, conflicts_with = "requests")]
    keep: bool,

    /// TCP: how connections are closed
    #[arg(long, value_enum, default_value_t = Close::Reset)]
    pub(crate) close: Close,

    /// Zipf distribution of packets over flows: the flow of rank k has a share proportional to 1/k^S [default: uniform]
    #[arg(long, value_name = "S", value_parser = parse_exponent)]
    pub(crate) zipf: Option<f64>,

    /// Measured time of each run
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub(crate) duration: Duration,

    /// Warm-up of each run, which is not measured
    #[arg(short = 'O', long = "omit", visible_alias = "warm-up", value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    pub(crate) warm_up: Duration,

    /// Packets or requests of a run at most, with the warm-up
    #[arg(long, value_name = "N", value_parser = parse_limit, default_value = "1G")]
    pub(crate) count: u64,

    /// Interval of progress
    #[arg(short, long, value_name = "TIME", value_parser = parse_interval, default_value = "1s")]
    pub(crate) interval: Duration,

    /// Time to wait for replies at the end; TCP: for each response
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    pub(crate) timeout: Duration,

    /// How packets are sent
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    pub(crate) engine: EngineChoice,

    /// AF_XDP: how to attach to the interface
    #[arg(long, value_enum, default_value_t = AttachMode::Auto)]
    pub(crate) mode: AttachMode,

    /// AF_XDP: source port of the first flow; the next ports belong to the other flows while the run lasts
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..), default_value_t = 10_000)]
    pub(crate) first_port: u16,

    /// Own addresses to send from, in turn [default: the kernel's choice]
    #[arg(long = "source", value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) sources: Vec<IpAddr>,

    /// Sending threads, each with a part of the flows
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256), default_value_t = 1)]
    pub(crate) threads: u32,

    /// CPU cores of the threads [default: the last ones]
    #[arg(long = "core", value_name = "CORE", value_delimiter = ',')]
    pub(crate) cores: Option<Vec<usize>>,

    /// Expect no replies: measure only sending
    #[arg(long)]
    pub(crate) one_way: bool,

    /// Measure the CPU time of this process: a balancer on this machine
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) target_pid: Option<i32>,

    /// Allow a public address as target
    #[arg(long)]
    allow_public: bool,

    /// Seed of all randomness
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    #[arg(skip)]
    pub(crate) rate: Rate,
}

/// The traffic of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    /// UDP datagrams
    Udp,
    /// Requests over TCP connections of the kernel
    Tcp,
    /// TCP segments made here: one handshake per flow, no retransmission, no window; AF_XDP only, with vl3-perf reflect
    /// as the other end
    TcpPackets,
}

/// How a TCP connection is closed after its last response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Close {
    /// With RST: its port is free at once
    Reset,
    /// With FIN: its port stays in TIME-WAIT for a minute, which allows some 470 connections per second and source
    /// address
    Fin,
}

/// How packets are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// AF_XDP if possible, else sockets
    Auto,
    /// AF_XDP: frames bypass the kernel's protocols
    Xdp,
    /// The kernel's sockets: needs no privileges
    Socket,
}

impl Plan {
    /// Fills in rate and size, and the number of flows or connections if it was not given.
    ///
    /// # Errors
    ///
    /// Arguments that contradict each other.
    pub(crate) fn complete(mut self, rate: Rate, flows: u32, connections: u32) -> Result<Self, PlanError> {
        self.rate = rate;
        let default = if self.protocol == Protocol::Tcp {
            connections
        } else {
            flows
        };
        self.flows = self.connections.or(self.flows).or(Some(default));
        let smallest = self.min_size().max(SMALLEST_FRAME);
        self.size = self.size.or(Some(smallest));
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), PlanError> {
        target::check(self.target, self.allow_public)?;
        let tcp = self.protocol == Protocol::Tcp;
        let most = if tcp { MAX_REQUEST } else { MAX_FRAME };
        let (size, least) = (self.size(), self.min_size());
        if !(least..=most).contains(&size) {
            return Err(PlanError::Size { size, least, most });
        }
        let most = if tcp { MAX_CONNECTIONS } else { MAX_FLOWS };
        let flows = self.flows();
        if flows > most {
            return Err(PlanError::Flows { flows, most });
        }
        if self.threads > flows {
            let threads = self.threads;
            return Err(PlanError::Threads { threads, flows });
        }
        if self.duration.is_zero() {
            return Err(PlanError::Duration);
        }
        for (contradiction, error) in [
            (tcp && self.engine == EngineChoice::Xdp, PlanError::TcpOverXdp),
            (tcp && self.one_way, PlanError::TcpOneWay),
            (tcp && self.zipf.is_some(), PlanError::TcpZipf),
            (
                self.protocol == Protocol::TcpPackets && self.engine == EngineChoice::Socket,
                PlanError::SegmentsOverSockets,
            ),
            (
                self.engine == EngineChoice::Xdp && self.threads > 1,
                PlanError::XdpThreads,
            ),
        ] {
            if contradiction {
                return Err(error);
            }
        }
        let mut sources = self.sources.iter();
        match sources.find(|source| source.is_ipv4() != self.target.is_ipv4()) {
            Some(&address) => Err(PlanError::SourceFamily { address }),
            None => Ok(()),
        }
    }

    /// Bytes of a frame without FCS, or of a request over TCP.
    pub(crate) fn size(&self) -> usize {
        self.size.unwrap_or(SMALLEST_FRAME)
    }

    /// Flows; over TCP, connections that are open at the same time.
    pub(crate) fn flows(&self) -> u32 {
        self.flows.unwrap_or(1)
    }

    /// TCP: requests after which a connection is closed; `None`: never.
    pub(crate) fn requests_per_connection(&self) -> Option<u32> {
        (!self.keep).then_some(self.requests)
    }

    pub(crate) fn spread(&self) -> Spread {
        self.zipf.map_or(Spread::Uniform, Spread::Zipf)
    }

    /// Bytes behind the UDP or TCP header.
    pub(crate) fn payload_len(&self) -> usize {
        self.size().saturating_sub(self.headers())
    }

    /// Headers of a frame; 0 for requests over TCP, whose size is that of the payload.
    const fn headers(&self) -> usize {
        let ip = if self.target.is_ipv4() { 20 } else { 40 };
        match self.protocol {
            Protocol::Udp => ETHERNET + ip + UDP,
            Protocol::TcpPackets => ETHERNET + ip + TCP,
            Protocol::Tcp => 0,
        }
    }

    /// The smallest size: with room for a stamp.
    const fn min_size(&self) -> usize {
        self.headers() + STAMP_LEN
    }
}

/// A name is not resolved: nothing is sent to an address that the user did not type.
fn parse_target(text: &str) -> Result<SocketAddr, PlanError> {
    text.parse().map_err(|_| PlanError::TargetForm)
}

fn parse_exponent(text: &str) -> Result<f64, PlanError> {
    let exponent = text.parse().ok();
    exponent
        .filter(|exponent| (0.01..=10.0).contains(exponent))
        .ok_or(PlanError::Exponent)
}

fn parse_interval(text: &str) -> Result<Duration, PlanError> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(50) {
        return Err(PlanError::Interval);
    }
    Ok(interval)
}

fn parse_u32(text: &str) -> Result<u32, NumberError> {
    let number = parse_whole(text, u32::MAX.into())?;
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

fn parse_limit(text: &str) -> Result<u64, NumberError> {
    parse_whole(text, MAX_COUNT)
}
