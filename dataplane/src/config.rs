//! What the data plane needs to be told to start.

use vl3lb_common::Duration;
use vl3lb_common::snapshot::NatPorts;

/// How to attach to the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Whatever is right for every sender and works best on this link.
    #[default]
    Auto,
    Native,
    Generic,
    Companion,
}

/// Whether the driver may share its buffers with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroCopy {
    #[default]
    Auto,
    On,
    Off,
}

/// How long a silent flow is kept. RFC minima: see [`Timeouts::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_established: Duration,
    /// Opening, closing and reset TCP flows.
    pub tcp_transitory: Duration,
    pub udp: Duration,
}

impl Default for Timeouts {
    /// TCP established 2 h 4 min and transitory 4 min (RFC 5382 REQ-5), UDP 5 min (RFC 4787 REQ-5).
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(2 * 3600 + 4 * 60),
            tcp_transitory: Duration::from_secs(240),
            udp: Duration::from_secs(300),
        }
    }
}

/// Configuration of the data plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// The vL3 interface.
    pub interface: String,
    pub mode: Mode,
    pub zero_copy: ZeroCopy,
    /// CPU cores, one worker each; `None`: one worker per receive queue, cores as available.
    pub cores: Option<Vec<usize>>,
    /// Capacity of the flow tables, all workers together.
    pub flows: u32,
    /// UMEM frames of 4 KiB for each worker; a power of two.
    pub frames: u32,
    pub nat_ports: NatPorts,
    pub timeouts: Timeouts,
}
