//! The arrays that the workers and the program share.
//!
//! All access is by atomic words, so the kernel may write at any time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use vl3lb_common::sync::atomic::{AtomicU64, Ordering, fence};

use super::layout::{BUCKET_WORDS, MAX_RECORDS, RECORD_WORDS, ROUND_WORDS};
use super::words::Words;

/// The shared arrays of one attachment, for all workers.
pub struct FastMemory {
    index: Words,
    records: Words,
    rounds: Words,
}

impl std::fmt::Debug for FastMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FastMemory")
            .field("records", &self.record_count())
            .finish_non_exhaustive()
    }
}

impl FastMemory {
    /// Maps the program's arrays for `flows` flows and `cpus` CPUs.
    ///
    /// # Errors
    /// The kernel cannot map them, or `flows` is 0 or too large.
    pub(crate) fn map(
        index: BorrowedFd<'_>,
        records: BorrowedFd<'_>,
        rounds: BorrowedFd<'_>,
        flows: u32,
        cpus: u32,
    ) -> io::Result<Self> {
        let [index_len, records_len, rounds_len] = lengths(flows, cpus)?;
        Ok(Self {
            index: Words::of_map(index.as_fd(), index_len)?,
            records: Words::of_map(records.as_fd(), records_len)?,
            rounds: Words::of_map(rounds.as_fd(), rounds_len)?,
        })
    }

    /// Arrays that no program reads.
    #[cfg(test)]
    pub(crate) fn anonymous(flows: u32, cpus: u32) -> io::Result<Self> {
        let [index, records, rounds] = lengths(flows, cpus)?;
        Ok(Self {
            index: Words::anonymous(index)?,
            records: Words::anonymous(records)?,
            rounds: Words::anonymous(rounds)?,
        })
    }

    /// Flows that fit.
    pub(crate) fn record_count(&self) -> u32 {
        u32::try_from(self.records.len() / RECORD_WORDS).unwrap_or(MAX_RECORDS)
    }

    pub(super) fn record(&self, number: u32) -> &[AtomicU64] {
        let start = number as usize * RECORD_WORDS;
        &self.records[start..start + RECORD_WORDS]
    }

    /// The bucket of a tuple with this hash, and the place of its first word.
    pub(super) fn bucket(&self, hash: u64) -> (usize, &[AtomicU64]) {
        let buckets = self.index.len() / BUCKET_WORDS;
        let start = (hash >> 32) as usize % buckets * BUCKET_WORDS;
        (start, &self.index[start..start + BUCKET_WORDS])
    }

    /// A word of the index by its place.
    pub(super) fn index_word(&self, place: usize) -> &AtomicU64 {
        &self.index[place]
    }

    /// The number of a CPU, odd while the program runs there.
    pub(super) fn round(&self, cpu: usize) -> &AtomicU64 {
        &self.rounds[cpu * ROUND_WORDS]
    }

    fn cpus(&self) -> usize {
        self.rounds.len() / ROUND_WORDS
    }

    /// Whether every program that ran when this was called has ended. Gives up after `looks` looks in vain.
    pub(super) fn is_quiet(&self, looks: u32) -> bool {
        let mut wait = Wait::begin();
        let mut left = looks;
        loop {
            match wait.look(self) {
                Look::Over => return true,
                Look::Passed => {}
                Look::Running if left == 0 => return false,
                Look::Running => {
                    left -= 1;
                    std::hint::spin_loop();
                }
            }
        }
    }
}

/// The wait for all programs that run when it begins, one CPU after another.
pub(super) struct Wait {
    cpu: usize,
    /// The odd number that this CPU had.
    seen: Option<u64>,
}

/// What one look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// A program runs that ran before.
    Running,
    /// One CPU more has none of those programs.
    Passed,
    /// No CPU has.
    Over,
}

impl Wait {
    /// Begins after index words were cleared.
    pub(super) fn begin() -> Self {
        // Between the cleared words and the numbers; for the other half see `vl3lb_fast` in bpf/fastpath.h.
        fence(Ordering::SeqCst);
        Self { cpu: 0, seen: None }
    }

    /// Whether a look would show what the last one did.
    #[cfg(test)]
    pub(super) fn is_same(&self, memory: &FastMemory) -> bool {
        self.seen
            .is_some_and(|seen| memory.round(self.cpu).load(Ordering::SeqCst) == seen)
    }

    /// Looks at the number of one CPU.
    pub(super) fn look(&mut self, memory: &FastMemory) -> Look {
        if self.cpu >= memory.cpus() {
            return Look::Over;
        }
        let number = memory.round(self.cpu).load(Ordering::SeqCst);
        let is_running = self.seen.map_or(number % 2 == 1, |seen| seen == number);
        if is_running {
            self.seen = Some(number);
            return Look::Running;
        }
        self.cpu += 1;
        self.seen = None;
        Look::Passed
    }
}

fn lengths(flows: u32, cpus: u32) -> io::Result<[usize; 3]> {
    if flows == 0 || flows > MAX_RECORDS || cpus == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a fast path for {flows} flows on {cpus} CPUs: want 1 to {MAX_RECORDS} flows and a CPU"),
        ));
    }
    Ok([
        super::buckets(flows) as usize * BUCKET_WORDS,
        flows as usize * RECORD_WORDS,
        cpus as usize * ROUND_WORDS,
    ])
}
