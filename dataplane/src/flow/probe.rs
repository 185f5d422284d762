//! Finding a flow by one of its keys, in steps that a group of packets takes together: hash, bucket, entry.

use vl3lb_common::Timestamp;

use super::index::{Hash, MAX_FLOWS};
use super::key::{Key, ReplyKey, RequestKey};
use super::table::{FlowId, FlowTable};

/// Where in the table the search for a key starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe {
    hash: Hash,
    /// The bucket where the search starts.
    home: u32,
    /// The flow that most likely has the key, after [`FlowTable::prefetch_flow`]; [`NO_FLOW`] if there
    /// is none.
    guess: u32,
}

impl Probe {
    /// Of no key.
    pub(crate) const NONE: Self = Self {
        hash: Hash(0),
        home: 0,
        guess: NO_FLOW,
    };
}

/// No flow has this number, and no table an entry for it.
const NO_FLOW: u32 = u32::MAX;
const _: () = assert!(MAX_FLOWS < NO_FLOW);

impl FlowTable {
    /// Starts a search for a client's packet.
    #[inline(always)]
    pub(crate) fn request_probe(&self, key: &RequestKey) -> Probe {
        self.probe(key)
    }

    /// Starts a search for a backend's packet.
    #[inline(always)]
    pub(crate) fn reply_probe(&self, key: &ReplyKey) -> Probe {
        self.probe(key)
    }

    #[inline(always)]
    fn probe(&self, key: &impl Key) -> Probe {
        let hash = key.hash(&self.seed);
        Probe {
            hash,
            home: self.index.home(hash),
            guess: NO_FLOW,
        }
    }

    /// First step of a batched lookup: prefetches the index bucket.
    #[inline(always)]
    pub(crate) fn prefetch_index(&self, probe: &Probe) {
        self.index.prefetch(probe.home);
    }

    /// Second step: prefetches the flow, if one of the first two buckets has one. True if there is no flow for certain.
    #[inline(always)]
    pub(crate) fn prefetch_flow(&self, probe: &mut Probe) -> bool {
        let Some(id) = self.index.guess(probe.home, probe.hash).or_else(|| {
            let is_behind = !self.index.ends_at(probe.home);
            is_behind.then(|| self.index.guess_behind(probe.home, probe.hash))?
        }) else {
            return self.index.ends_at(probe.home);
        };
        probe.guess = id;
        self.pool.hot.prefetch(id as usize);
        self.pool.cold.prefetch(id as usize);
        false
    }

    /// Whether `probe` certainly finds no flow, after the second step.
    #[inline]
    pub(crate) fn lacks(&self, probe: &Probe) -> bool {
        probe.guess == NO_FLOW && self.index.ends_at(probe.home)
    }

    /// Prefetches the bucket for the reply key of a flow to be opened.
    #[inline]
    pub(crate) fn prefetch_reply(&self, key: &ReplyKey) {
        self.index.prefetch(self.index.home(key.hash(&self.seed)));
    }

    /// The flow of a client's packet, found at the key's own `probe`.
    ///
    /// # Errors
    /// There is none, or it has expired.
    #[inline(always)]
    pub(crate) fn request_at(
        &self,
        probe: &Probe,
        key: RequestKey,
        now: Timestamp,
    ) -> Result<FlowId, Option<FlowId>> {
        self.at(probe, key, now)
    }

    /// The flow of a backend's packet, found at the key's own `probe`. Expired flows are not found.
    #[inline(always)]
    pub(crate) fn reply_at(&self, probe: &Probe, key: ReplyKey, now: Timestamp) -> Option<FlowId> {
        self.at(probe, key, now).ok()
    }

    /// The flow that [`prefetch_flow`](Self::prefetch_flow) guessed, if it has the key and has not expired.
    #[inline(always)]
    fn guessed(&self, probe: &Probe, key: impl Key, now: Timestamp) -> Option<FlowId> {
        let entry = self.pool.hot.get(probe.guess as usize)?;
        (key.names(entry, &self.endpoints) && !entry.expired(now)).then_some(FlowId(probe.guess))
    }

    /// [`request_at`](Self::request_at), but finds a flow only where it was guessed.
    #[inline(always)]
    pub(crate) fn guessed_request(&self, probe: &Probe, key: RequestKey, now: Timestamp) -> Option<FlowId> {
        self.guessed(probe, key, now)
    }

    /// [`reply_at`](Self::reply_at), but finds a flow only where it was guessed.
    #[inline(always)]
    pub(crate) fn guessed_reply(&self, probe: &Probe, key: ReplyKey, now: Timestamp) -> Option<FlowId> {
        self.guessed(probe, key, now)
    }

    /// The flow of a client's packet. Expired flows are not found.
    #[inline]
    pub(crate) fn request(&self, key: &RequestKey, now: Timestamp) -> Option<FlowId> {
        self.at(&self.probe(key), *key, now).ok()
    }

    /// The flow of a backend's packet. Expired flows are not found.
    #[inline]
    pub(crate) fn reply(&self, key: &ReplyKey, now: Timestamp) -> Option<FlowId> {
        self.at(&self.probe(key), *key, now).ok()
    }

    #[inline(always)]
    fn at(&self, probe: &Probe, key: impl Key, now: Timestamp) -> Result<FlowId, Option<FlowId>> {
        // The guessed flow may have ended since. Then the entry is free or another flow's, and the key
        // does not match.
        if let Some(entry) = self.pool.hot.get(probe.guess as usize)
            && key.names(entry, &self.endpoints)
        {
            let id = FlowId(probe.guess);
            return if entry.expired(now) { Err(Some(id)) } else { Ok(id) };
        }
        // Nearly all new flows: there is no need to search.
        if probe.guess == NO_FLOW && self.index.lacks(probe.home, probe.hash) {
            return Err(None);
        }
        match self.find(probe.hash, key) {
            Some(id) if !self.entry(id).expired(now) => Ok(id),
            other => Err(other),
        }
    }

    /// The flow with this key, expired or not.
    ///
    /// Kept out of the code for packets with a right guess. The key is passed by value, so that only
    /// packets that get here write it to memory.
    #[inline(never)]
    pub(super) fn find<K: Key>(&self, hash: Hash, key: K) -> Option<FlowId> {
        let hot = &self.pool.hot;
        self.index
            .find(K::KIND, hash, |id| key.names(&hot[id as usize], &self.endpoints))
            .map(FlowId)
    }
}
