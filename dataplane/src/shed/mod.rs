//! Shedding in the kernel: while a worker cannot take all that comes, the steer program admits as many new flows as it can,
//! and drops the others before they cost a copy into its socket, with nearly all packets that belong to no flow
//! (`bpf/shed.h`).
//!
//! What would not fit into the receive ring is lost there whoever sent it; what is dropped by the program is of no flow that
//! the workers know, and neither comes from a proven source nor is the retransmission of a SYN. The words are shared memory,
//! so nothing here is a system call:
//!
//! | what | written by | read by |
//! |---|---|---|
//! | whether load is shed, the clock, how many flows are admitted | each worker, for the flows that it owns | program |
//! | how many were admitted and dropped | program | the same worker |
//! | proven sources | all workers; the oldest makes room | program |
//! | flows, by a hash of either direction's packets | all workers, while one of them sheds load | program |
//! | SYNs that were seen lately | program | program |
//! | copies of dropped packets, while a capture is active | program | the same worker |
//!
//! A worker that does not get to say how many it admits next, because it does not run, gets none: so the rate follows
//! what it can take.

mod memory;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use vl3lb_common::sync::atomic::AtomicU64;
use vl3lb_common::sync::atomic::Ordering::Relaxed;

use vl3lb_common::Timestamp;
use vl3lb_common::hash::OwnerKey;

pub(crate) use memory::ShedMemory;
pub(crate) use memory::{ACTIVE, ADMITTED, DROPPED, LIMIT, SAMPLE_BYTES, SAMPLES, Sample};
use memory::{NOTED, REPEAT_LIMIT, REPEATS, SAMPLED, SAMPLING, SECOND, STEP, STRAY_LIMIT, STRAYS};

/// Nanoseconds of a step of the program's clock.
const STEP_NANOS: u64 = 100_000_000;

/// One worker's part in shedding.
#[derive(Debug)]
pub(crate) struct Shed {
    memory: Arc<ShedMemory>,
    worker: u16,
    owner_key: OwnerKey,
    /// What of the program's count is taken in.
    dropped: u64,
    /// What of the losses of all workers was seen.
    lost: u64,
}

impl Shed {
    /// For the flows that `worker` owns, by the hash with this key. Nothing is shed yet.
    pub(crate) fn new(memory: Arc<ShedMemory>, worker: u16, owner_key: OwnerKey) -> Self {
        let lost = memory.lost();
        Self {
            memory,
            worker,
            owner_key,
            dropped: 0,
            lost,
        }
    }

    /// Packets of `source` pass from now on, for ten minutes.
    pub(crate) fn prove(&self, source: &[u8; 16], now: Timestamp) {
        self.memory.note_source(self.source_hash(source), second(now));
    }

    /// Whether packets of `source` pass, since `oldest` or later.
    pub(crate) fn is_proven(&self, source: &[u8; 16], oldest: Timestamp) -> bool {
        self.memory.knows_source(self.source_hash(source), second(oldest))
    }

    /// Whether this worker or another one of the interface sheds load.
    pub(crate) fn is_needed(&self) -> bool {
        self.memory.is_shedding()
    }

    /// Packets from `source` with these ports pass for 30 seconds from now on.
    pub(crate) fn note_flow(&self, source: &[u8; 16], ports: [u16; 2], protocol: u8, now: Timestamp) {
        let hash = self.owner_key.tuple_hash(source, ports[0], ports[1], protocol);
        self.memory.note_flow(hash, noted(now));
    }

    /// Whether such packets were noted at this time.
    #[cfg(test)]
    pub(crate) fn knows_flow(
        &self,
        source: &[u8; 16],
        ports: [u16; 2],
        protocol: u8,
        now: Timestamp,
    ) -> bool {
        let hash = self.owner_key.tuple_hash(source, ports[0], ports[1], protocol);
        self.memory.noted(hash) == noted(now)
    }

    /// Sheds load until the next call: of the flows to be opened, at most so many are admitted, and as many that begin with
    /// a retransmitted SYN; of the packets that belong to no known flow and open none, at most `strays`.
    pub(crate) fn admit(&self, flows: u64, strays: u64, now: Timestamp) {
        let Some(words) = self.memory.worker(self.worker) else {
            return;
        };
        words[SECOND].store(second(now).into(), Relaxed);
        words[STEP].store(now.0 / STEP_NANOS, Relaxed);
        words[NOTED].store(noted(now).into(), Relaxed);
        for (used, limit, most) in [
            (ADMITTED, LIMIT, flows),
            (REPEATS, REPEAT_LIMIT, flows),
            (STRAYS, STRAY_LIMIT, strays),
        ] {
            let used = words[used].load(Relaxed);
            words[limit].store(used.wrapping_add(most), Relaxed);
        }
        if words[ACTIVE].swap(1, Relaxed) == 0 {
            self.memory.count_shedding(true);
        }
    }

    /// Sheds no load.
    pub(crate) fn end(&self) {
        if let Some(words) = self.memory.worker(self.worker)
            && words[ACTIVE].swap(0, Relaxed) == 1
        {
            self.memory.count_shedding(false);
        }
    }

    /// Packets that the program has dropped since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        let Some(words) = self.memory.worker(self.worker) else {
            return 0;
        };
        let dropped = words[DROPPED].load(Relaxed);
        dropped.wrapping_sub(std::mem::replace(&mut self.dropped, dropped))
    }

    /// Adds packets that the kernel has lost in front of this worker, and returns those of all workers of the interface
    /// since the last call: they share it, whoever owns the flows.
    pub(crate) fn share_lost(&mut self, lost: u64) -> u64 {
        let all = self.memory.add_lost(lost);
        all.wrapping_sub(std::mem::replace(&mut self.lost, all))
    }

    /// Whether the program copies some of the packets that it drops: as many as there is room for when it drops them.
    pub(crate) fn set_sampling(&self, sampling: bool) {
        let changes =
            |words: &[AtomicU64; _]| words[SAMPLING].swap(sampling.into(), Relaxed) != u64::from(sampling);
        if self.memory.worker(self.worker).is_some_and(changes) {
            // Those of an earlier time.
            for place in 0..SAMPLES {
                self.take_sample(place, &mut [0; SAMPLE_BYTES]);
            }
        }
    }

    /// The places of copied packets, that of the oldest one first. Any of them may be full: the program goes on with the next
    /// one also where another processor was faster with this.
    pub(crate) fn sample_places(&self) -> impl Iterator<Item = usize> + use<> {
        let worker = self.memory.worker(self.worker);
        let sampled = worker.map_or(0, |words| words[SAMPLED].load(Relaxed));
        let next = usize::try_from(sampled % SAMPLES as u64).unwrap_or(0);
        (next..next + SAMPLES).map(|place| place % SAMPLES)
    }

    /// The packet that was copied to this place, if there is one, into `bytes`.
    pub(crate) fn take_sample(&self, place: usize, bytes: &mut [u8; SAMPLE_BYTES]) -> Option<Sample> {
        self.memory.take_sample(self.worker, place, bytes)
    }

    fn source_hash(&self, source: &[u8; 16]) -> u64 {
        self.owner_key.tuple_hash(&subscriber(source), 0, 0, 0)
    }
}

impl Drop for Shed {
    fn drop(&mut self) {
        self.set_sampling(false);
        self.end();
    }
}

/// The part of an address that a sender cannot choose: of IPv6 the first 64 bits, which are one subscriber's.
pub(crate) fn subscriber(source: &[u8; 16]) -> [u8; 16] {
    let address = u128::from_be_bytes(*source);
    // IPv4-mapped addresses differ in their last 32 bits.
    let is_v4 = address >> 32 == 0xffff;
    let part = if is_v4 { address } else { address >> 64 << 64 };
    part.to_be_bytes()
}

/// Seconds since the workers' clock began, and one.
fn second(now: Timestamp) -> u32 {
    u32::try_from(now.0 / 1_000_000_000).unwrap_or(u32::MAX - 1) + 1
}

/// The time in which a flow is noted: seconds from 1 to 255, and from 1 on again.
fn noted(now: Timestamp) -> u8 {
    let second = (now.0 / 1_000_000_000 % 255) as u8;
    second + 1
}
