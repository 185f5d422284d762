//! An array of words that the kernel's programs share.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

/// An array of words that is mapped as long as this exists.
pub(crate) struct Words {
    start: NonNull<AtomicU64>,
    len: usize,
    _memory: MmapRaw,
}

// SAFETY: the words are atomic, and the mapping may be used and unmapped by any thread.
unsafe impl Send for Words {}
// SAFETY: as above; nothing but atomic words is reachable by a shared reference.
unsafe impl Sync for Words {}

impl Words {
    fn new(memory: MmapRaw, len: usize) -> Self {
        assert!(memory.len() >= len * 8, "the mapping has room for all its words");
        Self {
            start: NonNull::new(memory.as_mut_ptr().cast()).expect("a mapping is not at address 0"),
            len,
            _memory: memory,
        }
    }

    /// The memory of a BPF array with BPF_F_MMAPABLE.
    pub(crate) fn of_map(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let memory = MmapOptions::new().len(len * 8).map_raw(map.as_raw_fd())?;
        Ok(Self::new(memory, len))
    }

    #[cfg(test)]
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        Ok(Self::new(MmapOptions::new().len(len * 8).map_anon()?.into(), len))
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: a mapping starts on a page, `len` words from there are mapped as long as `_memory` lives, and any
        // bytes are an atomic word, which others may change.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}
