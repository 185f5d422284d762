//! The payload of a packet that is divided.

use vl3lb_common::DropReason;

use crate::port::Frame;

/// The payload that is yet to be copied, over several frames.
pub(super) struct Payload<'a, F> {
    bytes: &'a [u8],
    /// The first frame's, if `bytes` are others.
    first: &'a [u8],
    frames: &'a [F],
}

impl<'a, F: Frame> Payload<'a, F> {
    /// First `bytes`, then those of `frames`.
    pub(super) const fn new(bytes: &'a [u8], frames: &'a [F]) -> Self {
        Self {
            bytes,
            first: &[],
            frames,
        }
    }

    /// First `front`, then `bytes`, then those of `frames`.
    pub(super) const fn behind(front: &'a [u8], bytes: &'a [u8], frames: &'a [F]) -> Self {
        Self {
            bytes: front,
            first: bytes,
            frames,
        }
    }

    /// Fills `target` with the next bytes; `Internal` if there are not enough.
    pub(super) fn read(&mut self, target: &mut [u8]) -> Result<(), DropReason> {
        let mut filled = 0;
        while let Some(open) = target.get_mut(filled..).filter(|open| !open.is_empty()) {
            if self.bytes.is_empty() && !self.first.is_empty() {
                self.bytes = std::mem::take(&mut self.first);
            } else if self.bytes.is_empty() {
                let (next, frames) = self.frames.split_first().ok_or(DropReason::Internal)?;
                (self.bytes, self.frames) = (next.bytes(), frames);
            }
            let len = open.len().min(self.bytes.len());
            let (now, later) = self.bytes.split_at(len);
            open[..len].copy_from_slice(now);
            self.bytes = later;
            filled += len;
        }
        Ok(())
    }
}
