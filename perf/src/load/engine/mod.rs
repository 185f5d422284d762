//! Where packets leave and arrive.

pub(super) mod socket;
pub(super) mod xdp;

use std::time::Duration;

use super::payload::Stamp;
use super::plan::{EngineChoice, Plan, Traffic};
use super::run::{Used, flows_of};
use super::tally::Errors;
use crate::failure::Failure;
use socket::SocketEngine;
use xdp::XdpEngine;

/// Packets in one burst.
pub(super) const BURST: usize = 64;

/// Sends the packets of some flows and receives what comes back to them. Flows are numbered from 0.
pub(super) trait Engine {
    /// Packets that [`push`](Self::push) takes now, at most [`BURST`].
    fn room(&self) -> usize;

    /// Makes the next packet of `flow`. It is sent by [`flush`](Self::flush).
    fn push(&mut self, flow: u32, stamp: &Stamp);

    /// Sends what was pushed; what the kernel has no room for stays for the next call. Returns how many
    /// packets left.
    ///
    /// # Errors
    ///
    /// Sending does not work at all.
    fn flush(&mut self, errors: &mut Errors) -> Result<usize, Failure>;

    /// Calls `arrived` for each payload that has come back, with the flow that it came to, for about a burst
    /// of them. Returns their number.
    fn receive(&mut self, errors: &mut Errors, arrived: &mut dyn FnMut(u32, &[u8])) -> usize;

    /// Waits until something may have arrived, `limit` at most.
    fn wait(&mut self, limit: Duration);

    /// Packets that arrived here and found no room, since the engine was opened; 0 where nobody counts them. A
    /// system call or a few.
    fn overrun(&self) -> u64;
}

/// The engines of a load: one for each thread.
#[derive(Debug)]
pub(super) enum Engines {
    Xdp(Box<XdpEngine>),
    Sockets(Vec<SocketEngine>),
}

/// Opens what the plan asks for; says what that is and why.
///
/// # Errors
///
/// It is not to be had.
pub(super) fn open(plan: &Plan) -> Result<(Engines, Used), Failure> {
    let only_xdp = plan.engine == EngineChoice::Xdp || plan.traffic == Traffic::TcpPackets;
    let why = match plan.engine {
        _ if only_xdp => None,
        EngineChoice::Socket => Some("asked for".to_owned()),
        EngineChoice::Auto | EngineChoice::Xdp if plan.threads > 1 => {
            Some("AF_XDP sends from one thread".to_owned())
        }
        EngineChoice::Auto | EngineChoice::Xdp => None,
    };
    let why = match why {
        Some(why) => why,
        None => match XdpEngine::open(plan) {
            Ok((engine, used)) => return Ok((Engines::Xdp(Box::new(engine)), used)),
            Err(failure) if only_xdp => return Err(failure),
            Err(failure) => format!("no AF_XDP: {failure}"),
        },
    };
    let engines = (0..plan.threads)
        .map(|thread| SocketEngine::open(plan, flows_of(plan, thread)))
        .collect::<Result<_, _>>()?;
    let used = Used {
        engine: "socket",
        reason: why,
        interface: None,
        mode: None,
    };
    Ok((Engines::Sockets(engines), used))
}
