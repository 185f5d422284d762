//! Which flows must resolve their next hop anew.

use super::MacAddr;

/// Counts changes of next hops in buckets, so that a flow resolves its next hop anew only if that may have changed.
///
/// A flow that has its next hop from the kernel is in the bucket of the MAC address; one whose MAC address was learned
/// from its client's packets is in the bucket of the client's address, since it waits for the kernel to resolve the
/// client. Only a change of a gateway concerns all learned ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopGenerations(Box<[u16; HopGenerations::BUCKETS]>);

impl HopGenerations {
    /// Half of them for MAC addresses, half for clients.
    pub const BUCKETS: usize = 512;
    /// The buckets of clients.
    pub(super) const BY_CLIENT: std::ops::Range<usize> = Self::BUCKETS / 2..Self::BUCKETS;

    pub(super) fn new(generation: u16) -> Self {
        Self(Box::new([generation; Self::BUCKETS]))
    }

    pub(super) fn change(&mut self, bucket: usize) {
        self.0[bucket] = self.0[bucket].wrapping_add(1);
    }

    pub(super) fn change_all(&mut self) {
        (0..Self::BUCKETS).for_each(|bucket| self.change(bucket));
    }

    /// The generation of each bucket.
    pub const fn all(&self) -> &[u16; Self::BUCKETS] {
        &self.0
    }
}

/// The bucket of [`HopGenerations`] for a flow to `client`, whose next hop has this MAC address, learned from the client's
/// packets or not.
#[inline(always)]
pub const fn hop_bucket(MacAddr(mac): MacAddr, client: &[u8; 16], is_learned: bool) -> usize {
    // Fibonacci hashing: the upper 8 bits of the product.
    const MULTIPLIER: u32 = 0x9e37_79b1;
    let key = if is_learned {
        u32::from_ne_bytes([client[12], client[13], client[14], client[15]])
            ^ u32::from_ne_bytes([client[8], client[9], client[10], client[11]])
    } else {
        u32::from_ne_bytes([mac[2], mac[3], mac[4], mac[5]])
    };
    (key.wrapping_mul(MULTIPLIER) >> 24) as usize | (is_learned as usize) << 8
}
