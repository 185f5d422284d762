//! The arrays that workers and program share, in the layout of bpf/shed.h.

use std::io;
use std::os::fd::BorrowedFd;
use vl3lb_common::sync::atomic::AtomicU64;
use vl3lb_common::sync::atomic::Ordering::Relaxed;

use crate::fastpath::Words;

/// Workers that can shed load in the program; others do it alone.
const WORKERS: usize = 256;
/// `struct vl3lb_shed_worker`, in words of 64 bits.
const WORKER_WORDS: usize = 16;
pub(crate) const ACTIVE: usize = 0;
pub(super) const SECOND: usize = 1;
pub(super) const STEP: usize = 2;
pub(crate) const LIMIT: usize = 3;
pub(super) const REPEAT_LIMIT: usize = 4;
pub(crate) const ADMITTED: usize = 8;
pub(super) const REPEATS: usize = 9;
pub(crate) const DROPPED: usize = 10;

/// `struct vl3lb_shed_set`: 65,536 hashes in 512 KB.
const SETS: usize = 8192;
const WAYS: usize = 8;

/// `struct vl3lb_shed_syns`, which the kernel aligns to 8 bytes, in an array that no worker maps.
const SYN_SETS: usize = 65_536;
const SYN_SET_BYTES: usize = (16 * 4 + 4_usize).next_multiple_of(8);

/// The control side states the right size of the memory.
const _: () = {
    let bytes = (WORKERS * WORKER_WORDS + 2 * SETS * WAYS) * 8 + SYN_SETS * SYN_SET_BYTES;
    assert!(bytes as u64 == vl3lb_common::dataplane::SHED_BYTES);
};

/// The shared arrays of one attachment, for all workers.
pub struct ShedMemory {
    workers: Words,
    sources: Words,
    flows: Words,
    /// Packets that the kernel has lost in front of the workers.
    lost: AtomicU64,
}

impl std::fmt::Debug for ShedMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShedMemory").finish_non_exhaustive()
    }
}

impl ShedMemory {
    /// Maps the program's arrays.
    ///
    /// # Errors
    /// The kernel cannot map them.
    pub(crate) fn map(
        workers: BorrowedFd<'_>,
        sources: BorrowedFd<'_>,
        flows: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Ok(Self {
            workers: Words::of_map(workers, WORKERS * WORKER_WORDS)?,
            sources: Words::of_map(sources, SETS * WAYS)?,
            flows: Words::of_map(flows, SETS * WAYS)?,
            lost: AtomicU64::new(0),
        })
    }

    /// Arrays that no program reads.
    #[cfg(test)]
    pub(crate) fn anonymous() -> io::Result<Self> {
        Ok(Self {
            workers: Words::anonymous(WORKERS * WORKER_WORDS)?,
            sources: Words::anonymous(SETS * WAYS)?,
            flows: Words::anonymous(SETS * WAYS)?,
            lost: AtomicU64::new(0),
        })
    }

    /// The words of a worker; `None` if there are too many workers.
    pub(crate) fn worker(&self, worker: u16) -> Option<&[AtomicU64; WORKER_WORDS]> {
        self.workers
            .get(usize::from(worker) * WORKER_WORDS..)?
            .first_chunk()
    }

    pub(super) fn note_source(&self, hash: u64, second: u32) {
        note(&self.sources, hash, second);
    }

    pub(super) fn note_flow(&self, hash: u64, second: u32) {
        note(&self.flows, hash, second);
    }

    pub(super) fn knows_source(&self, hash: u64, since: u32) -> bool {
        let is = |word: u64| word >> 32 == tag(hash) && word & u64::from(u32::MAX) >= since.into();
        set(&self.sources, hash).iter().any(|word| is(word.load(Relaxed)))
    }

    #[cfg(test)]
    pub(super) fn knows_flow(&self, hash: u64) -> bool {
        let is = |word: u64| word != 0 && word >> 32 == tag(hash);
        set(&self.flows, hash).iter().any(|word| is(word.load(Relaxed)))
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Returns the sum of all.
    pub(super) fn add_lost(&self, lost: u64) -> u64 {
        // A locked instruction only where something was lost.
        if lost == 0 {
            return self.lost();
        }
        self.lost.fetch_add(lost, Relaxed) + lost
    }
}

/// Writes a hash into its set; the oldest makes room. Two workers at once may lose one of theirs.
fn note(words: &Words, hash: u64, second: u32) {
    let set = set(words, hash);
    let known = |word: &&AtomicU64| {
        let word = word.load(Relaxed);
        word != 0 && word >> 32 == tag(hash)
    };
    let age = |word: &&AtomicU64| word.load(Relaxed) & u64::from(u32::MAX);
    let place = set.iter().find(known).or_else(|| set.iter().min_by_key(age));
    if let Some(place) = place {
        place.store(tag(hash) << 32 | u64::from(second), Relaxed);
    }
}

fn set(words: &Words, hash: u64) -> &[AtomicU64] {
    let start = (hash >> 32) as usize % SETS * WAYS;
    &words[start..start + WAYS]
}

const fn tag(hash: u64) -> u64 {
    hash & 0xffff_ffff
}
