//! A port whose queues are in memory.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vl3lb_common::stats::PortStatistics;

use super::frame::{MemFrame, Memory};
use super::wire::{Ready, Wire};
use crate::port::{Frame, Port, fitting_frames, packet_frames};

/// A port with its own memory. Its wires are the far ends of its queues.
#[derive(Debug)]
pub struct MemPort {
    memory: Arc<Memory>,
    frames: usize,
    ready: Arc<Ready>,
    receivers: Vec<Arc<Wire>>,
    transmitter: Option<Arc<Wire>>,
    room: usize,
    allocations: usize,
    most_frames: usize,
    lacks_frames: bool,
    delivered: Option<Vec<Vec<u8>>>,
    statistics: PortStatistics,
}

impl MemPort {
    /// A port with `frames` free frames and one queue in each direction, which takes all that is given
    /// to it.
    pub fn new(frames: usize) -> Self {
        let memory = Arc::new(Memory::new(frames));
        let ready = Arc::new(Ready::new());
        let wire = Arc::new(Wire::new(Arc::clone(&memory), Arc::clone(&ready), true));
        Self::with_wires(memory, frames, ready, vec![Arc::clone(&wire)], Some(wire))
    }

    pub(super) fn with_wires(
        memory: Arc<Memory>,
        frames: usize,
        ready: Arc<Ready>,
        receivers: Vec<Arc<Wire>>,
        transmitter: Option<Arc<Wire>>,
    ) -> Self {
        Self {
            memory,
            frames,
            ready,
            receivers,
            transmitter,
            room: usize::MAX,
            allocations: usize::MAX,
            most_frames: usize::MAX,
            lacks_frames: false,
            delivered: None,
            statistics: PortStatistics::default(),
        }
    }

    /// Delivers a packet: see [`Wire::send`].
    pub fn push_packet(&mut self, bytes: &[u8]) -> bool {
        self.receivers.first().is_some_and(|wire| wire.send(bytes))
    }

    /// Delivers a packet from a local client.
    pub fn push_local(&mut self, bytes: &[u8]) -> bool {
        let Some(wire) = self.receivers.first() else {
            return false;
        };
        let before = wire.queues().arrived.len();
        let is_sent = wire.send(bytes);
        let mut queues = wire.queues();
        let new = queues.arrived.iter_mut().skip(before);
        new.for_each(|frame| frame.set_local(true));
        is_sent
    }

    /// The packets sent since the last call: see [`Wire::take_transmitted`].
    pub fn take_transmitted(&mut self) -> Vec<Vec<u8>> {
        self.transmitter
            .as_ref()
            .map(|wire| wire.take_transmitted())
            .unwrap_or_default()
    }

    /// Makes the transmit ring take `frames` more frames, then refuse.
    pub fn set_transmit_room(&mut self, frames: usize) {
        self.room = frames;
    }

    /// Makes `allocate` succeed `frames` more times, then fail.
    pub fn set_allocations(&mut self, frames: usize) {
        self.allocations = frames;
    }

    /// Makes its queue one without free frames.
    pub fn set_lacks_frames(&mut self, lacks_frames: bool) {
        self.lacks_frames = lacks_frames;
    }

    /// Makes packets of more than `frames` frames ones that cannot be sent.
    pub fn set_most_frames(&mut self, frames: usize) {
        self.most_frames = frames;
    }

    /// Makes it a port that serves local clients.
    pub fn set_serves_local(&mut self) {
        self.delivered = Some(Vec::new());
    }

    /// Counts packets that found the receive ring full.
    pub fn lose(&mut self, packets: u64) {
        self.statistics.rx_ring_full += packets;
    }

    /// The packets passed to local clients since the last call.
    pub fn take_delivered(&mut self) -> Vec<Vec<u8>> {
        self.delivered.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Frames that the caller has in hand: of all frames those that are neither free, nor waiting
    /// to be received, nor sent. Frames of other ports in this one's queues do not count.
    pub fn frames_in_hand(&self) -> usize {
        Self::outstanding(std::iter::once(self))
    }

    /// Frames that were dropped instead of released.
    pub fn lost(&self) -> usize {
        self.memory.lost.load(Ordering::Relaxed)
    }

    /// Frames of `memories` in the queues of this port.
    fn queued(&self, memories: &[&Arc<Memory>]) -> usize {
        let known = |frame: &&MemFrame| {
            let owner = frame.owner.as_ref();
            owner.is_some_and(|owner| memories.iter().any(|memory| Arc::ptr_eq(owner, memory)))
        };
        let arrived = |wire: &Arc<Wire>| wire.queues().arrived.iter().filter(known).count();
        let sent = |wire: &Arc<Wire>| wire.queues().sent.iter().filter(known).count();
        self.receivers.iter().map(arrived).sum::<usize>() + self.transmitter.iter().map(sent).sum::<usize>()
    }
}

impl Port for MemPort {
    type Frame = MemFrame;

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.descriptor())
    }

    fn receive(&mut self, packets: &mut Vec<MemFrame>, budget: usize) -> usize {
        let before = packets.len();
        self.ready.clear();
        for wire in &self.receivers {
            let start = packets.len();
            let arrived = &mut wire.queues().arrived;
            while packets.len() - start < budget && !arrived.is_empty() {
                let whole = packet_frames(arrived.make_contiguous());
                packets.extend(arrived.drain(..whole));
            }
        }
        packets.len() - before
    }

    fn can_transmit(&self) -> bool {
        self.transmitter.is_some()
    }

    fn transmit_room(&mut self) -> usize {
        self.room
    }

    fn transmit(&mut self, packets: &mut Vec<MemFrame>) {
        let Some(wire) = &self.transmitter else { return };
        let fits = fitting_frames(packets, self.room);
        self.room -= fits;
        wire.queues().sent.extend(packets.drain(..fits));
    }

    fn is_sendable(&self, packet: &[MemFrame]) -> bool {
        packet.len() <= self.most_frames
    }

    fn deliver(&mut self, packet: &[MemFrame]) -> bool {
        let Some(delivered) = &mut self.delivered else {
            return false;
        };
        delivered.push(packet.iter().flat_map(Frame::bytes).copied().collect());
        true
    }

    fn allocate(&mut self) -> Option<MemFrame> {
        self.allocations = self.allocations.checked_sub(1)?;
        self.memory.take()
    }

    fn release(&mut self, frame: MemFrame) {
        frame.release();
    }

    fn free_frames(&self) -> usize {
        self.memory.free.len()
    }

    fn lacks_frames(&self) -> bool {
        self.lacks_frames
    }

    fn statistics(&self) -> PortStatistics {
        self.statistics
    }

    fn outstanding<'a>(ports: impl Iterator<Item = &'a Self> + Clone) -> usize {
        let memories: Vec<_> = ports.clone().map(|port| &port.memory).collect();
        let used: usize = ports.clone().map(|port| port.frames - port.free_frames()).sum();
        let queued: usize = ports.map(|port| port.queued(&memories)).sum();
        used - queued
    }
}
