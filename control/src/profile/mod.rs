//! CPU profiles of this process: which functions its threads spend their time in, for `go tool pprof` and
//! `vl3-lb profile`.
//!
//! A signal (SIGPROF) interrupts whichever thread has just used up 10 ms of CPU time, and its handler notes the thread's stack.
//! Threads that sleep are not interrupted, and without a profile nothing is: no timer runs, and no memory is held. The crate
//! `pprof` does that in builds with the feature `profile`; all others refuse.

#[cfg(feature = "profile")]
mod builder;
pub mod proto;
#[cfg(feature = "profile")]
mod sampler;
#[cfg(not(feature = "profile"))]
mod unsupported;

use std::ops::RangeInclusive;

use thiserror::Error;

#[cfg(feature = "profile")]
pub use sampler::Profiler;
#[cfg(not(feature = "profile"))]
pub use unsupported::Profiler;

/// Whether this build has profiles.
pub const SUPPORTED: bool = cfg!(feature = "profile");

/// Seconds that a profile may last.
pub const SECONDS: RangeInclusive<u64> = 1..=120;

/// A profile that is not taken.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The configuration does not allow them.
    #[error("profiles are switched off")]
    Off,
    /// Another one is being taken.
    #[error("another profile is being taken")]
    Busy,
    /// The request is gone.
    #[error("interrupted")]
    Abandoned,
    /// The timer or its file cannot be set up.
    #[error("{0}")]
    Failed(String),
}
