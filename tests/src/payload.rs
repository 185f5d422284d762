//! Bulk data for transfers: no two blocks are equal, so a lost, duplicated or reordered segment changes the hash.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

const BLOCK: usize = 64 * 1024;

/// Writes the first `length` bytes of the data.
pub fn write(to: &mut impl Write, length: u64) -> io::Result<()> {
    let mut block = first_block();
    let mut left = length;
    let mut index = 0_u64;
    while left > 0 {
        block[..8].copy_from_slice(&index.to_be_bytes());
        let part = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        to.write_all(&block[..part])?;
        left -= part as u64;
        index += 1;
    }
    Ok(())
}

/// The SHA-256 of the first `length` bytes of the data, in hexadecimal.
pub fn sha256(length: u64) -> String {
    let mut hash = Hasher::default();
    write(&mut hash, length).expect("hashing does not fail");
    hash.hex()
}

/// Reads `from` to its end, or to `limit` bytes, and returns length and SHA-256.
pub fn hash(from: &mut impl Read, limit: u64) -> io::Result<(u64, String)> {
    let mut hash = Hasher::default();
    let mut block = vec![0; BLOCK];
    let mut length = 0;
    let mut from = from.take(limit);
    loop {
        match from.read(&mut block)? {
            0 => return Ok((length, hash.hex())),
            read => {
                hash.write_all(&block[..read])?;
                length += read as u64;
            }
        }
    }
}

#[derive(Default)]
struct Hasher(Sha256);

impl Hasher {
    fn hex(self) -> String {
        self.0
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Random bytes: compression or repetition on the way would be noticed.
fn first_block() -> Vec<u8> {
    let mut random = Random::new(0x764c_334c);
    (0..BLOCK / 8).flat_map(|_| random.bits().to_be_bytes()).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough for test data.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
    pub const fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_data_has_the_computed_hash() {
        for length in [0, 1, BLOCK as u64, 3 * BLOCK as u64 + 17] {
            let mut data = Vec::new();
            write(&mut data, length).unwrap();
            assert_eq!(data.len() as u64, length);
            assert_eq!(
                hash(&mut data.as_slice(), u64::MAX).unwrap(),
                (length, sha256(length))
            );
        }
    }

    #[test]
    fn swapped_blocks_change_the_hash() {
        let mut data = Vec::new();
        write(&mut data, 2 * BLOCK as u64).unwrap();
        data.rotate_left(BLOCK);
        assert_ne!(
            hash(&mut data.as_slice(), u64::MAX).unwrap().1,
            sha256(2 * BLOCK as u64)
        );
    }
}
