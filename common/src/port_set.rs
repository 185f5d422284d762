//! A set of TCP and UDP port numbers.

use std::fmt;
use std::ops::RangeInclusive;

/// Ports as a bitmap of 8 KiB: one load and one test for each question.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet {
    words: Box<[u64; Self::WORDS]>,
}

impl PortSet {
    /// Words of the bitmap: bit `port % 64` of word `port / 64` stands for a port.
    pub const WORDS: usize = 1024;

    /// Whether `port` is in the set.
    #[inline(always)]
    pub fn contains(&self, port: u16) -> bool {
        self.words[usize::from(port / 64)] >> (port % 64) & 1 != 0
    }

    /// Adds `port`.
    pub fn insert(&mut self, port: u16) {
        self.words[usize::from(port / 64)] |= 1 << (port % 64);
    }

    /// Adds all ports of `range`.
    pub fn insert_range(&mut self, range: RangeInclusive<u16>) {
        let (first, last) = (*range.start(), *range.end());
        if first > last {
            return;
        }
        let (from, to) = (usize::from(first / 64), usize::from(last / 64));
        for (at, word) in (from..).zip(&mut self.words[from..=to]) {
            let mut bits = u64::MAX;
            if at == from {
                bits &= u64::MAX << (first % 64);
            }
            if at == to {
                bits &= u64::MAX >> (63 - last % 64);
            }
            *word |= bits;
        }
    }

    /// Takes `port` out.
    pub fn remove(&mut self, port: u16) {
        self.words[usize::from(port / 64)] &= !(1 << (port % 64));
    }

    /// Takes all ports of `other` out.
    pub fn remove_all(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(other.words.iter()) {
            *word &= !other;
        }
    }

    /// Adds all ports of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(other.words.iter()) {
            *word |= other;
        }
    }

    /// Whether all ports are in `other` too.
    pub fn is_subset(&self, other: &Self) -> bool {
        let mut words = self.words.iter().zip(other.words.iter());
        words.all(|(word, other)| word & !other == 0)
    }

    /// Number of ports.
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there is no port.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The bitmap, for the steer program.
    pub const fn words(&self) -> &[u64; Self::WORDS] {
        &self.words
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self {
            words: Box::new([0; Self::WORDS]),
        }
    }
}

impl From<RangeInclusive<u16>> for PortSet {
    fn from(range: RangeInclusive<u16>) -> Self {
        let mut set = Self::default();
        set.insert_range(range);
        set
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortSet").field("len", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_ports_that_were_put_in() {
        let mut set = PortSet::from(65_530..=65_535);
        set.insert_range(63..=64);
        set.insert(0);
        assert_eq!(set.len(), 9);
        for (first, last) in [
            (0, 65_535),
            (5, 5),
            (64, 127),
            (63, 128),
            (100, 1000),
            (65_535, 65_535),
        ] {
            let range = PortSet::from(first..=last);
            assert!((0..=u16::MAX).all(|port| range.contains(port) == (first..=last).contains(&port)));
        }
        #[expect(clippy::reversed_empty_ranges, reason = "a range without ports")]
        let none = PortSet::from(6..=5);
        assert!(none.is_empty());
        for port in 0..=u16::MAX {
            let is_in = matches!(port, 0 | 63 | 64 | 65_530..);
            assert_eq!(set.contains(port), is_in, "{port}");
        }
        set.remove(64);
        assert!(!set.contains(64) && set.contains(63));
        let mut less = set.clone();
        less.remove_all(&PortSet::from(1..=65_534));
        assert!(less.is_subset(&set) && !set.is_subset(&less) && less.len() == 2);
        less.insert_all(&set);
        assert_eq!(less, set);
        less.remove_all(&set);
        assert!(less.is_empty());
    }
}
