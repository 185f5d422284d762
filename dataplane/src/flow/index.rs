//! The index: from a key's hash to its flow, in one cache line most of the time.
//!
//! A hash table of cache-line buckets with linear probing from bucket to bucket. Each bucket counts
//! the keys that found it full and moved on, so a search ends at the first bucket with a count of
//! zero, and removal needs no tombstones. Any number of buckets is possible, so memory fits the
//! capacity.

use wide::u16x8;
use zerocopy::{FromBytes, IntoBytes};

use super::mapping::Region;

/// Slots of a bucket.
const SLOTS: usize = 10;
/// In a slot: the key is a reply key. The other bits are the flow's number.
const REPLY: u32 = 1 << 31;
/// Flows at most in one table.
pub(super) const MAX_FLOWS: u32 = REPLY - 1;

/// Which of a flow's two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Reply,
}

/// The keyed hash of a key. The upper half chooses the bucket, the lowest bits are the tag.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(pub(super) u64);

impl Hash {
    /// The part of the hash that a bucket stores. 0 marks a free slot, so two values share a tag.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the tag is the low bits")]
    const fn tag(self) -> u16 {
        let tag = self.0 as u16;
        if tag == 0 { 1 } else { tag }
    }
}

/// One cache line of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    tags: [u16; SLOTS],
    /// Keys that passed this bucket because it was full.
    passed: u32,
    slots: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);
const _: () = assert!(std::mem::offset_of!(Bucket, slots) == 24);

impl Bucket {
    /// The slots that have this tag.
    #[inline(always)]
    fn tagged(&self, tag: u16) -> Tagged {
        let [a, b, c, d, e, f, g, h, i, j] = self.tags;
        let first = u16x8::new([a, b, c, d, e, f, g, h]).simd_eq(u16x8::splat(tag));
        Tagged(first.to_bitmask() | u32::from(i == tag) << 8 | u32::from(j == tag) << 9)
    }

    /// The flow of the first slot that has this tag.
    #[inline(always)]
    fn guess(&self, tag: u16) -> Option<u32> {
        let [a, b, c, d, e, f, g, h, i, j] = self.tags;
        let first = u16x8::new([a, b, c, d, e, f, g, h]).simd_eq(u16x8::splat(tag));
        let slot = match first.to_bitmask() {
            0 if i == tag => 8,
            0 if j == tag => 9,
            0 => return None,
            mask => mask.trailing_zeros() as usize,
        };
        Some(self.slots[slot] & !REPLY)
    }
}

/// A set of slots, one bit each.
#[derive(Debug, Clone, Copy)]
struct Tagged(u32);

impl Iterator for Tagged {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let slot = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(slot)
    }
}

/// The index of a flow table.
pub(super) struct Index {
    buckets: Region<Bucket>,
}

impl Index {
    /// Buckets for `flows` flows: 8.4 of the 10 slots are in use when all flows exist.
    pub(super) const fn buckets_for(flows: u32) -> u32 {
        flows.div_ceil(21) * 5
    }

    /// An index over zeroed memory is empty.
    pub(super) const fn new(buckets: Region<Bucket>) -> Self {
        Self { buckets }
    }

    /// The first flow under `hash` that `matches` accepts.
    #[inline]
    pub(super) fn find(&self, kind: Kind, hash: Hash, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = hash.tag();
        let mut at = self.home(hash) as usize;
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[at];
            for slot in bucket.tagged(tag) {
                let value = bucket.slots[slot];
                let flow = value & !REPLY;
                if value == slot_value(kind, flow) && matches(flow) {
                    return Some(flow);
                }
            }
            if bucket.passed == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Prefetches a bucket.
    #[inline]
    pub(super) fn prefetch(&self, bucket: u32) {
        self.buckets.prefetch(bucket as usize);
    }

    /// The first flow with the tag of `hash` in its bucket `home`: most likely the right one.
    #[inline]
    pub(super) fn guess(&self, home: u32, hash: Hash) -> Option<u32> {
        self.buckets[home as usize].guess(hash.tag())
    }

    /// The same in the bucket behind `home`, where most keys are that found that full: one in ten of a full table's.
    #[inline(never)] // In the code of all packets it would cost these as much as it spares the others.
    pub(super) fn guess_behind(&self, home: u32, hash: Hash) -> Option<u32> {
        self.buckets[self.after(home as usize)].guess(hash.tag())
    }

    /// Whether no key under `hash`, whose search starts at `home`, is in the index: found out with one bucket. False says
    /// nothing.
    #[inline(always)]
    pub(super) fn lacks(&self, home: u32, hash: Hash) -> bool {
        let bucket = &self.buckets[home as usize];
        bucket.passed == 0 && bucket.tagged(hash.tag()).0 == 0
    }

    /// Whether all keys whose search starts at `bucket` are in it.
    #[inline]
    pub(super) fn ends_at(&self, bucket: u32) -> bool {
        self.buckets[bucket as usize].passed == 0
    }

    /// Adds a key, which must be new. There is room for both keys of as many flows as the index was
    /// made for.
    pub(super) fn insert(&mut self, kind: Kind, hash: Hash, flow: u32) {
        let mut at = self.home(hash) as usize;
        for _ in 0..self.buckets.len() {
            let bucket = &mut self.buckets[at];
            if let Some(free) = bucket.tagged(0).next() {
                bucket.tags[free] = hash.tag();
                bucket.slots[free] = slot_value(kind, flow);
                return;
            }
            bucket.passed += 1;
            at = self.after(at);
        }
        unreachable!("the index has more slots than the pool's flows have keys");
    }

    /// Removes a key that was added with the same arguments.
    pub(super) fn remove(&mut self, kind: Kind, hash: Hash, flow: u32) {
        let (tag, value) = (hash.tag(), slot_value(kind, flow));
        let mut at = self.home(hash) as usize;
        for _ in 0..self.buckets.len() {
            let bucket = &mut self.buckets[at];
            let found = (0..SLOTS).find(|&slot| bucket.tags[slot] == tag && bucket.slots[slot] == value);
            if let Some(slot) = found {
                bucket.tags[slot] = 0;
                bucket.slots[slot] = 0;
                return;
            }
            bucket.passed -= 1;
            at = self.after(at);
        }
        unreachable!("a live flow has both its keys in the index");
    }

    /// Whether the index is as after its creation.
    #[cfg(test)]
    pub(super) fn is_pristine(&self) -> bool {
        use zerocopy::FromZeros;
        self.buckets.iter().all(|bucket| *bucket == Bucket::new_zeroed())
    }

    /// Share of keys that are not in the bucket where their search starts.
    #[cfg(test)]
    pub(super) fn displaced(&self, hashes: impl Iterator<Item = (Kind, Hash, u32)>) -> f64 {
        let (mut displaced, mut keys) = (0, 0);
        for (kind, hash, flow) in hashes {
            let home = &self.buckets[self.home(hash) as usize];
            displaced += u32::from(!home.slots.contains(&slot_value(kind, flow)));
            keys += 1;
        }
        f64::from(displaced) / f64::from(keys)
    }

    /// Where the search for a key starts: the hash's upper half, scaled to the number of buckets.
    #[inline]
    pub(super) fn home(&self, hash: Hash) -> u32 {
        (((hash.0 >> 32) * self.buckets.len() as u64) >> 32) as u32
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() { 0 } else { at + 1 }
    }
}

#[inline]
const fn slot_value(kind: Kind, flow: u32) -> u32 {
    match kind {
        Kind::Request => flow,
        Kind::Reply => flow | REPLY,
    }
}
