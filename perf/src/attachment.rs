//! AF_XDP sockets on an interface, with the steer program that redirects packets to them.

use clap::ValueEnum;
use vl3lb_dataplane::config::{FastPathConfig, Mode, ZeroCopy};
use vl3lb_dataplane::{Layout, LinkInfo, Rules, SetupError, Steer, XskPort};

/// How to attach to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AttachMode {
    /// The best mode of this link
    Auto,
    /// XDP in the driver
    Native,
    /// XDP in the kernel's receive path
    Generic,
    /// A veth pair fed by a tc program
    Companion,
}

impl From<AttachMode> for Mode {
    fn from(mode: AttachMode) -> Self {
        match mode {
            AttachMode::Auto => Self::Auto,
            AttachMode::Native => Self::Native,
            AttachMode::Generic => Self::Generic,
            AttachMode::Companion => Self::Companion,
        }
    }
}

/// The ports to open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) mode: Mode,
    /// `None` for the queues that the mode prefers.
    pub(crate) queues: Option<u16>,
    /// Frames of 4 KiB for each queue.
    pub(crate) frames: u32,
    pub(crate) zero_copy: ZeroCopy,
}

/// Opens a port per queue of `link` and redirects the packets of `rules` to them, given the number of queues. Drop the
/// program before the ports.
///
/// # Errors
///
/// The interface does not support this mode, a queue is in use, or a capability is missing.
pub(crate) fn attach(
    link: &LinkInfo,
    ports: Ports,
    rules: impl FnOnce(u16) -> Rules,
) -> Result<(Steer, Vec<XskPort>), SetupError> {
    let mut steer = Steer::attach(link, ports.mode, ports.queues, FastPathConfig::OFF)?;
    let workers = u16::try_from(steer.queues()).unwrap_or(u16::MAX);
    let ports = XskPort::open(Layout {
        receive: steer.receive_interface(),
        receive_queues: steer.queues(),
        transmit: steer.transmit_interface(),
        transmit_queues: link.transmit_queues,
        workers,
        frames: ports.frames,
        zero_copy: ports.zero_copy,
    })?;
    for (queue, socket) in ports.iter().flat_map(XskPort::receivers) {
        steer.register_socket(queue, socket)?;
    }
    steer.allow(&rules(workers))?;
    Ok((steer, ports))
}
