//! Building reports: what the workers counted and what the control side knows, put together.

mod balancer;
mod build;
mod counters;
pub mod filter;
pub mod flows;
mod process;
mod reporter;
mod since;
mod warnings;

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

pub use build::Identity;
pub use reporter::{Reporter, Sources, WORKER_STUCK};
