//! One transmit queue: its transmit ring and its completion ring.
#![expect(
    unsafe_code,
    reason = "moves descriptors through rings; see the folder's docs"
)]

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use super::XskFrame;
use super::pool::Pool;
use super::socket;
use crate::port::{Frame, packet_frames};

/// Descriptors of one packet that the kernel sends: one, and as many fragments as a socket buffer
/// has (MAX_SKB_FRAGS).
const SENDABLE_FRAMES: usize = 18;
/// Packets that the kernel sends in one call, in copy mode (TX_BATCH_SIZE).
const KERNEL_BATCH: usize = 32;

/// A transmit queue and the frames in it.
#[derive(Debug)]
pub(super) struct Transmitter {
    tx: TxQueue,
    size: usize,
    completion: CompQueue,
    /// Frames in the transmit and completion rings.
    in_flight: usize,
    /// Packets that the kernel would refuse.
    refused: u64,
    staged: Vec<FrameDesc>,
    /// The rings of the socket that are not used. They must live as long as it does.
    _unused: Option<(RxQueue, FillQueue)>,
}

impl Transmitter {
    /// `size` is the number of descriptors in the transmit ring.
    pub(super) fn new(
        rings: (TxQueue, CompQueue),
        unused: Option<(RxQueue, FillQueue)>,
        size: usize,
    ) -> Self {
        let (tx, completion) = rings;
        Self {
            tx,
            size,
            completion,
            in_flight: 0,
            refused: 0,
            staged: Vec::with_capacity(size),
            _unused: unused,
        }
    }

    pub(super) fn tx(&self) -> &TxQueue {
        &self.tx
    }

    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) const fn refused(&self) -> u64 {
        self.refused
    }

    /// Frames that fit into the ring now.
    pub(super) fn room(&mut self) -> usize {
        self.tx.nb_free_exact() as usize
    }

    /// Takes back frames that the kernel has sent.
    pub(super) fn reap(&mut self, pool: &mut Pool, scratch: &mut [FrameDesc]) {
        while self.in_flight > 0 {
            // SAFETY: the completion ring belongs to a socket over the pool's memory.
            let count = unsafe { self.completion.consume(scratch) };
            self.in_flight -= count;
            for &descriptor in &scratch[..count] {
                pool.give_back(descriptor);
            }
            if count < scratch.len() {
                return;
            }
        }
    }

    /// Puts the packets at the front that fit into the transmit ring.
    pub(super) fn submit(&mut self, pool: &mut Pool, packets: &mut Vec<XskFrame>) {
        while !packets.is_empty() {
            let wanted = u32::try_from(packets.len()).unwrap_or(u32::MAX);
            let room = self.tx.nb_free(wanted) as usize;
            let (fits, refused) = sendable(packets, room);
            self.staged.clear();
            for frame in packets.drain(..fits) {
                self.staged.push(pool.memory().descriptor(frame));
            }
            // SAFETY: each descriptor was a frame in hand until here, and belongs to this memory.
            let taken = unsafe { self.tx.produce(&self.staged) };
            debug_assert_eq!(taken, fits, "the ring has room for `fits`");
            self.in_flight += fits;
            if refused == 0 {
                return;
            }
            self.refused += 1;
            packets.drain(..refused).for_each(|frame| pool.release(frame));
        }
    }

    /// Makes the kernel send. In copy mode it does so within the call, a limited number of packets
    /// at a time, so call it until the ring is empty or no packet is sent.
    pub(super) fn kick(&mut self, pool: &mut Pool, scratch: &mut [FrameDesc]) {
        let mut unsent = self.unsent();
        for _ in 0..=self.size / KERNEL_BATCH {
            if unsent == 0 || !self.tx.needs_wakeup() {
                return;
            }
            match send(socket::descriptor(self.tx.fd()), &[], SendFlags::DONTWAIT) {
                // More to send, or the completion ring is full, or the device's queue is.
                Err(Errno::AGAIN) => self.reap(pool, scratch),
                // All is sent; or memory is short, or the link is down: the next burst tries again.
                _ => return,
            }
            let before = std::mem::replace(&mut unsent, self.unsent());
            if unsent >= before {
                return;
            }
        }
    }

    /// Frames in the transmit ring that the kernel has not taken yet.
    fn unsent(&mut self) -> usize {
        self.size - self.room()
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
        if !is_sendable(packet) {
            return (fits, packet.len());
        }
        if fits + packet.len() > room {
            break;
        }
        fits += packet.len();
    }
    (fits, 0)
}

/// Whether the kernel sends a packet of these frames.
pub(super) fn is_sendable(packet: &[XskFrame]) -> bool {
    packet.len() <= SENDABLE_FRAMES && packet.iter().all(|frame| !frame.bytes().is_empty())
}
