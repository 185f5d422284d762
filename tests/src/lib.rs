//! Support library of the black-box tests.
//!
//! A test builds a small vL3 network of its own out of network namespaces, starts the real binary in one of
//! them, and talks through it with real programs and plain sockets. Rules:
//!
//! - A test depends on no other test and leaves nothing behind; what a killed run left behind is removed when
//!   the next one starts.
//! - Every wait has a deadline and says what it waited for. Nothing waits for a fixed time to let something
//!   happen.
//! - The peers' offloads stay as the kernel sets them, as in a user's pods.
//! - What cannot be set up is a panic that says what was attempted: tests never pass by not running.

pub mod api_server;
pub mod attachment;
pub mod balancer;
pub mod client;
pub mod cluster;
pub mod config;
pub mod follower;
pub mod hostile;
pub mod mesh;
pub mod metrics;
pub mod payload;
pub mod perf;
pub mod server;
pub mod socket;
pub mod topology;
pub mod wait;
