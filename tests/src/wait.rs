//! Waiting with a deadline.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Limit of a step that involves no network time-out. Generous, because CI has two cores.
pub const STEP: Duration = Duration::from_secs(15);

/// Calls `probe` until it succeeds and returns its result. Panics with `what` and the last reason when `limit` is
/// over.
pub fn until<T, R: Display>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, R>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(found) => return found,
            Err(reason) => assert!(
                start.elapsed() < limit,
                "waited {limit:?} for {what}, last seen: {reason}"
            ),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
