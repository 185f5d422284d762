//! The queues of one worker.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use vl3lb_common::stats::PortStatistics;
use xsk_rs::FrameDesc;

use super::XskFrame;
use super::memory::Memory;
use super::pool::Pool;
use super::receiver::Receiver;
use super::socket::{self, Binding, Rings};
use super::transmitter::{self, Transmitter};
use crate::config::ZeroCopy;
use crate::error::SetupError;
use crate::port::Port;

/// Descriptors moved in one step.
const BATCH: usize = 256;
/// Largest rings; smaller memories have smaller ones.
const LARGEST_RING: u32 = 4096;

/// The sockets to open.
#[derive(Debug, Clone, Copy)]
pub struct Layout<'a> {
    /// Where packets come from. Receive queue q belongs to worker q modulo `workers`.
    pub receive: &'a str,
    /// All queues of `receive` that packets arrive at.
    pub receive_queues: u32,
    /// Where packets go: the same as `receive`, or another one (the companion mode). Worker w sends
    /// through transmit queue w; one without a queue of its own cannot transmit.
    pub transmit: &'a str,
    pub transmit_queues: u32,
    pub workers: u16,
    /// Frames of each worker, a power of two.
    pub frames: u32,
    pub zero_copy: ZeroCopy,
}

/// The receive queues and the transmit queue of one worker, and its part of the packet memory.
///
/// At most half of the frames wait in the fill and receive rings; the others are for packets in hand
/// and in transmission.
#[derive(Debug)]
pub struct XskPort {
    memory: Arc<Memory>,
    pool: Pool,
    receivers: Vec<Receiver>,
    transmitter: Option<Transmitter>,
    /// Waits for several receivers.
    epoll: Option<OwnedFd>,
    scratch: Box<[FrameDesc]>,
}

impl XskPort {
    /// Opens one port per worker over one memory. No packet is received until the sockets are in the
    /// steer program's map.
    ///
    /// # Errors
    ///
    /// No memory; an interface or queue that is missing or taken; a right that is missing; zero-copy
    /// where the driver has none.
    pub fn open(layout: Layout<'_>) -> Result<Vec<Self>, SetupError> {
        let ring = (layout.frames / 2).clamp(1, LARGEST_RING);
        let (memory, parts) = Memory::new(layout.workers, layout.frames, ring)?;
        let opened: Result<Vec<_>, _> = (0..layout.workers)
            .map(|worker| Queues::bind(&memory, layout, worker, ring))
            .collect();
        match opened {
            Ok(queues) => Ok((0..)
                .zip(queues.into_iter().zip(parts))
                .map(|(worker, (queues, part))| Self::new(&memory, worker, queues, part))
                .collect()),
            Err(error) => {
                memory.retire(memory.frames());
                Err(error)
            }
        }
    }

    fn new(memory: &Arc<Memory>, worker: usize, queues: Queues, part: Vec<FrameDesc>) -> Self {
        let mut port = Self {
            memory: Arc::clone(memory),
            pool: Pool::new(worker, Arc::clone(memory), part),
            receivers: queues.receivers,
            transmitter: queues.transmitter,
            epoll: queues.epoll,
            scratch: vec![FrameDesc::default(); BATCH].into_boxed_slice(),
        };
        // Now, or the first packet would find no frame.
        for receiver in &mut port.receivers {
            receiver.top_up(&mut port.pool);
        }
        port
    }

    /// Each receive queue and its socket, to be put into the steer program's map.
    pub fn receivers(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.receivers
            .iter()
            .map(|receiver| (receiver.queue(), receiver.socket()))
    }

    /// Whether frames reach the device without a copy, in both directions.
    pub fn is_zero_copy(&self) -> bool {
        let receive = self.receivers.iter().map(|receiver| receiver.rx().fd());
        let transmit = self.transmitter.iter().map(|transmitter| transmitter.tx().fd());
        receive
            .chain(transmit)
            .all(|fd| socket::is_zero_copy(fd).unwrap_or(false))
    }

    /// Frames of this port that are not in use: free, or in a ring of the kernel.
    fn accounted(&self) -> usize {
        let receiving: usize = self.receivers.iter().map(Receiver::frames).sum();
        self.pool.len() + receiving + self.in_flight()
    }
}

/// The bound sockets of one worker.
struct Queues {
    receivers: Vec<Receiver>,
    transmitter: Option<Transmitter>,
    epoll: Option<OwnedFd>,
}

impl Queues {
    fn bind(memory: &Memory, layout: Layout<'_>, worker: u16, ring: u32) -> Result<Self, SetupError> {
        let own = u32::from(worker);
        let binding = |interface, queue| Binding {
            interface,
            queue,
            ring,
            zero_copy: layout.zero_copy,
        };
        let queues = (own..layout.receive_queues).step_by(layout.workers.into());
        // Rounded up to 1: a ring that is never filled would never receive.
        let target = (ring as usize / queues.len().max(1)).max(1);
        let mut receivers = Vec::with_capacity(queues.len());
        let mut transmitter = None;
        let sends = own < layout.transmit_queues;
        for queue in queues {
            let Rings {
                rx,
                tx,
                fill,
                completion,
            } = socket::bind(memory, binding(layout.receive, queue))?;
            let unused = if queue == own && sends && layout.transmit == layout.receive {
                transmitter = Some(Transmitter::new((tx, completion), None, ring as usize));
                None
            } else {
                Some((tx, completion))
            };
            receivers.push(Receiver::new(queue, (rx, fill), unused, target));
        }
        if sends && transmitter.is_none() {
            let rings = socket::bind(memory, binding(layout.transmit, own))?;
            transmitter = Some(Transmitter::new(
                (rings.tx, rings.completion),
                Some((rings.rx, rings.fill)),
                ring as usize,
            ));
        }
        Ok(Self {
            epoll: watch(&receivers).map_err(|cause| SetupError::Start {
                what: format!("waiting for the queues of worker {worker}"),
                cause,
            })?,
            receivers,
            transmitter,
        })
    }
}

/// One descriptor for several receivers. One alone needs none.
fn watch(receivers: &[Receiver]) -> io::Result<Option<OwnedFd>> {
    if receivers.len() < 2 {
        return Ok(None);
    }
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for receiver in receivers {
        let data = epoll::EventData::new_u64(receiver.queue().into());
        epoll::add(&epoll, receiver.socket(), data, epoll::EventFlags::IN)?;
    }
    Ok(Some(epoll))
}

impl Port for XskPort {
    type Frame = XskFrame;

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        match &self.epoll {
            Some(epoll) => Some(epoll.as_fd()),
            None => self.receivers.first().map(Receiver::socket),
        }
    }

    fn receive(&mut self, packets: &mut Vec<XskFrame>, budget: usize) -> usize {
        let before = packets.len();
        let budget = budget.min(self.scratch.len());
        self.pool.collect_returned();
        for receiver in &mut self.receivers {
            receiver.top_up(&mut self.pool);
            receiver.receive(&self.pool, packets, &mut self.scratch[..budget]);
        }
        packets.len() - before
    }

    fn can_transmit(&self) -> bool {
        self.transmitter.is_some()
    }

    fn transmit_room(&mut self) -> usize {
        self.transmitter.as_mut().map_or(0, |transmitter| {
            transmitter.reap(&mut self.pool, &mut self.scratch);
            transmitter.room()
        })
    }

    fn transmit(&mut self, packets: &mut Vec<XskFrame>) {
        let Some(transmitter) = &mut self.transmitter else {
            return;
        };
        transmitter.reap(&mut self.pool, &mut self.scratch);
        transmitter.submit(&mut self.pool, packets);
        if transmitter.in_flight() > 0 {
            transmitter.kick(&mut self.pool, &mut self.scratch);
            transmitter.reap(&mut self.pool, &mut self.scratch);
        }
    }

    fn is_sendable(&self, packet: &[XskFrame]) -> bool {
        transmitter::is_sendable(packet)
    }

    fn allocate(&mut self) -> Option<XskFrame> {
        self.pool.allocate()
    }

    fn release(&mut self, frame: XskFrame) {
        self.pool.release(frame);
    }

    fn free_frames(&self) -> usize {
        self.pool.total()
    }

    fn lacks_frames(&self) -> bool {
        self.receivers.iter().any(Receiver::lacks_frames)
    }

    fn in_flight(&self) -> usize {
        self.transmitter.as_ref().map_or(0, Transmitter::in_flight)
    }

    fn outstanding<'a>(mut ports: impl Iterator<Item = &'a Self> + Clone) -> usize {
        let accounted = ports.clone().map(Self::accounted).sum();
        ports.next().map_or(0, |port| port.memory.outstanding(accounted))
    }

    fn statistics(&self) -> PortStatistics {
        let mut sum = PortStatistics::default();
        for receiver in &self.receivers {
            if let Ok(rx) = receiver.rx().fd().xdp_statistics() {
                sum.rx_dropped += rx.rx_dropped();
                sum.rx_invalid += rx.rx_invalid_descs();
                sum.rx_ring_full += rx.rx_ring_full();
                sum.fill_ring_empty += rx.rx_fill_ring_empty_descs();
            }
        }
        if let Some(transmitter) = &self.transmitter {
            sum.tx_invalid = transmitter.refused();
            if let Ok(tx) = transmitter.tx().fd().xdp_statistics() {
                sum.tx_invalid += tx.tx_invalid_descs();
            }
        }
        sum
    }
}

impl Drop for XskPort {
    fn drop(&mut self) {
        self.memory.retire(self.accounted());
    }
}
