//! The packet path of vl3-lb.

pub mod config;
pub mod flow;
pub mod packet;
pub mod port;
