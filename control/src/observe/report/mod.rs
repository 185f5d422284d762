//! Building reports: what the workers counted and what the control side knows, put together.

mod active_since;
mod balancer;
mod build;
mod capacity;
mod counters;
mod process;
mod readiness;
mod reporter;
mod warnings;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use build::Identity;
pub use reporter::{Reporter, Sources, WORKER_STUCK};
