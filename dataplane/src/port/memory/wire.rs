//! The far end of a memory port's queues.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::frame::{CHUNK, MemFrame, Memory};
use crate::port::Frame;

/// A descriptor that is readable when a packet waits that the port has not seen.
#[derive(Debug)]
pub(super) struct Ready(OwnedFd);

impl Ready {
    pub(super) fn new() -> Self {
        Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("a descriptor is free"))
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Before the port looks into its queues: packets from now on make the descriptor readable again.
    pub(super) fn clear(&self) {
        rustix::io::read(&self.0, &mut [0; 8]).ok();
    }

    fn set(&self) {
        rustix::io::write(&self.0, &1_u64.to_ne_bytes()).expect("the counter is not full");
    }
}

/// One receive queue and one transmit queue, seen from the network.
#[derive(Debug)]
pub(crate) struct Wire {
    memory: Arc<Memory>,
    queues: Mutex<Queues>,
    ready: Arc<Ready>,
    /// Whether packets get into the receive queue.
    open: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) arrived: VecDeque<MemFrame>,
    pub(super) sent: VecDeque<MemFrame>,
}

impl Wire {
    /// A wire to a port over `memory` that waits for `ready`.
    pub(super) fn new(memory: Arc<Memory>, ready: Arc<Ready>, open: bool) -> Self {
        Self {
            memory,
            queues: Mutex::default(),
            ready,
            open: AtomicBool::new(open),
        }
    }

    /// Delivers a packet in as many frames as it needs. False without enough free frames, as with AF_XDP, or if no packets
    /// are steered to this port.
    pub(crate) fn send(&self, bytes: &[u8]) -> bool {
        if !self.open.load(Ordering::Relaxed) {
            return false;
        }
        let mut frames = Vec::new();
        for index in 0..bytes.len().div_ceil(CHUNK).max(1) {
            let Some(mut frame) = self.memory.take() else {
                frames.into_iter().for_each(MemFrame::release);
                return false;
            };
            let end = bytes.len().min((index + 1) * CHUNK);
            let part = &bytes[index * CHUNK..end];
            frame.set_len(part.len());
            frame.bytes_mut().copy_from_slice(part);
            frame.set_continues(end < bytes.len());
            frames.push(frame);
        }
        self.queues().arrived.extend(frames);
        self.ready.set();
        true
    }

    /// The packets transmitted since the last call; frees their frames.
    pub(crate) fn take_transmitted(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut packet = Vec::new();
        for frame in std::mem::take(&mut self.queues().sent) {
            packet.extend_from_slice(frame.bytes());
            if !frame.continues() {
                packets.push(std::mem::take(&mut packet));
            }
            frame.release();
        }
        assert!(packet.is_empty(), "part of a packet was transmitted");
        packets
    }

    pub(super) fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }
}
