//! The engines: they send and receive packets.

mod segments;
pub(super) mod socket;
mod tuples;
mod xdp;

use std::time::Duration;

use super::payload::Stamp;
use super::plan::{EngineChoice, Plan, Protocol};
use super::run::{Used, flows_of};
use super::tally::Errors;
use crate::failure::Failure;
use socket::SocketEngine;
use xdp::XdpEngine;

/// Packets in one burst.
pub(crate) const BURST: usize = 64;

/// Sends the packets of some flows and receives what comes back to them. Flows are numbered from 0.
pub(crate) trait Engine {
    /// Packets that [`push`](Self::push) accepts now, at most [`BURST`].
    fn room(&self) -> usize;

    /// Builds the next packet of `flow`; [`flush`](Self::flush) sends it.
    fn push(&mut self, flow: u32, stamp: &Stamp);

    /// Sends the packets that were pushed; those that the kernel has no room for stay for the next call. Returns the
    /// number of packets sent.
    ///
    /// # Errors
    ///
    /// The kernel refuses to send.
    fn flush(&mut self, errors: &mut Errors) -> Result<usize, Failure>;

    /// Calls `arrived` for each payload received, with its flow, for about a burst of them. Returns their number.
    fn receive(&mut self, errors: &mut Errors, arrived: &mut dyn FnMut(u32, &[u8])) -> usize;

    /// Waits until packets may have arrived, `limit` at most.
    fn wait(&mut self, limit: Duration);

    /// Received packets that were dropped for lack of room, since the engine was opened; 0 where they are not counted.
    /// Costs a few system calls.
    fn overrun(&self) -> u64;
}

/// The engines of a load: one for each thread.
#[derive(Debug)]
pub(super) enum Engines {
    Xdp(Box<XdpEngine>),
    Sockets(Vec<SocketEngine>),
}

/// Opens the engine that the plan asks for.
///
/// # Errors
///
/// It is not available.
pub(super) fn open(plan: &Plan) -> Result<(Engines, Used), Failure> {
    let only_xdp = plan.engine == EngineChoice::Xdp || plan.protocol == Protocol::TcpPackets;
    let reason = if plan.engine == EngineChoice::Socket {
        "--engine socket".to_owned()
    } else if plan.threads > 1 && !only_xdp {
        "AF_XDP sends from one thread".to_owned()
    } else {
        match XdpEngine::open(plan) {
            Ok((engine, used)) => return Ok((Engines::Xdp(Box::new(engine)), used)),
            Err(failure) if only_xdp => return Err(failure),
            Err(failure) => format!("no AF_XDP: {failure}"),
        }
    };
    let engines = (0..plan.threads)
        .map(|thread| SocketEngine::open(plan, flows_of(plan, thread)))
        .collect::<Result<_, _>>()?;
    let used = Used {
        engine: "socket",
        reason,
        interface: None,
        mode: None,
    };
    Ok((Engines::Sockets(engines), used))
}
