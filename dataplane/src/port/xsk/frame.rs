//! An owned frame of packet memory.
#![expect(
    unsafe_code,
    reason = "reads and writes memory shared with the kernel; see the folder's docs"
)]

use std::ptr::NonNull;
use std::slice;

use xsk_rs::FrameDesc;

use crate::port::Frame;

/// `options` bit of a descriptor whose packet continues in the next one (linux/if_xdp.h).
const XDP_PKT_CONTD: u32 = 1;
/// `options` bit of our own, never in a descriptor that the kernel gets: see [`Frame::is_local`].
const LOCAL: u32 = 1 << 31;

/// An owned frame of packet memory. It must be released or transmitted through a port
/// over the same memory; dropping it takes it out of use for good, and keeps the memory mapped.
#[derive(Debug)]
pub struct XskFrame {
    descriptor: FrameDesc,
    data: NonNull<u8>,
    len: u32,
    capacity: u32,
}

// SAFETY: the frame is the only user of its bytes (the folder's docs), wherever it is.
unsafe impl Send for XskFrame {}

impl XskFrame {
    /// # Safety
    ///
    /// `data` points to `capacity` bytes, of which `len` hold a packet; they lie in the chunk that
    /// `descriptor` describes and stay mapped for as long as the frame exists. Nobody else, the
    /// kernel included, uses this chunk until [`Self::into_descriptor`].
    pub(super) const unsafe fn new(
        descriptor: FrameDesc,
        data: NonNull<u8>,
        len: u32,
        capacity: u32,
    ) -> Self {
        Self {
            descriptor,
            data,
            len,
            capacity,
        }
    }

    /// The descriptor, its length not yet brought up to date, and the length.
    pub(super) const fn into_descriptor(self) -> (FrameDesc, usize) {
        (self.descriptor, self.len as usize)
    }

    /// The frame's place in its memory, and its place in the process.
    pub(super) fn position(&self) -> (usize, NonNull<u8>) {
        (self.descriptor.addr(), self.data)
    }
}

impl Frame for XskFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: `data` is valid for `capacity` bytes, `len` is never more, and this frame is
        // their only user (contract of `new`); the borrow of `self` excludes `bytes_mut`.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the exclusive borrow of `self` excludes every other access.
        unsafe { slice::from_raw_parts_mut(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.capacity as usize
    }

    #[inline]
    fn set_len(&mut self, len: usize) {
        // Never beyond the chunk, even if the caller is wrong: memory safety depends on it.
        let capacity = self.capacity;
        self.len = u32::try_from(len).map_or(capacity, |len| len.min(capacity));
    }

    #[inline]
    fn continues(&self) -> bool {
        self.descriptor.has_more_frames()
    }

    #[inline]
    fn set_continues(&mut self, continues: bool) {
        let local = self.descriptor.options() & LOCAL;
        self.descriptor
            .set_options(if continues { XDP_PKT_CONTD | local } else { local });
    }

    #[inline]
    fn is_local(&self) -> bool {
        self.descriptor.options() & LOCAL != 0
    }

    #[inline]
    fn set_local(&mut self, local: bool) {
        let others = self.descriptor.options() & !LOCAL;
        self.descriptor
            .set_options(if local { others | LOCAL } else { others });
    }
}
