//! [`Port`] and [`Frame`] made of `Vec`s.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::SegQueue;

use crate::port::{Frame, Port, packet_frames};

/// Capacity of a frame: a 4 KiB chunk without the 256 bytes that XDP reserves.
pub const CHUNK: usize = 3840;

/// A frame made of a `Vec`. One that came from a [`MemPort`] must go back to it or to a port that
/// shares its memory; a drop is counted as a loss.
#[derive(Debug)]
pub struct MemFrame {
    buffer: Vec<u8>,
    len: usize,
    continues: bool,
    home: Option<Arc<Memory>>,
}

/// Frames of one port; a frame that another port releases comes back here.
#[derive(Debug)]
struct Memory {
    free: SegQueue<Vec<u8>>,
    lost: AtomicUsize,
}

impl Memory {
    fn new(frames: usize) -> Self {
        let free = SegQueue::new();
        for _ in 0..frames {
            free.push(vec![0; CHUNK]);
        }
        Self {
            free,
            lost: AtomicUsize::new(0),
        }
    }
}

/// A frame of its own, with all of `bytes` in it and room up to [`CHUNK`]. It belongs to no port.
pub fn frame(bytes: &[u8]) -> MemFrame {
    let mut buffer = bytes.to_vec();
    buffer.resize(bytes.len().max(CHUNK), 0);
    MemFrame {
        buffer,
        len: bytes.len(),
        continues: false,
        home: None,
    }
}

/// One packet as frames of up to `chunk` bytes that continue each other, as the kernel delivers
/// what is longer than one chunk. They belong to no port.
pub fn frames_of(bytes: &[u8], chunk: usize) -> Vec<MemFrame> {
    let mut frames: Vec<_> = bytes.chunks(chunk).map(frame).collect();
    if frames.is_empty() {
        frames.push(frame(bytes));
    }
    let last = frames.len() - 1;
    for frame in &mut frames[..last] {
        frame.continues = true;
    }
    frames
}

impl Frame for MemFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.buffer.len()
    }

    #[inline]
    fn set_len(&mut self, len: usize) {
        assert!(
            len <= self.buffer.len(),
            "{len} bytes in a frame of {}",
            self.buffer.len()
        );
        self.len = len;
    }

    #[inline]
    fn continues(&self) -> bool {
        self.continues
    }

    #[inline]
    fn set_continues(&mut self, continues: bool) {
        self.continues = continues;
    }
}

impl Drop for MemFrame {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A port whose wire is two `Vec`s.
#[derive(Debug)]
pub struct MemPort {
    memory: Arc<Memory>,
    total: usize,
    arrived: VecDeque<MemFrame>,
    sent: Vec<MemFrame>,
    room: usize,
    allocations: usize,
}

impl MemPort {
    /// A port with `frames` free frames, which takes all that is given to it.
    pub fn new(frames: usize) -> Self {
        Self {
            memory: Arc::new(Memory::new(frames)),
            total: frames,
            arrived: VecDeque::new(),
            sent: Vec::new(),
            room: usize::MAX,
            allocations: usize::MAX,
        }
    }

    /// Lets a packet arrive, in as many frames as it needs. False if there are not enough free
    /// ones: then it is not received, as with AF_XDP.
    pub fn push_packet(&mut self, bytes: &[u8]) -> bool {
        let needed = bytes.len().div_ceil(CHUNK).max(1);
        if self.memory.free.len() < needed {
            return false;
        }
        for index in 0..needed {
            let Some(mut frame) = self.take_free() else {
                unreachable!("only this port takes frames out of its memory");
            };
            let part = &bytes[index * CHUNK..bytes.len().min((index + 1) * CHUNK)];
            frame.set_len(part.len());
            frame.bytes_mut().copy_from_slice(part);
            frame.set_continues(index + 1 < needed);
            self.arrived.push_back(frame);
        }
        true
    }

    /// What was sent since the last call, packet by packet; its frames become free.
    pub fn take_transmitted(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut packet = Vec::new();
        for frame in std::mem::take(&mut self.sent) {
            packet.extend_from_slice(frame.bytes());
            if !frame.continues() {
                packets.push(std::mem::take(&mut packet));
            }
            self.release(frame);
        }
        assert!(packet.is_empty(), "part of a packet was transmitted");
        packets
    }

    /// Makes the transmit ring take `frames` more frames, then refuse.
    pub fn set_transmit_room(&mut self, frames: usize) {
        self.room = frames;
    }

    /// Makes `allocate` succeed `frames` more times, then fail.
    pub fn set_allocations(&mut self, frames: usize) {
        self.allocations = frames;
    }

    /// Frames that the caller has in hand: of all frames those that are neither free, nor waiting
    /// to be received, nor sent. Frames of other ports in this one's queues do not count.
    pub fn frames_in_hand(&self) -> usize {
        let own = |frame: &&MemFrame| {
            frame
                .home
                .as_ref()
                .is_some_and(|home| Arc::ptr_eq(home, &self.memory))
        };
        let held = self.arrived.iter().filter(own).count() + self.sent.iter().filter(own).count();
        self.total - self.memory.free.len() - held
    }

    /// Frames that were dropped instead of released.
    pub fn lost(&self) -> usize {
        self.memory.lost.load(Ordering::Relaxed)
    }

    fn take_free(&mut self) -> Option<MemFrame> {
        Some(MemFrame {
            buffer: self.memory.free.pop()?,
            len: 0,
            continues: false,
            home: Some(self.memory.clone()),
        })
    }
}

impl Port for MemPort {
    type Frame = MemFrame;

    fn receive(&mut self, packets: &mut Vec<MemFrame>, budget: usize) -> usize {
        let before = packets.len();
        while packets.len() - before < budget && !self.arrived.is_empty() {
            let whole = packet_frames(self.arrived.make_contiguous());
            packets.extend(self.arrived.drain(..whole));
        }
        packets.len() - before
    }

    fn transmit(&mut self, packets: &mut Vec<MemFrame>) {
        let mut fits = 0;
        while fits < packets.len() {
            let whole = packet_frames(&packets[fits..]);
            if fits + whole > self.room {
                break;
            }
            fits += whole;
        }
        self.room -= fits;
        self.sent.extend(packets.drain(..fits));
    }

    fn allocate(&mut self) -> Option<MemFrame> {
        self.allocations = self.allocations.checked_sub(1)?;
        self.take_free()
    }

    fn release(&mut self, mut frame: MemFrame) {
        if let Some(home) = frame.home.take() {
            home.free.push(std::mem::take(&mut frame.buffer));
        }
    }

    fn free_frames(&self) -> usize {
        self.memory.free.len()
    }

    fn outstanding(ports: &[Self]) -> usize {
        ports.iter().map(Self::frames_in_hand).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_packet_arrives_in_frames_that_continue_each_other() {
        let mut port = MemPort::new(4);
        let bytes: Vec<u8> = (0..=255).cycle().take(2 * CHUNK + 1).collect();
        assert!(port.push_packet(&bytes));
        assert!(!port.push_packet(&bytes), "one frame left, three needed");
        let mut packets = Vec::new();
        assert_eq!(port.receive(&mut packets, 1), 3);
        assert_eq!(port.frames_in_hand(), 3);
        port.transmit(&mut packets);
        assert_eq!(port.take_transmitted(), [bytes]);
        assert_eq!(
            (port.free_frames(), port.frames_in_hand(), port.lost()),
            (4, 0, 0)
        );
    }

    #[test]
    fn transmit_takes_whole_packets_only() {
        let mut port = MemPort::new(0);
        port.set_transmit_room(2);
        let mut packets = vec![frame(b"one")];
        packets.extend(frames_of(b"two", 2));
        port.transmit(&mut packets);
        assert_eq!(packets.len(), 2);
        assert_eq!(port.take_transmitted(), [b"one"]);
    }

    #[test]
    fn a_dropped_frame_is_a_lost_one() {
        let mut port = MemPort::new(1);
        drop(port.allocate());
        assert_eq!(port.lost(), 1);
        assert!(port.allocate().is_none());
    }
}
