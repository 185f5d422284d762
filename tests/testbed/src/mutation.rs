//! Changes of valid inputs for fuzz targets.
//!
//! Arbitrary bytes die at the first check. A valid input with few changes gets past it and reaches the code behind.

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

/// Bytes at which grammars, lengths and text encodings turn.
const BYTES: [u8; 32] = [
    0, 1, 2, 7, 9, 10, 13, 0x1b, b' ', b'!', b'"', b'#', b'%', b'&', b'\'', b'*', b',', b'-', b'.', b'/',
    b'0', b':', b'=', b'[', b'{', b'~', 0x7f, 0x80, 0xc0, 0xef, 0xfe, 0xff,
];
/// Bytes that one change copies or removes at most.
const PIECE: usize = 32;

/// Changes `bytes` at one place: a byte becomes another one, a bit is flipped, a piece is removed, doubled or moved, or
/// the end is cut.
pub fn change_bytes(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        bytes.push(byte(rng));
        return;
    }
    let at = rng.random_range(0..bytes.len());
    let end = (at + rng.random_range(1..=PIECE)).min(bytes.len());
    match rng.random_range(0..8) {
        0 | 1 => bytes[at] = byte(rng),
        2 => bytes[at] ^= 1 << rng.random_range(0..8),
        3 => bytes.insert(at, byte(rng)),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let piece = bytes[at..end].to_vec();
            let to = rng.random_range(0..=bytes.len());
            bytes.splice(to..to, piece);
        }
        6 => {
            let piece: Vec<u8> = bytes.drain(at..end).collect();
            let to = rng.random_range(0..=bytes.len());
            bytes.splice(to..to, piece);
        }
        _ => bytes.truncate(at),
    }
}

/// As [`change_bytes`], and text again: what is no UTF-8 becomes U+FFFD.
pub fn change_text(rng: &mut StdRng, text: &mut String) {
    let mut bytes = std::mem::take(text).into_bytes();
    change_bytes(rng, &mut bytes);
    *text = String::from_utf8_lossy(&bytes).into_owned();
}

fn byte(rng: &mut StdRng) -> u8 {
    if rng.random() {
        BYTES[rng.random_range(0..BYTES.len())]
    } else {
        rng.next_u32().to_le_bytes()[0]
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn most_changes_change_and_a_seed_repeats_them() {
        let changed = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut bytes = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec();
            change_bytes(&mut rng, &mut bytes);
            bytes
        };
        let all: std::collections::HashSet<_> = (0..200).map(changed).collect();
        assert!(all.len() > 150, "{}", all.len());
        assert_eq!(changed(7), changed(7));
    }
}
