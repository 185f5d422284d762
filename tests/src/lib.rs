//! Support library of the black-box tests.
//!
//! A test builds a small vL3 network of its own out of network namespaces, starts the real binary in one of
//! them, and talks through it with real programs and plain sockets. Rules:
//!
//! - A test depends on no other test and leaves nothing behind, not even when it is killed: see `vl3lb-testbed`.
//! - Every wait has a deadline and a name. Nothing sleeps for a fixed time to let something happen.
//! - The peers' offloads stay as the kernel sets them, as in a user's pods.
//! - A failed set-up is a panic: tests never pass by not running.

pub mod api_server;
pub mod attachment;
pub mod balancer;
pub mod browser;
pub mod client;
pub mod cluster;
pub mod config;
pub mod follower;
pub mod malformed;
pub mod mesh;
pub mod metrics;
#[cfg(test)]
mod named_tests;
pub mod payload;
pub mod perf;
#[cfg(test)]
mod predecessor;
pub mod sctp;
pub mod server;
pub mod socket;
pub mod spire;
pub mod terminal;
pub mod topology;
pub mod wait;
