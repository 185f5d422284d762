//! The control side of vl3-lb.

pub mod admin;
pub mod capabilities;
pub mod cli;
pub mod config;
pub mod discovery;
pub mod dns;
pub mod events;
pub mod flow_events;
pub mod health;
pub mod log;
pub mod metrics;
pub mod network;
pub mod publisher;
pub mod replicas;
pub mod report;
pub mod state;
pub mod version;

#[cfg(test)]
mod golden;
