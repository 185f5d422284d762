//! The free frames of one worker.
#![expect(unsafe_code, reason = "makes free descriptors frames; see the folder's docs")]

use std::sync::Arc;

use xsk_rs::FrameDesc;

use super::XskFrame;
use super::memory::Memory;

/// The frames of one worker's part of the memory that are free.
#[derive(Debug)]
pub(super) struct Pool {
    worker: usize,
    memory: Arc<Memory>,
    free: Vec<FrameDesc>,
}

impl Pool {
    pub(super) const fn new(worker: usize, memory: Arc<Memory>, free: Vec<FrameDesc>) -> Self {
        Self { worker, memory, free }
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Free frames at hand.
    pub(super) fn len(&self) -> usize {
        self.free.len()
    }

    /// Free frames, those on their way back included.
    pub(super) fn total(&self) -> usize {
        self.free.len() + self.memory.returned(self.worker).len()
    }

    /// Takes in own frames that other workers released.
    #[inline]
    pub(super) fn collect_returned(&mut self) {
        let returned = self.memory.returned(self.worker);
        while let Some(descriptor) = returned.pop() {
            self.free.push(descriptor);
        }
    }

    /// Takes back an unused frame: into this pool, or into the one that owns it.
    #[inline]
    pub(super) fn give_back(&mut self, descriptor: FrameDesc) {
        if self.memory.owner(&descriptor) == self.worker {
            self.free.push(descriptor);
        } else {
            self.memory.return_to_owner(descriptor);
        }
    }

    /// Takes back a frame in hand.
    #[inline]
    pub(super) fn release(&mut self, frame: XskFrame) {
        let descriptor = self.memory.descriptor(frame);
        self.give_back(descriptor);
    }

    /// Calls `take` with up to `count` frames; it returns the number of frames taken from the front.
    #[inline]
    pub(super) fn take(&mut self, count: usize, take: impl FnOnce(&[FrameDesc]) -> usize) -> usize {
        let count = count.min(self.free.len());
        if count == 0 {
            return 0;
        }
        let first = self.free.len() - count;
        let taken = take(&self.free[first..]);
        self.free.drain(first..first + taken);
        taken
    }

    /// An empty frame, if one is free.
    pub(super) fn allocate(&mut self) -> Option<XskFrame> {
        if self.free.is_empty() {
            self.collect_returned();
        }
        let descriptor = self.free.pop()?;
        // SAFETY: a free frame is in no ring and not in use, and is no longer in the list.
        Some(unsafe { self.memory.empty_frame(descriptor) })
    }
}
