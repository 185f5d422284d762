//! Configuration of the data plane.

use vl3lb_common::Duration;
use vl3lb_common::snapshot::NatPorts;

/// How to attach to the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The best mode that is correct for every sender on this link.
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
    /// TCP flows whose client has not confirmed the backend's SYN.
    pub tcp_opening: Duration,
    /// Closing and reset TCP flows.
    pub tcp_closing: Duration,
    pub udp: Duration,
}

impl Default for Timeouts {
    /// TCP established 2 h 4 min, opening and closing 4 min (RFC 5382 REQ-5, RFC 7857 section 2.1), UDP 5 min (RFC 4787 REQ-5).
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(2 * 3600 + 4 * 60),
            tcp_opening: Duration::from_secs(240),
            tcp_closing: Duration::from_secs(240),
            udp: Duration::from_secs(300),
        }
    }
}

/// The in-kernel path of established flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastPathConfig {
    /// Use it where it works.
    pub enabled: bool,
    /// A flow enters it after so many packets in one direction: a power of two.
    pub after: u32,
    /// Flows that fit, all workers together; 320 bytes of kernel memory each.
    pub flows: u32,
}

impl FastPathConfig {
    /// All packets go through the workers.
    pub const OFF: Self = Self {
        enabled: false,
        after: 1,
        flows: 1,
    };
}

impl Default for FastPathConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            after: 8,
            flows: 16_384,
        }
    }
}

/// Configuration of the data plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the vL3 interface, which need not exist yet.
    pub interface: String,
    pub mode: Mode,
    pub zero_copy: ZeroCopy,
    /// CPU cores, one worker each; any number serves any interface. `None`: one worker per queue of the
    /// first attachment, on the cores that this process may use.
    pub cores: Option<Vec<usize>>,
    /// Capacity of the flow tables, all workers together.
    pub flows: u32,
    /// Flows of one client at most, all workers together. `None`: as many as leave room for others.
    pub client_flows: Option<u32>,
    /// UMEM frames of 4 KiB for each worker; a power of two.
    pub frames: u32,
    pub nat_ports: NatPorts,
    pub timeouts: Timeouts,
    pub fast_path: FastPathConfig,
}
