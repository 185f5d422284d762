//! The load generator: sends packets or requests to one target at a rate, checks what comes back, measures how
//! long it took.
//!
//! From file to file: a [`plan`] says what to send; [`pacing`] when packets are due and [`pattern`] to which
//! flow each belongs; [`payload`] is what they carry; an [`engine`] sends and receives them; [`sender`] is
//! the loop in between, or [`connection`] over TCP; [`check`] finds lost, doubled, late and damaged packets;
//! [`run`] puts the threads together and [`interval`] what happened when.

mod check;
mod clock;
mod connection;
mod cpu;
mod engine;
pub(crate) mod interval;
pub(crate) mod latency;
pub(crate) mod pacing;
pub(crate) mod pattern;
pub(crate) mod payload;
pub(crate) mod plan;
mod probe;
pub(crate) mod run;
mod sender;
pub(crate) mod tally;
pub(crate) mod target;
