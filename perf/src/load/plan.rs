//! What to send, where, how fast and for how long.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vl3lb_dataplane::config::Mode;

use super::pacing::Rate;
use super::pattern::Spread;
use super::payload::{MAX_FLOWS, STAMP_LEN};
use super::target::{self, Permit};
use crate::failure::Failure;

/// Headers before the payload of a frame: Ethernet and UDP or TCP without options.
const ETHERNET: usize = 14;
const UDP: usize = 8;
const TCP: usize = 20;
/// The longest request over TCP.
const MAX_REQUEST: usize = 65_536;
/// The longest frame: a frame of packet memory holds 3,840 bytes behind its headroom.
const MAX_FRAME: usize = 3_840;

/// One load. [`Plan::check`] says whether it can be carried out.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where to send: this address only.
    pub(crate) target: SocketAddr,
    pub(crate) permit: Permit,
    pub(crate) traffic: Traffic,
    pub(crate) engine: EngineChoice,
    /// AF_XDP: how to attach.
    pub(crate) mode: Mode,
    /// Own addresses to send from; default: the one that the kernel prefers.
    pub(crate) sources: Vec<IpAddr>,
    /// AF_XDP: the source port of the first flow; the others follow.
    pub(crate) first_port: u16,
    /// Bytes of a frame without FCS, or of a request over TCP.
    pub(crate) size: usize,
    /// Flows; over TCP connections that are open at the same time.
    pub(crate) flows: u32,
    pub(crate) spread: Spread,
    pub(crate) rate: Rate,
    /// Not counted, before `duration`.
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    /// Packets or requests at most, the warm-up included.
    pub(crate) count: u64,
    pub(crate) threads: u32,
    /// Core of each thread; default: the last ones that this process may use.
    pub(crate) cores: Option<Vec<usize>>,
    pub(crate) interval: Duration,
    /// How long to wait for answers that are under way at the end, and over TCP for each.
    pub(crate) timeout: Duration,
    /// The other side sends nothing back: nothing but sending is measured.
    pub(crate) one_way: bool,
    pub(crate) seed: u64,
    /// A process of this machine whose processor time is measured: the balancer.
    pub(crate) target_pid: Option<i32>,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// UDP datagrams.
    Udp,
    /// Segments of TCP connections that this side makes itself: a handshake, then data segments with
    /// right sequence numbers. Nothing is sent again, and no window limits it. AF_XDP only; needs
    /// `vl3-perf reflect` at the other end.
    TcpPackets,
    /// Requests over the kernel's TCP connections.
    Tcp {
        /// Requests after which a connection is closed and opened again; `None`: never.
        per_connection: Option<u32>,
        close: Close,
    },
}

/// How a TCP connection ends after its last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Close {
    /// With RST: its port is free at once
    Reset,
    /// With FIN: its port is not used for a minute, so some 470 connections a second and source
    /// address are possible
    Fin,
}

/// Where packets are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EngineChoice {
    /// AF_XDP if it is possible here, else sockets
    Auto,
    /// AF_XDP: frames are made here and bypass the kernel's protocols
    Xdp,
    /// The kernel's sockets: no privileges needed
    Socket,
}

impl Plan {
    /// Whether it makes sense.
    ///
    /// # Errors
    ///
    /// Says which argument does not.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        target::check(self.target, self.permit)?;
        self.check_size()?;
        let most = if matches!(self.traffic, Traffic::Tcp { .. }) {
            1 << 20
        } else {
            MAX_FLOWS
        };
        if !(1..=most).contains(&self.flows) {
            return Err(refuse(format!("--flows {}: want 1 to {most}", self.flows)));
        }
        if !(1..=self.flows).contains(&self.threads) {
            return Err(refuse(format!(
                "--threads {}: want 1 to {}, the number of flows",
                self.threads, self.flows
            )));
        }
        let tcp = matches!(self.traffic, Traffic::Tcp { .. });
        if tcp && self.engine == EngineChoice::Xdp {
            return Err(refuse(
                "--engine xdp: TCP connections are the kernel's; use --protocol tcp-packets, or --engine socket",
            ));
        }
        if tcp && self.one_way {
            return Err(refuse("--one-way: a request over TCP needs its answer"));
        }
        if tcp && self.spread != Spread::Uniform {
            return Err(refuse(
                "--zipf: connections take turns; flows of packets have shares",
            ));
        }
        if self.traffic == Traffic::TcpPackets && self.engine == EngineChoice::Socket {
            return Err(refuse(
                "--engine socket: tcp-packets are made by AF_XDP only; use --protocol tcp for connections",
            ));
        }
        if self.engine == EngineChoice::Xdp && self.threads > 1 {
            return Err(refuse("--threads: AF_XDP sends from one thread"));
        }
        if let Some(other) = self
            .sources
            .iter()
            .find(|source| source.is_ipv4() != self.target.is_ipv4())
        {
            return Err(refuse(format!(
                "--source {other}: not of the target's address family"
            )));
        }
        Ok(())
    }

    /// Bytes behind the UDP or TCP header.
    pub(crate) const fn payload_len(&self) -> usize {
        self.size.saturating_sub(self.headers())
    }

    /// The rest of a frame; 0 for requests over TCP, whose `size` is that of the payload.
    const fn headers(&self) -> usize {
        let ip = if self.target.is_ipv4() { 20 } else { 40 };
        match self.traffic {
            Traffic::Udp => ETHERNET + ip + UDP,
            Traffic::TcpPackets => ETHERNET + ip + TCP,
            Traffic::Tcp { .. } => 0,
        }
    }

    /// The smallest `size`: what a stamp needs.
    pub(crate) const fn min_size(&self) -> usize {
        self.headers() + STAMP_LEN
    }

    fn check_size(&self) -> Result<(), Failure> {
        let most = match self.traffic {
            Traffic::Tcp { .. } => MAX_REQUEST,
            Traffic::Udp | Traffic::TcpPackets => MAX_FRAME,
        };
        let least = self.min_size();
        if (least..=most).contains(&self.size) {
            Ok(())
        } else {
            Err(refuse(format!(
                "--size {}: want {least} to {most} here: headers, and {STAMP_LEN} bytes by which each packet is \
                 checked",
                self.size
            )))
        }
    }
}

fn refuse(text: impl Into<String>) -> Failure {
    Failure::arguments(text)
}
