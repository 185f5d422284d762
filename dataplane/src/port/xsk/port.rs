//! One worker's receive and transmit queue.
#![expect(
    unsafe_code,
    reason = "moves descriptors through rings; see the folder's docs"
)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use vl3lb_common::stats::PortStatistics;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use crate::config::ZeroCopy;
use crate::error::SetupError;
use crate::port::{Frame, Port, packet_frames};

use super::XskFrame;
use super::memory::Memory;
use super::socket::{self, Place, Rings};

/// Descriptors moved in one step.
const BATCH: usize = 256;
/// Largest rings; smaller memories have smaller ones.
const LARGEST_RING: u32 = 4096;
/// Descriptors of one packet that the kernel sends: one, and as many fragments as a socket buffer
/// has (MAX_SKB_FRAGS).
const SENDABLE_FRAMES: usize = 18;
/// Packets that the kernel sends in one call, in copy mode (TX_BATCH_SIZE).
const KERNEL_BATCH: usize = 32;

/// What to open.
#[derive(Debug, Clone, Copy)]
pub struct Layout<'a> {
    /// Where packets come from: worker i gets queue i.
    pub receive: &'a str,
    /// Where packets go: worker i sends through queue i. The same as `receive`, or another one (the
    /// companion mode).
    pub transmit: &'a str,
    pub workers: u16,
    /// Frames of each worker, a power of two.
    pub frames: u32,
    pub zero_copy: ZeroCopy,
}

/// One receive queue and one transmit queue, and this worker's part of the packet memory.
///
/// At most half of the frames wait in the fill and rx rings; the others are for packets in hand
/// and in transmission.
#[derive(Debug)]
pub struct XskPort {
    worker: usize,
    memory: Arc<Memory>,
    free: Vec<FrameDesc>,
    rx: RxQueue,
    fill: FillQueue,
    /// Frames in the fill and rx rings, and how many there should be.
    filled: usize,
    fill_target: usize,
    tx: TxQueue,
    tx_size: usize,
    completion: CompQueue,
    /// Frames in the tx and completion rings.
    in_flight: usize,
    /// Head of a packet whose last frame has not arrived.
    partial: Vec<XskFrame>,
    /// Packets that the kernel would refuse.
    refused: u64,
    received: Box<[FrameDesc]>,
    staged: Vec<FrameDesc>,
    /// If sending has a socket of its own: the rings that each of the two does not use. They must
    /// live as long as their socket.
    _unused: Option<(TxQueue, CompQueue, RxQueue, FillQueue)>,
}

impl XskPort {
    /// Opens one port per worker over one memory. Nothing is received until the sockets are in the
    /// steer program's map.
    ///
    /// # Errors
    ///
    /// No memory; an interface or queue that is missing or taken; a right that is missing; zero-copy
    /// where the driver has none.
    pub fn open(layout: Layout<'_>) -> Result<Vec<Self>, SetupError> {
        let ring = (layout.frames / 2).clamp(1, LARGEST_RING);
        let (memory, parts) = Memory::new(layout.workers, layout.frames, ring)?;
        let opened: Result<Vec<Self>, _> = (0..u32::from(layout.workers))
            .map(|queue| Self::bind(&memory, layout, queue, ring))
            .collect();
        match opened {
            Ok(mut ports) => {
                for (port, part) in ports.iter_mut().zip(parts) {
                    port.free = part;
                    // Now, or the first packet would find no frame.
                    port.top_up();
                }
                Ok(ports)
            }
            Err(error) => {
                memory.retire(memory.frames());
                Err(error)
            }
        }
    }

    /// A port that has no frames yet.
    fn bind(memory: &Arc<Memory>, layout: Layout<'_>, queue: u32, ring: u32) -> Result<Self, SetupError> {
        let receive = Place {
            interface: layout.receive,
            queue,
            ring,
            zero_copy: layout.zero_copy,
        };
        let Rings {
            rx,
            tx,
            fill,
            completion,
        } = socket::bind(memory, receive)?;
        let (tx, completion, unused) = if layout.transmit == layout.receive {
            (tx, completion, None)
        } else {
            let transmit = Place {
                interface: layout.transmit,
                ..receive
            };
            let sending = socket::bind(memory, transmit)?;
            let unused = (tx, completion, sending.rx, sending.fill);
            (sending.tx, sending.completion, Some(unused))
        };
        let ring = ring as usize;
        Ok(Self {
            worker: queue as usize,
            memory: Arc::clone(memory),
            free: Vec::new(),
            rx,
            fill,
            filled: 0,
            fill_target: ring,
            tx,
            tx_size: ring,
            completion,
            in_flight: 0,
            partial: Vec::with_capacity(BATCH),
            refused: 0,
            received: vec![FrameDesc::default(); BATCH].into_boxed_slice(),
            staged: Vec::with_capacity(ring),
            _unused: unused,
        })
    }

    /// The receiving socket, to be put into the steer program's map.
    pub fn receiver(&self) -> BorrowedFd<'_> {
        socket::descriptor(self.rx.fd())
    }

    /// Whether frames reach the device without a copy, in both directions.
    pub fn is_zero_copy(&self) -> bool {
        [self.rx.fd(), self.tx.fd()]
            .into_iter()
            .all(|fd| socket::is_zero_copy(fd).unwrap_or(false))
    }

    /// Frames in nobody's hands that this port knows of: free, or in a ring of the kernel.
    fn accounted(&self) -> usize {
        self.free.len() + self.filled + self.partial.len() + self.in_flight
    }

    /// Gives the kernel as many free frames as it should have.
    fn top_up(&mut self) {
        self.welcome_returned();
        let wanted = (self.fill_target - self.filled).min(self.free.len());
        if wanted > 0 {
            let first = self.free.len() - wanted;
            // SAFETY: free frames belong to this memory and are in nobody's hands; those that the
            // kernel took are removed from the list below.
            let taken = unsafe { self.fill.produce(&self.free[first..]) };
            // All or none: the ring has room, since it is as large as the target.
            self.free.truncate(first + wanted - taken);
            self.filled += taken;
        }
        if self.fill.needs_wakeup() {
            let fd = self.rx.fd_mut();
            // A driver in need of a call is called again in the next burst.
            drop(self.fill.wakeup(fd, 0));
        }
    }

    /// Takes in own frames that other workers are done with.
    #[inline]
    fn welcome_returned(&mut self) {
        let returned = self.memory.returned(self.worker);
        while let Some(descriptor) = returned.pop() {
            self.free.push(descriptor);
        }
    }

    #[inline]
    fn give_back(&mut self, descriptor: FrameDesc) {
        if self.memory.home(&descriptor) == self.worker {
            self.free.push(descriptor);
        } else {
            self.memory.send_home(descriptor);
        }
    }

    /// Takes back frames that the kernel has sent.
    fn reap(&mut self) {
        while self.in_flight > 0 {
            // SAFETY: the completion ring belongs to a socket over `self.memory`.
            let count = unsafe { self.completion.consume(&mut self.received) };
            self.in_flight -= count;
            for index in 0..count {
                self.give_back(self.received[index]);
            }
            if count < self.received.len() {
                return;
            }
        }
    }

    /// Puts the packets at the front that fit into the transmit ring.
    fn submit(&mut self, packets: &mut Vec<XskFrame>) {
        while !packets.is_empty() {
            let wanted = u32::try_from(packets.len()).unwrap_or(u32::MAX);
            let room = self.tx.nb_free(wanted) as usize;
            let (fits, refused) = sendable(packets, room);
            self.staged.clear();
            for frame in packets.drain(..fits) {
                self.staged.push(self.memory.descriptor(frame));
            }
            // SAFETY: each descriptor was a frame in hand until here, and belongs to this memory.
            let taken = unsafe { self.tx.produce(&self.staged) };
            debug_assert_eq!(taken, fits, "the ring has room for `fits`");
            self.in_flight += fits;
            if refused == 0 {
                return;
            }
            self.refused += 1;
            for frame in packets.drain(..refused) {
                let descriptor = self.memory.descriptor(frame);
                self.give_back(descriptor);
            }
        }
    }

    /// Frames in the transmit ring that the kernel has not taken yet.
    fn unsent(&mut self) -> usize {
        self.tx_size - self.tx.nb_free_exact() as usize
    }

    /// Makes the kernel send. In copy mode it does so within the call, a limited number of packets
    /// at a time, so call until the ring is empty or nothing moves.
    fn kick(&mut self) {
        let mut unsent = self.unsent();
        for _ in 0..=self.tx_size / KERNEL_BATCH {
            if unsent == 0 || !self.tx.needs_wakeup() {
                return;
            }
            match send(socket::descriptor(self.tx.fd()), &[], SendFlags::DONTWAIT) {
                // More to send, or the completion ring is full, or the device's queue is.
                Err(Errno::AGAIN) => self.reap(),
                // All is sent; or memory is short, or the link is down: the next burst tries again.
                _ => return,
            }
            let before = std::mem::replace(&mut unsent, self.unsent());
            if unsent >= before {
                return;
            }
        }
    }
}

/// How many frames from the front of `packets` make whole packets that fit into `room`, and how
/// many more make a packet that the kernel would refuse and never give back: one with too many
/// frames, or with an empty one.
fn sendable(packets: &[XskFrame], room: usize) -> (usize, usize) {
    let mut fits = 0;
    while fits < packets.len() {
        let packet = &packets[fits..];
        let packet = &packet[..packet_frames(packet)];
        if packet.len() > SENDABLE_FRAMES || packet.iter().any(|frame| frame.bytes().is_empty()) {
            return (fits, packet.len());
        }
        if fits + packet.len() > room {
            break;
        }
        fits += packet.len();
    }
    (fits, 0)
}

impl Port for XskPort {
    type Frame = XskFrame;

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.receiver())
    }

    fn receive(&mut self, packets: &mut Vec<XskFrame>, budget: usize) -> usize {
        self.top_up();
        let before = packets.len();
        packets.append(&mut self.partial);
        let budget = budget.min(self.received.len());
        // SAFETY: the rx ring belongs to a socket over `self.memory`.
        let count = unsafe { self.rx.consume(&mut self.received[..budget]) };
        self.filled -= count;
        for &descriptor in &self.received[..count] {
            // SAFETY: the kernel gave the frame up when it put it into the rx ring, from which it
            // has just been taken.
            packets.push(unsafe { self.memory.frame(descriptor) });
        }
        let whole = packets[before..]
            .iter()
            .rposition(|frame| !frame.continues())
            .map_or(before, |last| before + last + 1);
        self.partial.extend(packets.drain(whole..));
        packets.len() - before
    }

    fn transmit(&mut self, packets: &mut Vec<XskFrame>) {
        self.reap();
        self.submit(packets);
        if self.in_flight > 0 {
            self.kick();
            self.reap();
        }
    }

    fn allocate(&mut self) -> Option<XskFrame> {
        if self.free.is_empty() {
            self.welcome_returned();
        }
        let descriptor = self.free.pop()?;
        // SAFETY: a free frame is in no ring and in nobody's hands, and is no longer in the list.
        Some(unsafe { self.memory.empty_frame(descriptor) })
    }

    fn release(&mut self, frame: XskFrame) {
        let descriptor = self.memory.descriptor(frame);
        self.give_back(descriptor);
    }

    fn free_frames(&self) -> usize {
        self.free.len() + self.memory.returned(self.worker).len()
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn outstanding(ports: &[Self]) -> usize {
        let accounted = ports.iter().map(Self::accounted).sum();
        ports.first().map_or(0, |port| port.memory.outstanding(accounted))
    }

    fn statistics(&self) -> PortStatistics {
        let mut statistics = PortStatistics {
            tx_invalid: self.refused,
            ..PortStatistics::default()
        };
        if let Ok(rx) = self.rx.fd().xdp_statistics() {
            statistics.rx_dropped = rx.rx_dropped();
            statistics.rx_invalid = rx.rx_invalid_descs();
            statistics.rx_ring_full = rx.rx_ring_full();
            statistics.fill_ring_empty = rx.rx_fill_ring_empty_descs();
        }
        if let Ok(tx) = self.tx.fd().xdp_statistics() {
            statistics.tx_invalid += tx.tx_invalid_descs();
        }
        statistics
    }
}

impl Drop for XskPort {
    fn drop(&mut self) {
        self.memory.retire(self.accounted());
    }
}
