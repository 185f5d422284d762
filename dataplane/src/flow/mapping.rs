//! One anonymous memory mapping, divided into arrays.
//!
//! The only unsafe code of the flow table. An array is handed out once and never overlaps another;
//! its element type has no pointers and no invalid bit patterns, so it may also be read from memory
//! that another process wrote.

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use memmap2::{Advice, MmapMut, MmapRaw};
use zerocopy::{FromBytes, IntoBytes};

/// Every array starts on a cache line.
const ALIGNMENT: usize = 64;

/// Bytes that an array of `len` elements takes, padded to a cache line.
pub(super) const fn span<T>(len: usize) -> usize {
    (len * size_of::<T>()).next_multiple_of(ALIGNMENT)
}

/// A zero-filled mapping that is divided from front to back.
pub(super) struct Mapping {
    memory: Arc<MmapRaw>,
    /// Bytes handed out so far, a multiple of [`ALIGNMENT`].
    taken: usize,
}

impl Mapping {
    /// Maps `bytes` of zeros. Requests huge pages for the first `huge` of them; works without.
    pub(super) fn new(bytes: usize, huge: usize) -> io::Result<Self> {
        let memory = MmapMut::map_anon(bytes)?;
        // A kernel without huge pages refuses the advice; small pages work as well, only slower.
        drop(memory.advise_range(Advice::HugePage, 0, huge));
        Ok(Self {
            memory: Arc::new(memory.into()),
            taken: 0,
        })
    }

    /// The next `len` elements.
    ///
    /// # Panics
    /// If the mapping is too short: its length is the sum of the [`span`]s of its arrays.
    pub(super) fn carve<T: FromBytes + IntoBytes>(&mut self, len: usize) -> Region<T> {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        let offset = self.taken;
        let end = offset + span::<T>(len);
        assert!(
            end <= self.memory.len(),
            "the mapping has room for all its arrays"
        );
        self.taken = end;
        // SAFETY: `offset` is within the mapping, by the assertion.
        let start = unsafe { self.memory.as_mut_ptr().add(offset) };
        Region {
            start: NonNull::new(start.cast()).expect("a mapping is not at address 0"),
            len,
            _memory: Arc::clone(&self.memory),
            _elements: PhantomData,
        }
    }
}

/// An array in a mapping, which it keeps alive. Owns its elements as a `Box<[T]>` would.
pub(super) struct Region<T> {
    start: NonNull<T>,
    len: usize,
    _memory: Arc<MmapRaw>,
    _elements: PhantomData<T>,
}

// SAFETY: a region is the only way to its elements (`Mapping::carve` gives out each byte once), so
// it may go to another thread where they may.
unsafe impl<T: Send> Send for Region<T> {}

impl<T> Deref for Region<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is aligned (mappings start on a page, arrays on a cache line), `len`
        // elements from there are mapped as long as `_memory` lives, any bytes are a `T`
        // (`FromBytes` in `carve`), and no other region covers them, so `&self` guards them.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> Region<T> {
    /// Prefetches an element for an access some 100 ns from now. Does nothing on processors other than
    /// x86, or if the element does not exist.
    #[inline]
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_variables, reason = "it does nothing there")
    )]
    pub(super) fn prefetch(&self, index: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(element) = self.get(index) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: SSE is part of x86_64, and a prefetch changes nothing that a program can see.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(element).cast()) };
        }
    }
}

impl<T> DerefMut for Region<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` is the only access to the elements.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_zero_aligned_and_do_not_overlap() {
        let mut mapping = Mapping::new(span::<u8>(3) + span::<u64>(9), 0).unwrap();
        let mut first = mapping.carve::<u8>(3);
        let mut second = mapping.carve::<u64>(9);
        drop(mapping);
        assert_eq!(
            (first.as_ptr() as usize % 64, second.as_ptr() as usize % 64),
            (0, 0)
        );
        first.fill(0xff);
        assert!(second.iter().all(|&word| word == 0));
        second.fill(7);
        assert!(first.iter().all(|&byte| byte == 0xff));
    }

    #[test]
    #[should_panic(expected = "room for all its arrays")]
    fn an_array_beyond_the_end_is_refused() {
        Mapping::new(64, 0).unwrap().carve::<u64>(9);
    }
}
