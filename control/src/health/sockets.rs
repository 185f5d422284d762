//! The sockets that checks may have at the same time.

use rustix::process::{Resource, getrlimit};
use tokio::sync::{Semaphore, SemaphorePermit};
use vl3lb_common::snapshot::MAX_BACKENDS;

/// Descriptors that are left for everything but checks, if the process may have more than twice as many.
const OTHERS: usize = 1024;

/// A number of sockets, half of which backends may use whose last check did not succeed: where there are fewer sockets than
/// backends, those that do not answer, and hold a socket for the whole timeout, do not delay the checks of those that do.
#[derive(Debug)]
pub struct Sockets {
    all: Semaphore,
    unanswered: Semaphore,
}

/// A socket that a check may have until this is dropped.
#[derive(Debug)]
pub(super) struct Socket<'a> {
    _all: SemaphorePermit<'a>,
    _unanswered: Option<SemaphorePermit<'a>>,
}

impl Sockets {
    /// One for each backend, as far as RLIMIT_NOFILE of this process allows.
    pub fn of_process() -> Self {
        // `None`: unlimited.
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::of_descriptors(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    fn of_descriptors(descriptors: usize) -> Self {
        let left = descriptors.saturating_sub(OTHERS).max(descriptors / 2);
        Self::new(left.min(MAX_BACKENDS))
    }

    /// This many, at least two.
    pub(super) fn new(count: usize) -> Self {
        let count = count.max(2);
        Self {
            all: Semaphore::new(count),
            // With one for each backend nobody waits.
            unanswered: Semaphore::new(if count < MAX_BACKENDS { count / 2 } else { count }),
        }
    }

    /// Waits for a socket for a backend whose last check succeeded, or not. Never `None`: the semaphores stay open.
    pub(super) async fn acquire(&self, answered: bool) -> Option<Socket<'_>> {
        let unanswered = if answered {
            None
        } else {
            Some(self.unanswered.acquire().await.ok()?)
        };
        Some(Socket {
            _all: self.all.acquire().await.ok()?,
            _unanswered: unanswered,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_parts_of_the_process_keep_descriptors() {
        for (descriptors, sockets) in [
            (1_048_576, MAX_BACKENDS),
            (MAX_BACKENDS + OTHERS, MAX_BACKENDS),
            (4096, 3072),
            (1024, 512),
            (1, 2),
        ] {
            let all = Sockets::of_descriptors(descriptors).all;
            assert_eq!(all.available_permits(), sockets, "{descriptors}");
        }
    }
}
