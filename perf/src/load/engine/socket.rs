//! The kernel's UDP sockets, one connected socket for each flow. Needs no privileges.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, MMsgHdr, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, bind,
    connect, recv, send, sendmmsg, socket_with, sockopt,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{BURST, Engine};
use crate::failure::Failure;
use crate::load::error::{LoadError, PlanError};
use crate::load::payload::{Stamp, filler};
use crate::load::plan::Plan;
use crate::load::tally::Errors;

/// The longest datagram that may come back.
const LONGEST: usize = 65_536;
/// Datagrams received from one socket before the next one.
const IN_A_ROW: usize = 8;
/// Bytes that may wait in each socket, if the kernel allows it (net.core.rmem_max).
const RECEIVE_BUFFER: usize = 1 << 20;
/// Descriptors beside those of flows.
const OTHER_DESCRIPTORS: u64 = 64;

/// Connected UDP sockets.
#[derive(Debug)]
pub(in crate::load) struct SocketEngine {
    target: SocketAddr,
    sockets: Vec<OwnedFd>,
    epoll: OwnedFd,
    payloads: Vec<Vec<u8>>,
    /// Payloads that wait to be sent, with their flows; the others are free.
    pending: Vec<(u32, usize)>,
    free: Vec<usize>,
    received: Vec<u8>,
}

impl SocketEngine {
    /// Opens `flows` sockets.
    ///
    /// # Errors
    ///
    /// Too few descriptors or ports, or no route to the target.
    pub(in crate::load) fn open(plan: &Plan, flows: u32) -> Result<Self, Failure> {
        raise_descriptor_limit(plan.flows().into())?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(Failure::system("create an epoll instance"))?;
        let mut sockets = Vec::with_capacity(flows as usize);
        for flow in 0..flows {
            let socket = open_flow(plan, flow).map_err(|error| not_opened(plan, flow, error))?;
            epoll::add(
                &epoll,
                &socket,
                epoll::EventData::new_u64(flow.into()),
                epoll::EventFlags::IN,
            )
            .map_err(Failure::system("watch a socket"))?;
            sockets.push(socket);
        }
        Ok(Self {
            target: plan.target,
            sockets,
            epoll,
            payloads: vec![filler(plan.payload_len()); BURST],
            pending: Vec::with_capacity(BURST),
            free: (0..BURST).collect(),
            received: vec![0; LONGEST],
        })
    }

    /// Sends the datagrams of `pending`, all of one flow; returns how many left.
    fn send_run(&self, run: &[(u32, usize)]) -> Result<usize, Errno> {
        let socket = &self.sockets[run[0].0 as usize];
        if let [(_, payload)] = run {
            return send(socket, &self.payloads[*payload], SendFlags::DONTWAIT).map(|_| 1);
        }
        let slices: Vec<_> = run
            .iter()
            .map(|&(_, payload)| [IoSlice::new(&self.payloads[payload])])
            .collect();
        let mut controls: Vec<_> = run.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<_> = slices
            .iter()
            .zip(&mut controls)
            .map(|(slice, control)| MMsgHdr::new(slice, control))
            .collect();
        sendmmsg(socket, &mut messages, SendFlags::DONTWAIT)
    }
}

impl Engine for SocketEngine {
    fn room(&self) -> usize {
        self.free.len()
    }

    fn push(&mut self, flow: u32, stamp: &Stamp) {
        let payload = self.free.pop().expect("the caller looks for room");
        stamp.write(&mut self.payloads[payload]);
        self.pending.push((flow, payload));
    }

    fn flush(&mut self, errors: &mut Errors) -> Result<usize, Failure> {
        // Datagrams of one flow leave by one call, in their order: the sort is stable.
        self.pending.sort_by_key(|&(flow, _)| flow);
        let mut sent = 0;
        let mut kept = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        for run in pending.chunk_by(|(a, _), (b, _)| a == b) {
            let mut rest = run;
            while !rest.is_empty() {
                match self.send_run(rest) {
                    Ok(count) => {
                        sent += count;
                        self.free
                            .extend(rest[..count].iter().map(|&(_, payload)| payload));
                        rest = &rest[count..];
                    }
                    // The answer to an earlier datagram of this flow. Reported once.
                    Err(Errno::CONNREFUSED) => errors.connect += 1,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN | Errno::NOBUFS) => {
                        kept.extend_from_slice(rest);
                        break;
                    }
                    Err(error) => {
                        let (target, cause) = (self.target, error.into());
                        return Err(LoadError::Send { target, cause }.into());
                    }
                }
            }
        }
        self.pending = kept;
        Ok(sent)
    }

    fn receive(&mut self, errors: &mut Errors, arrived: &mut dyn FnMut(u32, &[u8])) -> usize {
        let mut events = [MaybeUninit::uninit(); BURST];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], Some(&Timespec::default())) else {
            return 0;
        };
        let mut count = 0;
        for event in events {
            #[expect(clippy::cast_possible_truncation, reason = "made from a u32")]
            let flow = event.data.u64() as u32;
            let socket = &self.sockets[flow as usize];
            for _ in 0..IN_A_ROW {
                match recv(socket, &mut self.received[..], RecvFlags::DONTWAIT) {
                    Ok((len, _)) => {
                        count += 1;
                        arrived(flow, &self.received[..len]);
                    }
                    Err(Errno::CONNREFUSED) => errors.connect += 1,
                    Err(_) => break,
                }
            }
        }
        count
    }

    fn wait(&mut self, limit: Duration) {
        let limit = Timespec::try_from(limit).unwrap_or_default();
        let mut event = [MaybeUninit::uninit(); 1];
        // A signal ends the wait early, which is as good as a packet.
        let waited = epoll::wait(&self.epoll, &mut event[..], Some(&limit));
        drop(waited);
    }

    /// The kernel counts these for a whole namespace only.
    fn overrun(&self) -> u64 {
        0
    }
}

fn open_flow(plan: &Plan, flow: u32) -> Result<OwnedFd, Errno> {
    let family = if plan.target.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // As much as the kernel allows.
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
    if let Some(source) = source(&plan.sources, flow) {
        bind(&socket, &SocketAddr::new(source, 0))?;
    }
    connect(&socket, &plan.target)?;
    Ok(socket)
}

/// The source address of a flow: one after the other.
pub(in crate::load) fn source(sources: &[IpAddr], flow: u32) -> Option<IpAddr> {
    sources.get(flow as usize % sources.len().max(1)).copied()
}

fn not_opened(plan: &Plan, flow: u32, error: Errno) -> Failure {
    let target = plan.target;
    let advice = match error {
        Errno::ACCESS => {
            return PlanError::Target {
                target,
                reason: "is the broadcast address of a network here, and a load goes to one host",
            }
            .into();
        }
        Errno::NETUNREACH | Errno::HOSTUNREACH => {
            let cause = error.into();
            return LoadError::NoRoute { target, cause }.into();
        }
        Errno::ADDRNOTAVAIL | Errno::AGAIN | Errno::ADDRINUSE => {
            "; the kernel has no free source port, or not this source address: use fewer flows, more addresses \
             (--source), or --engine xdp"
        }
        _ => "",
    };
    LoadError::Socket {
        target,
        flow,
        cause: error.into(),
        advice,
    }
    .into()
}

/// Allows this process a descriptor for each of `sockets`.
///
/// # Errors
///
/// More than the hard limit.
pub(in crate::load) fn raise_descriptor_limit(sockets: u64) -> Result<(), Failure> {
    let needed = sockets + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(limit) = limit.maximum.filter(|&maximum| maximum < needed) {
        return Err(LoadError::Descriptors { sockets, limit }.into());
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).map_err(Failure::system(format!(
        "raise the limit of descriptors to {needed}"
    )))
}
