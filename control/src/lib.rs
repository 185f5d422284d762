//! The control side of vl3-lb, and the balancer that it makes with the data plane.

pub mod admin;
pub mod api;
pub mod attachment;
pub mod capabilities;
pub mod cli;
pub mod config;
pub mod connections;
pub mod discovery;
pub mod dns;
pub(crate) mod error_chain;
pub mod flow_log;
pub mod health;
pub(crate) mod icmp_echo;
pub(crate) mod kubernetes;
pub mod local_ports;
pub mod log;
pub mod metrics;
pub mod network;
pub mod nsm;
pub(crate) mod number;
pub mod observe;
pub(crate) mod one_line;
pub(crate) mod page;
pub mod peers;
pub mod profile;
pub mod publisher;
pub mod run;
pub mod state;
pub(crate) mod summary;
pub mod supervise;
#[cfg(feature = "telemetry")]
pub mod telemetry;
pub mod version;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod journey;
#[cfg(test)]
mod mutation;
