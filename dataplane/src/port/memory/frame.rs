//! A frame made of a `Vec`, and the memory that it belongs to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::SegQueue;

use crate::port::Frame;

/// Capacity of a frame: a 4 KiB chunk without the 256 bytes that XDP reserves.
pub const CHUNK: usize = 3840;

/// A frame made of a `Vec`. One that came from a [`MemPort`] must go back to it or to a port that
/// shares its memory; a drop is counted as a loss.
#[derive(Debug)]
pub struct MemFrame {
    buffer: Vec<u8>,
    len: usize,
    continues: bool,
    local: bool,
    pub(super) owner: Option<Arc<Memory>>,
}

/// Frames of one port; a frame that another port releases returns here.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) free: SegQueue<Vec<u8>>,
    pub(super) lost: AtomicUsize,
}

impl Memory {
    pub(super) fn new(frames: usize) -> Self {
        let free = SegQueue::new();
        for _ in 0..frames {
            free.push(vec![0; CHUNK]);
        }
        Self {
            free,
            lost: AtomicUsize::new(0),
        }
    }

    /// An empty frame, if one is free.
    pub(super) fn take(self: &Arc<Self>) -> Option<MemFrame> {
        Some(MemFrame {
            buffer: self.free.pop()?,
            len: 0,
            continues: false,
            local: false,
            owner: Some(Arc::clone(self)),
        })
    }
}

impl MemFrame {
    /// Gives the frame back to its memory.
    pub(super) fn release(mut self) {
        if let Some(owner) = self.owner.take() {
            owner.free.push(std::mem::take(&mut self.buffer));
        }
    }
}

/// A frame with all of `bytes` and room up to [`CHUNK`]. It belongs to no port.
pub fn frame(bytes: &[u8]) -> MemFrame {
    let mut buffer = bytes.to_vec();
    buffer.resize(bytes.len().max(CHUNK), 0);
    MemFrame {
        buffer,
        len: bytes.len(),
        continues: false,
        local: false,
        owner: None,
    }
}

/// One packet as frames of up to `chunk` bytes that continue each other, as the kernel delivers
/// a packet longer than one chunk. They belong to no port.
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

    #[inline]
    fn is_local(&self) -> bool {
        self.local
    }

    #[inline]
    fn set_local(&mut self, local: bool) {
        self.local = local;
    }
}

impl Drop for MemFrame {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
