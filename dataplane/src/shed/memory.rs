//! The arrays that workers and program share, in the layout of bpf/shed.h.

use std::io;
use std::os::fd::BorrowedFd;
use vl3lb_common::sync::atomic::AtomicU64;
use vl3lb_common::sync::atomic::Ordering::{Acquire, Relaxed, Release};

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
pub(super) const STRAY_LIMIT: usize = 5;
pub(super) const NOTED: usize = 6;
pub(super) const SAMPLING: usize = 7;
pub(crate) const ADMITTED: usize = 8;
pub(super) const REPEATS: usize = 9;
pub(crate) const DROPPED: usize = 10;
pub(super) const STRAYS: usize = 11;
pub(super) const SAMPLED: usize = 12;

/// `struct vl3lb_shed_set`: 65,536 hashes in 512 KB.
const SETS: usize = 8192;
const WAYS: usize = 8;

/// `struct vl3lb_shed_flows`: 8,388,608 bytes, in words of 64 bits.
const FLOW_SETS: usize = 131_072;
const FLOW_WORDS: usize = 8;

/// `struct vl3lb_shed_sample`, in words of 64 bits: its state, the lengths, and bytes.
const SAMPLE_WORDS: usize = 32;
const SAMPLE_HEAD: usize = 2;
/// Of each worker.
pub(crate) const SAMPLES: usize = 16;
const FREE: u64 = 0;
const FULL: u64 = 2;
/// Bytes that are copied of a packet at most.
pub(crate) const SAMPLE_BYTES: usize = (SAMPLE_WORDS - SAMPLE_HEAD) * 8;

/// `struct vl3lb_shed_syns`, which the kernel aligns to 8 bytes, in an array that no worker maps.
const SYN_SETS: usize = 65_536;
const SYN_SET_BYTES: usize = (16 * 4 + 4_usize).next_multiple_of(8);

/// The control side states the right size of the memory.
const _: () = {
    let samples = WORKERS * SAMPLES * SAMPLE_WORDS;
    let words = WORKERS * WORKER_WORDS + SETS * WAYS + FLOW_SETS * FLOW_WORDS + samples;
    let bytes = words * 8 + SYN_SETS * SYN_SET_BYTES;
    assert!(bytes as u64 == vl3lb_common::dataplane::SHED_BYTES);
};

/// A packet that the program has dropped, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) length: usize,
    /// How many of them were copied.
    pub(crate) copied: usize,
}

/// The shared arrays of one attachment, for all workers.
pub struct ShedMemory {
    workers: Words,
    sources: Words,
    flows: Words,
    samples: Words,
    /// Packets that the kernel has lost in front of the workers.
    lost: AtomicU64,
    /// Workers that shed load.
    shedding: AtomicU64,
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
        samples: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Ok(Self {
            workers: Words::of_map(workers, WORKERS * WORKER_WORDS)?,
            sources: Words::of_map(sources, SETS * WAYS)?,
            flows: Words::of_map(flows, FLOW_SETS * FLOW_WORDS)?,
            samples: Words::of_map(samples, WORKERS * SAMPLES * SAMPLE_WORDS)?,
            lost: AtomicU64::new(0),
            shedding: AtomicU64::new(0),
        })
    }

    /// Arrays that no program reads.
    #[cfg(test)]
    pub(crate) fn anonymous() -> io::Result<Self> {
        Ok(Self {
            workers: Words::anonymous(WORKERS * WORKER_WORDS)?,
            sources: Words::anonymous(SETS * WAYS)?,
            flows: Words::anonymous(FLOW_SETS * FLOW_WORDS)?,
            samples: Words::anonymous(WORKERS * SAMPLES * SAMPLE_WORDS)?,
            lost: AtomicU64::new(0),
            shedding: AtomicU64::new(0),
        })
    }

    /// The words of a worker; `None` if there are too many workers.
    pub(crate) fn worker(&self, worker: u16) -> Option<&[AtomicU64; WORKER_WORDS]> {
        self.workers
            .get(usize::from(worker) * WORKER_WORDS..)?
            .first_chunk()
    }

    /// Copies a dropped packet out of one of a worker's places, if it is full, and frees it.
    pub(super) fn take_sample(
        &self,
        worker: u16,
        number: usize,
        bytes: &mut [u8; SAMPLE_BYTES],
    ) -> Option<Sample> {
        let start = (usize::from(worker) * SAMPLES + number) * SAMPLE_WORDS;
        let words = self.samples.get(start..start + SAMPLE_WORDS)?;
        if words[0].load(Acquire) != FULL {
            return None;
        }
        let lengths = words[1].load(Relaxed).to_ne_bytes();
        let (length, copied) = lengths.split_at(4);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_ne_bytes) as usize;
        let sample = Sample {
            length: number(length),
            copied: number(copied).min(SAMPLE_BYTES),
        };
        for (to, word) in bytes.chunks_exact_mut(8).zip(&words[SAMPLE_HEAD..]) {
            to.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        words[0].store(FREE, Release);
        Some(sample)
    }

    /// Whether a worker asks the program for copies.
    #[cfg(test)]
    pub(crate) fn is_sampling(&self, worker: u16) -> bool {
        self.worker(worker)
            .is_some_and(|words| words[SAMPLING].load(Relaxed) == 1)
    }

    /// Does what the program does with a packet that it drops.
    #[cfg(test)]
    pub(crate) fn put_sample(&self, worker: u16, number: usize, packet: &[u8]) {
        let start = (usize::from(worker) * SAMPLES + number) * SAMPLE_WORDS;
        let words = &self.samples[start..start + SAMPLE_WORDS];
        assert_eq!(words[0].load(Relaxed), FREE, "the place is free");
        let copied = packet.len().min(SAMPLE_BYTES);
        let mut lengths = [0; 8];
        lengths[..4].copy_from_slice(&u32::try_from(packet.len()).unwrap().to_ne_bytes());
        lengths[4..].copy_from_slice(&u32::try_from(copied).unwrap().to_ne_bytes());
        words[1].store(u64::from_ne_bytes(lengths), Relaxed);
        for (bytes, word) in packet[..copied].chunks(8).zip(&words[SAMPLE_HEAD..]) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Relaxed);
        }
        words[0].store(FULL, Release);
    }

    /// Notes a proof; the oldest of its set makes room. Two workers at once may lose one of theirs.
    pub(super) fn note_source(&self, hash: u64, second: u32) {
        let set = set(&self.sources, hash);
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

    /// Notes a flow in its byte of a word, whose other bytes other workers may write at the same time.
    pub(super) fn note_flow(&self, hash: u64, noted: u8) {
        let (word, shift) = self.flow_byte(hash);
        let with = |word: u64| word & !(0xff << shift) | u64::from(noted) << shift;
        let mut before = word.load(Relaxed);
        while with(before) != before {
            match word.compare_exchange_weak(before, with(before), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(changed) => before = changed,
            }
        }
    }

    fn flow_byte(&self, hash: u64) -> (&AtomicU64, u64) {
        let set = (hash >> 32) as usize % FLOW_SETS;
        let word = (hash >> 3) as usize % FLOW_WORDS;
        (&self.flows[set * FLOW_WORDS + word], hash % 8 * 8)
    }

    pub(super) fn knows_source(&self, hash: u64, since: u32) -> bool {
        let is = |word: u64| word >> 32 == tag(hash) && word & u64::from(u32::MAX) >= since.into();
        set(&self.sources, hash).iter().any(|word| is(word.load(Relaxed)))
    }

    /// When a flow with this hash was noted; 0 for never.
    #[cfg(test)]
    pub(super) fn noted(&self, hash: u64) -> u8 {
        let (word, shift) = self.flow_byte(hash);
        (word.load(Relaxed) >> shift).to_le_bytes()[0]
    }

    /// Says of one more worker that it sheds load, or of one less.
    pub(super) fn count_shedding(&self, sheds: bool) {
        if sheds {
            self.shedding.fetch_add(1, Relaxed);
        } else {
            self.shedding.fetch_sub(1, Relaxed);
        }
    }

    /// Whether any worker sheds load.
    pub(super) fn is_shedding(&self) -> bool {
        self.shedding.load(Relaxed) > 0
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

fn set(words: &Words, hash: u64) -> &[AtomicU64] {
    let start = (hash >> 32) as usize % SETS * WAYS;
    &words[start..start + WAYS]
}

const fn tag(hash: u64) -> u64 {
    hash & 0xffff_ffff
}
