//! The queues of one worker.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use vl3lb_common::stats::PortStatistics;
use xsk_rs::FrameDesc;

use super::XskFrame;
use super::local::LocalStack;
use super::memory::Memory;
use super::pool::Pool;
use super::receiver::Receiver;
use super::socket::{self, Binding, Rings};
use super::transmitter::{self, Transmitter};
use crate::config::ZeroCopy;
use crate::error::SetupError;
use crate::port::{Frame, Port};

/// Descriptors moved in one step.
const BATCH: usize = 256;
/// Largest rings; smaller memories have smaller ones.
const LARGEST_RING: u32 = 4096;
/// Largest ring for packets of local clients, whose senders no link holds back.
const LARGEST_LOCAL_RING: u32 = 1024;

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
    /// Packets of clients in this network namespace; of one port only.
    local: Option<Receiver>,
    /// Takes packets to these clients.
    stack: Option<LocalStack>,
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

    /// Makes the ports of one memory, which were opened by `layout`, serve clients in this network namespace. Their packets
    /// come from the only queue of `interface`, those to them begin with a link header of `header_len` bytes. Returns the
    /// socket for that queue, and the cookies of all sockets that send to these clients.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]. Ports that have got their part already keep it.
    pub(crate) fn serve_local<'a>(
        ports: &'a mut [Self],
        layout: Layout<'_>,
        interface: &str,
        header_len: usize,
    ) -> Result<(BorrowedFd<'a>, Vec<u64>), SetupError> {
        let failed = |cause| SetupError::Start {
            what: "raw sockets to local clients".to_owned(),
            cause,
        };
        let mut cookies = Vec::new();
        for port in &mut *ports {
            let stack = LocalStack::open(header_len).map_err(failed)?;
            cookies.extend(stack.cookies().map_err(failed)?);
            port.stack = Some(stack);
        }
        let Some(port) = ports.first_mut() else {
            return Err(failed(io::ErrorKind::NotFound.into()));
        };
        let ring = (layout.frames / 4).clamp(1, LARGEST_LOCAL_RING);
        let binding = Binding {
            interface,
            queue: 0,
            ring,
            zero_copy: layout.zero_copy,
        };
        let rings = socket::bind(&port.memory, binding)?;
        let unused = Some((rings.tx, rings.completion));
        let mut local = Receiver::new(0, (rings.rx, rings.fill), unused, ring as usize);
        local.top_up(&mut port.pool);
        let local = &*port.local.insert(local);
        port.epoll = watch(port.receivers.iter().chain([local])).map_err(failed)?;
        Ok((local.socket(), cookies))
    }

    /// Undoes [`Self::serve_local`], where the rest of the way could not be prepared.
    pub(crate) fn end_local(ports: &mut [Self]) {
        for port in ports {
            port.stack = None;
            if let Some(local) = port.local.take() {
                // No frame comes back from a closed socket's rings.
                port.memory.retire(local.frames());
                port.epoll = watch(port.receivers.iter()).ok().flatten();
            }
        }
    }

    fn new(memory: &Arc<Memory>, worker: usize, queues: Queues, part: Vec<FrameDesc>) -> Self {
        let mut port = Self {
            memory: Arc::clone(memory),
            pool: Pool::new(worker, Arc::clone(memory), part),
            receivers: queues.receivers,
            transmitter: queues.transmitter,
            local: None,
            stack: None,
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
        let receivers = self.receivers.iter().chain(&self.local);
        let receiving: usize = receivers.map(Receiver::frames).sum();
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
            epoll: watch(receivers.iter()).map_err(|cause| SetupError::Start {
                what: format!("waiting for the queues of worker {worker}"),
                cause,
            })?,
            receivers,
            transmitter,
        })
    }
}

/// One descriptor for several receivers. One alone needs none.
fn watch<'a>(receivers: impl Iterator<Item = &'a Receiver> + Clone) -> io::Result<Option<OwnedFd>> {
    if receivers.clone().count() < 2 {
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
            None => self
                .receivers
                .first()
                .or(self.local.as_ref())
                .map(Receiver::socket),
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
        if let Some(local) = &mut self.local {
            let start = packets.len();
            local.top_up(&mut self.pool);
            local.receive(&self.pool, packets, &mut self.scratch[..budget]);
            packets[start..]
                .iter_mut()
                .for_each(|frame| frame.set_local(true));
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

    fn deliver(&mut self, packet: &[XskFrame]) -> bool {
        self.stack.as_ref().is_some_and(|stack| stack.send(packet))
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
        let mut receivers = self.receivers.iter().chain(&self.local);
        receivers.any(Receiver::lacks_frames)
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
        for receiver in self.receivers.iter().chain(&self.local) {
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
