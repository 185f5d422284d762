//! AF_XDP sockets on an interface, with the steer program that feeds them: what load, reflect and compare's tester
//! send and receive through.

use vl3lb_dataplane::config::{Mode, ZeroCopy};
use vl3lb_dataplane::error::SetupError;
use vl3lb_dataplane::link::LinkInfo;
use vl3lb_dataplane::port::xsk::{Layout, XskPort};
use vl3lb_dataplane::steer::{Rules, Steer};

/// What to open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) mode: Mode,
    /// Queues, `None` for all that make sense.
    pub(crate) queues: Option<u16>,
    /// Frames of 4 KiB for each queue.
    pub(crate) frames: u32,
    pub(crate) zero_copy: ZeroCopy,
}

/// Opens a port per queue of `link` and steers what `rules` say, given the number of queues, to them. The program is
/// to be dropped before the ports.
///
/// # Errors
///
/// The interface cannot be attached to in this mode, a queue is taken, or a right is missing.
pub(crate) fn attach(
    link: &LinkInfo,
    wanted: Wanted,
    rules: impl FnOnce(u16) -> Rules,
) -> Result<(Steer, Vec<XskPort>), SetupError> {
    let mut steer = Steer::attach(link, wanted.mode, wanted.queues)?;
    let workers = u16::try_from(steer.queues()).unwrap_or(u16::MAX);
    let ports = XskPort::open(Layout {
        receive: steer.receive_interface(),
        receive_queues: steer.queues(),
        transmit: steer.transmit_interface(),
        transmit_queues: link.transmit_queues,
        workers,
        frames: wanted.frames,
        zero_copy: wanted.zero_copy,
    })?;
    for (queue, socket) in ports.iter().flat_map(XskPort::receivers) {
        steer.register_socket(queue, socket)?;
    }
    steer.allow(&rules(workers))?;
    Ok((steer, ports))
}
