//! The words of the shared arrays, as `bpf/fastpath_maps.h` defines them.

use crate::flow::Direction;

/// `struct vl3lb_fast_flow`.
pub(super) const RECORD_BYTES: usize = 256;
/// `struct vl3lb_fast_bucket`.
pub(super) const BUCKET_BYTES: usize = 64;
/// `struct vl3lb_fast_round`.
pub(super) const ROUND_BYTES: usize = 64;

pub(super) const RECORD_WORDS: usize = RECORD_BYTES / 8;
pub(super) const BUCKET_WORDS: usize = BUCKET_BYTES / 8;
pub(super) const ROUND_WORDS: usize = ROUND_BYTES / 8;

/// The words of a record.
pub(super) const CLIENT: usize = 0;
pub(super) const LOCAL: usize = 2;
pub(super) const BACKEND: usize = 4;
pub(super) const PORTS: usize = 6;
pub(super) const PROTOCOL: usize = 7;
pub(super) const HOPS: usize = 8;
pub(super) const MTUS: usize = 10;
pub(super) const WINDOWS: usize = 11;
pub(super) const DELTAS: usize = 12;
pub(super) const PATHS: usize = 13;
/// The words of a side, from [`side`] on.
pub(super) const PACKETS: usize = 0;
pub(super) const BYTES: usize = 1;
pub(super) const USED: usize = 2;
pub(super) const NUMBERS: usize = 3;

/// The first word of what the program counts in a direction.
pub(super) const fn side(direction: Direction) -> usize {
    16 + 8 * direction as usize
}

/// A word with these bytes in memory.
pub(super) const fn word(bytes: [u8; 8]) -> u64 {
    u64::from_ne_bytes(bytes)
}

/// Two words with these bytes in memory.
pub(super) fn words(bytes: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    [word([a, b, c, d, e, f, g, h]), word(rest)]
}

/// Two numbers in the order in which they are in memory.
pub(super) const fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    word([a, b, c, d, e, f, g, h])
}

/// The reverse of [`pair`].
pub(super) const fn unpaired(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

/// An index word: `record` and `direction` under `hash`, of which the bucket does not depend on this half.
#[expect(clippy::cast_possible_truncation, reason = "the lower half of the hash")]
pub(super) const fn index_word(hash: u64, record: u32, direction: Direction) -> u64 {
    (hash as u32 as u64) << 32 | (record as u64 + 1) << 1 | direction as u64
}

/// Records at most, so that number and direction fit half a word.
pub(super) const MAX_RECORDS: u32 = 1 << 30;
