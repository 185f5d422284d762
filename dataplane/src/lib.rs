//! The packet path of vl3-lb.

pub mod capability;
pub mod config;
pub mod error;
pub mod flow;
pub mod link;
pub mod packet;
pub mod port;
pub mod steer;
