//! The boundary between rings and packet logic.
//!
//! A [`Port`] receives and transmits bursts of owned [`Frame`]s; everything above it works on bytes,
//! time and tables only. AF_XDP queues are one implementation ([`xsk`]), the memory port of the tests
//! another.

#[cfg(any(test, feature = "testing"))]
pub(crate) mod memory;
pub(crate) mod none;
pub(crate) mod provider;
#[cfg(test)]
pub(crate) mod tap;
pub(crate) mod xsk;

use std::os::fd::BorrowedFd;

use vl3lb_common::stats::PortStatistics;

/// An owned piece of packet memory. A frame is in exactly one place: free, in a ring of the kernel, in use
/// by a worker or on its way to another worker. It is neither `Copy` nor `Clone`.
///
/// A packet is one frame, or several in a row of which all but the last [`continues`](Self::continues).
/// The first one holds all headers.
pub trait Frame: Send {
    /// The packet bytes in this frame.
    fn bytes(&self) -> &[u8];

    /// The packet bytes in this frame, to be changed in place.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// The largest length that the bytes may have.
    fn capacity(&self) -> usize;

    /// Truncates or extends the bytes to `len`, at most `capacity`. Added bytes have any value.
    fn set_len(&mut self, len: usize);

    /// Whether the packet continues in the next frame (XDP_PKT_CONTD).
    fn continues(&self) -> bool;

    /// Sets whether the packet continues in the next frame.
    fn set_continues(&mut self, continues: bool);

    /// Whether the packet is a local client's: it came from this network namespace, or goes there
    /// ([`Port::deliver`]). Never true of a packet that came in by the interface.
    fn is_local(&self) -> bool {
        false
    }

    /// Sets whether the packet is a local client's. Frames that are transmitted are not.
    fn set_local(&mut self, local: bool) {
        let _ = local;
    }
}

/// The receive queues of one worker, any number of them, and its transmit queue, if it has one.
pub trait Port {
    type Frame: Frame;

    /// A descriptor that polls readable when packets arrive; `None` if the port receives none.
    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Appends received packets to `packets`, whole packets only, about `budget` frames at most (a
    /// packet of several frames may exceed it). Keeps the kernel supplied with free frames.
    /// Returns the number of frames appended.
    fn receive(&mut self, packets: &mut Vec<Self::Frame>, budget: usize) -> usize;

    /// Whether it has a transmit queue. Without one, its worker's packets leave by another worker.
    fn can_transmit(&self) -> bool {
        true
    }

    /// The number of frames that `transmit` takes now. It takes as many whole packets as fit.
    fn transmit_room(&mut self) -> usize;

    /// Takes packets from the front of `packets` and sends them, whole packets only; what does not
    /// fit into the ring stays. Takes back frames whose transmission is complete.
    fn transmit(&mut self, packets: &mut Vec<Self::Frame>);

    /// Whether a packet of several frames can be sent at all; one of a single frame always can.
    fn is_sendable(&self, packet: &[Self::Frame]) -> bool {
        let _ = packet;
        true
    }

    /// Passes a packet to a local client, through the kernel of this network namespace. False if the kernel does not
    /// take it, or the port serves no local clients. The caller keeps the frames.
    fn deliver(&mut self, packet: &[Self::Frame]) -> bool {
        let _ = packet;
        false
    }

    /// An empty frame to build a packet in, if one is free.
    fn allocate(&mut self) -> Option<Self::Frame>;

    /// Gives a frame back. It may have come from another worker's port over the same memory.
    fn release(&mut self, frame: Self::Frame);

    /// This worker's free frames.
    fn free_frames(&self) -> usize;

    /// Whether a receive queue has fewer free frames than it should have, because the others are not back yet. It may
    /// receive nothing until `receive` is called again, and no packet would say so.
    fn lacks_frames(&self) -> bool {
        false
    }

    /// Frames given to `transmit` whose transmission is not complete.
    fn in_flight(&self) -> usize {
        0
    }

    /// Frames that are neither free nor in a queue, given all `ports` over one memory: 0 when their
    /// workers have stopped, unless a frame was lost.
    fn outstanding<'a>(ports: impl Iterator<Item = &'a Self> + Clone) -> usize
    where
        Self: Sized + 'a;

    /// Packets lost in the port's queues since it was opened. May cost a few system calls.
    fn statistics(&self) -> PortStatistics {
        PortStatistics::default()
    }
}

/// Length of the packet that starts at `frames[0]`, in frames: up to and including the first one
/// that does not continue. All of them if the end is missing.
#[inline]
pub(crate) fn packet_frames<F: Frame>(frames: &[F]) -> usize {
    // Nearly all packets are one frame.
    if frames.first().is_some_and(|first| !first.continues()) {
        return 1;
    }
    frames
        .iter()
        .position(|frame| !frame.continues())
        .map_or(frames.len(), |last| last + 1)
}

/// Length of the packets at the front of `frames` that fit whole into `room` frames, in frames.
#[inline]
pub(crate) fn fitting_frames<F: Frame>(frames: &[F], room: usize) -> usize {
    let mut fits = 0;
    while fits < frames.len() {
        let end = fits + packet_frames(&frames[fits..]);
        if end > room {
            break;
        }
        fits = end;
    }
    fits
}

/// Number of packets in `frames`, counted by their last frames.
pub(crate) fn packets_in<F: Frame>(frames: &[F]) -> u64 {
    frames.iter().filter(|frame| !frame.continues()).count() as u64
}

/// Length of a packet in bytes.
#[inline]
pub(crate) fn packet_len<F: Frame>(packet: &[F]) -> usize {
    if let [only] = packet {
        return only.bytes().len();
    }
    packet.iter().map(|frame| frame.bytes().len()).sum()
}
