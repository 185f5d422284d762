//! Sources that have proven to be where their packets say: they have completed a TCP handshake, which takes the
//! backend's sequence number (RFC 9293 section 3.10.7.4). A sender with forged sources never sees it.

use std::hash::{BuildHasher, RandomState};

use vl3lb_common::{Duration, Timestamp};

use crate::shed::subscriber;

/// Sets of the table, and sources in each: 65,536 sources in 512 KB.
const SETS: usize = 1 << 13;
const WAYS: usize = 8;
/// A proof is good for this long after the last handshake.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);

/// The proven sources that a worker knows: addresses, of IPv6 the first 64 bits, which are one subscriber's.
///
/// The set is bounded, and the oldest proof makes room. The hash is keyed: nobody can choose whom to push out, or pass
/// for somebody else.
pub(super) struct ProvenSources {
    sets: Box<[[Proof; WAYS]]>,
    hasher: RandomState,
}

/// A source, by part of its hash, and when it was proven. The default is none.
#[derive(Debug, Clone, Copy, Default)]
struct Proof {
    tag: u32,
    /// In seconds; 0 for none.
    second: u32,
}

impl std::fmt::Debug for ProvenSources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProvenSources").finish_non_exhaustive()
    }
}

impl Default for ProvenSources {
    fn default() -> Self {
        Self {
            sets: vec![[Proof::default(); WAYS]; SETS].into(),
            hasher: RandomState::new(),
        }
    }
}

impl ProvenSources {
    /// Notes a completed handshake of `source`.
    pub(super) fn prove(&mut self, source: &[u8; 16], now: Timestamp) {
        let (set, tag) = self.place(source);
        let set = &mut self.sets[set];
        let known = set.iter().position(|proof| proof.tag == tag);
        let oldest = || (0..WAYS).min_by_key(|&way| set[way].second).unwrap_or(0);
        let way = known.unwrap_or_else(oldest);
        set[way] = Proof {
            tag,
            second: second(now),
        };
    }

    /// Whether `source` has completed a handshake lately.
    pub(super) fn knows(&self, source: &[u8; 16], now: Timestamp) -> bool {
        let (set, tag) = self.place(source);
        let since = |proof: &Proof| u64::from(second(now).saturating_sub(proof.second));
        self.sets[set]
            .iter()
            .any(|proof| proof.tag == tag && proof.second > 0 && since(proof) <= LIFETIME.as_secs())
    }

    fn place(&self, source: &[u8; 16]) -> (usize, u32) {
        let hash = self.hasher.hash_one(subscriber(source));
        let [high, low] = [hash >> 32, hash & 0xffff_ffff].map(|half| u32::try_from(half).unwrap_or(0));
        (high as usize % SETS, low)
    }
}

/// Seconds since the workers' clock began, and one.
fn second(now: Timestamp) -> u32 {
    u32::try_from(now.0 / 1_000_000_000).unwrap_or(u32::MAX - 1) + 1
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use vl3lb_common::addr::to_octets;

    use super::*;

    fn source(text: &str) -> [u8; 16] {
        to_octets(text.parse::<IpAddr>().unwrap())
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000_000)
    }

    #[test]
    fn a_proof_ends_ten_minutes_after_the_last_handshake() {
        let mut proven = ProvenSources::default();
        let [one, other] = ["172.16.1.100", "172.16.1.101"].map(source);
        assert!(!proven.knows(&one, at(0)));
        proven.prove(&one, at(0));
        proven.prove(&one, at(500));
        assert!(proven.knows(&one, at(1_100)));
        assert!(!proven.knows(&one, at(1_101)));
        assert!(!proven.knows(&other, at(500)));
    }

    #[test]
    fn an_ipv6_subscriber_is_one_source() {
        let mut proven = ProvenSources::default();
        proven.prove(&source("2001:db8::1"), at(1));
        assert!(proven.knows(&source("2001:db8::ffff:2"), at(1)));
        assert!(!proven.knows(&source("2001:db8:0:1::1"), at(1)));
    }

    #[test]
    fn the_newest_proofs_are_kept() {
        let mut proven = ProvenSources::default();
        let number = |n: u32| to_octets(IpAddr::from(n.to_be_bytes()));
        for n in 0..200_000 {
            proven.prove(&number(n), at(u64::from(n / 1_000)));
        }
        let known =
            |range: std::ops::Range<u32>| range.filter(|&n| proven.knows(&number(n), at(200))).count();
        assert!(known(190_000..200_000) >= 9_990);
        // 13 sources in the mean came to a set of 8 since the first ones.
        assert!(known(0..10_000) < 1_000);
    }
}
