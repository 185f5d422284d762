//! Reports: the workers' counters and the state of the control side at one moment.

mod active_since;
mod balancer;
mod build;
mod capacity;
mod counters;
mod imbalance;
mod measures;
mod process;
mod readiness;
mod reporter;
mod warnings;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use build::Identity;
pub use measures::{MEASURE_STEP, MEASURES, Measures};
pub use readiness::{InterfaceProblem, NotReady};
pub use reporter::{Reporter, Sources, StuckWorker, WORKER_STUCK};
