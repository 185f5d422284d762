//! One receive queue: its fill ring and its receive ring.
#![expect(
    unsafe_code,
    reason = "moves descriptors through rings; see the folder's docs"
)]

use std::os::fd::BorrowedFd;

use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use super::XskFrame;
use super::pool::Pool;
use super::socket;
use crate::port::Frame;

/// A receive queue and the frames in it.
#[derive(Debug)]
pub(super) struct Receiver {
    queue: u32,
    rx: RxQueue,
    fill: FillQueue,
    /// Frames in the fill and receive rings, and how many there should be.
    filled: usize,
    target: usize,
    /// Head of a packet whose last frame has not arrived.
    partial: Vec<XskFrame>,
    /// The rings of the socket that are not used. They must live as long as it does.
    _unused: Option<(TxQueue, CompQueue)>,
}

impl Receiver {
    /// `target` frames at most wait in the rings, which have room for them.
    pub(super) fn new(
        queue: u32,
        rings: (RxQueue, FillQueue),
        unused: Option<(TxQueue, CompQueue)>,
        target: usize,
    ) -> Self {
        let (rx, fill) = rings;
        Self {
            queue,
            rx,
            fill,
            filled: 0,
            target,
            partial: Vec::with_capacity(target.min(256)),
            _unused: unused,
        }
    }

    pub(super) const fn queue(&self) -> u32 {
        self.queue
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        socket::descriptor(self.rx.fd())
    }

    pub(super) fn rx(&self) -> &RxQueue {
        &self.rx
    }

    /// Frames in the rings, and of a packet that is not complete.
    pub(super) fn frames(&self) -> usize {
        self.filled + self.partial.len()
    }

    /// Whether fewer frames are in the rings than there should be.
    pub(super) const fn lacks_frames(&self) -> bool {
        self.filled < self.target
    }

    /// Gives the kernel as many free frames as it should have.
    #[inline]
    pub(super) fn top_up(&mut self, pool: &mut Pool) {
        let fill = &mut self.fill;
        self.filled += pool.take(self.target - self.filled, |free| {
            // All or none: the ring has room, since it is as large as the target.
            // SAFETY: free frames belong to this memory and are not in use; those that the
            // kernel takes leave the pool.
            unsafe { fill.produce(free) }
        });
        if self.fill.needs_wakeup() {
            let fd = self.rx.fd_mut();
            // A driver in need of a call is called again in the next burst.
            drop(self.fill.wakeup(fd, 0));
        }
    }

    /// Appends whole packets to `packets`, about as many frames as `scratch` has room for.
    #[inline]
    pub(super) fn receive(&mut self, pool: &Pool, packets: &mut Vec<XskFrame>, scratch: &mut [FrameDesc]) {
        let before = packets.len();
        packets.append(&mut self.partial);
        // SAFETY: the receive ring belongs to a socket over the pool's memory.
        let count = unsafe { self.rx.consume(scratch) };
        self.filled -= count;
        for &descriptor in &scratch[..count] {
            // SAFETY: the kernel gave the frame up when it put it into the receive ring, from which it
            // has just been taken.
            packets.push(unsafe { pool.memory().frame(descriptor) });
        }
        let whole = packets[before..]
            .iter()
            .rposition(|frame| !frame.continues())
            .map_or(before, |last| before + last + 1);
        self.partial.extend(packets.drain(whole..));
    }
}
