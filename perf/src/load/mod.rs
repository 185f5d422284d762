//! The load generator: sends packets or requests to one target at a rate, checks those that come back, and measures
//! their round trips.
//!
//! In the order of execution: a [`plan`] is what to send; [`pacing`] says when packets are due and [`pattern`] the flow
//! of each; [`payload`] is the stamp that they carry; an [`engine`] sends and receives them; [`sender`] is the loop in
//! between, and [`connection`] the one over TCP connections; [`check`] finds lost, duplicated, reordered and damaged
//! packets; [`run`] starts the threads and merges their counts, by [`interval`].

pub(crate) mod check;
pub(crate) mod clock;
mod connection;
mod cpu;
pub(crate) mod due_windows;
pub(crate) mod engine;
pub(crate) mod error;
pub(crate) mod interval;
pub(crate) mod latency;
pub(crate) mod pacing;
pub(crate) mod pattern;
pub(crate) mod payload;
pub(crate) mod plan;
mod probe;
pub(crate) mod run;
pub(crate) mod sender;
pub(crate) mod tally;
pub(crate) mod target;
