//! Errors of a load.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::payload::STAMP_LEN;
use crate::report::number::NumberError;

/// A load that does not make sense, or that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    #[error(
        "allowed is ADDRESS:PORT, such as 172.16.1.103:8080 or [2001:db8::67]:8080; a name is not looked up, so that \
         nothing is sent to an address that you did not type; getent hosts NAME shows the address"
    )]
    TargetForm,

    #[error("target {target}: {reason}")]
    Target {
        target: SocketAddr,
        reason: &'static str,
    },

    #[error(
        "--size {size}: allowed are {least} to {most}: the headers, and {STAMP_LEN} bytes that identify each packet"
    )]
    Size { size: usize, least: usize, most: usize },

    #[error("--flows {flows}: allowed are 1 to {most}")]
    Flows { flows: u32, most: u32 },

    #[error(
        "--flows {flows}: {addresses} source addresses with ports from {first_port} have room for {room}; give more \
         addresses (--source) or a lower --first-port"
    )]
    Ports {
        flows: u32,
        addresses: u32,
        first_port: u16,
        room: u32,
    },

    #[error("--threads {threads}: allowed are 1 to {flows}, the number of flows")]
    Threads { threads: u32, flows: u32 },

    #[error("--duration 0: nothing would be measured")]
    Duration,

    #[error("allowed is 50ms or more")]
    Interval,

    #[error("allowed are 0.01 to 10; 1 is usual")]
    Exponent,

    #[error("allowed is FROM..TO, such as 1k..100k")]
    Ramp,

    #[error(transparent)]
    Number(#[from] NumberError),

    #[error("--engine xdp: TCP connections need sockets; use --protocol tcp-packets, or --engine socket")]
    TcpOverXdp,

    #[error("--one-way: a request over TCP needs its response")]
    TcpOneWay,

    #[error("--zipf: TCP connections are used in turn; only flows of packets have shares")]
    TcpZipf,

    #[error("--engine socket: tcp-packets need AF_XDP; use --protocol tcp for connections of the kernel")]
    SegmentsOverSockets,

    #[error("--threads: AF_XDP sends from one thread; use --engine socket for more")]
    XdpThreads,

    #[error("--source {address}: is not of the target's address family")]
    SourceFamily { address: IpAddr },

    #[error("--target-pid {pid}: {reason}")]
    Process { pid: i32, reason: String },
}

/// A load that could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("look up the route to {target}: {cause}")]
    NoRoute {
        target: SocketAddr,
        #[source]
        cause: io::Error,
    },

    #[error("resolve the next hop {hop} on {interface}: {cause}")]
    Neighbor {
        hop: IpAddr,
        interface: String,
        #[source]
        cause: io::Error,
    },

    #[error("send to {target}: the next hop {hop} on {interface} does not answer")]
    NoNeighbor {
        target: SocketAddr,
        hop: IpAddr,
        interface: String,
    },

    #[error("connect to {target}: {cause}; is a server such as vl3-perf serve behind it?")]
    Connect {
        target: SocketAddr,
        #[source]
        cause: io::Error,
    },

    #[error(
        "open {connections} connections to {target}: {open} are open, and no more are accepted; look for limits on the \
         way (ports, flow table) and at the server (descriptors, backlog)"
    )]
    NotAccepted {
        target: SocketAddr,
        connections: usize,
        open: usize,
    },

    #[error(
        "open {flows} TCP flows to {target}: {unanswered} handshakes were not answered, {resets} segments were RST; \
         tcp-packets need vl3-perf reflect at the other end"
    )]
    Handshakes {
        target: SocketAddr,
        flows: u32,
        unanswered: usize,
        resets: u64,
    },

    #[error(
        "probe {target}: {reason} within {limit:?}; it needs an echo server behind it (vl3-perf serve), or --one-way"
    )]
    NoReply {
        target: SocketAddr,
        reason: &'static str,
        limit: Duration,
    },

    #[error(
        "probe {target}: the reply differs from the packet; run vl3-perf serve or vl3-perf reflect behind it, or use \
         --one-way"
    )]
    NotAnEcho { target: SocketAddr },

    #[error("send to {target}: {cause}")]
    Send {
        target: SocketAddr,
        #[source]
        cause: io::Error,
    },

    #[error("open the socket of flow {flow} to {target}: {cause}{advice}")]
    Socket {
        target: SocketAddr,
        flow: u32,
        #[source]
        cause: io::Error,
        advice: &'static str,
    },

    #[error(
        "open {sockets} sockets: this process may have {limit} descriptors; raise the limit (ulimit -Hn), use fewer \
         flows, or --engine xdp"
    )]
    Descriptors { sockets: u64, limit: u64 },
}

impl LoadError {
    /// Whether the target is unreachable.
    pub(crate) const fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::NoRoute { .. }
                | Self::NoNeighbor { .. }
                | Self::Connect { .. }
                | Self::NotAccepted { .. }
                | Self::Handshakes { .. }
                | Self::NoReply { .. }
        )
    }
}
