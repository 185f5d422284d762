//! What the balancer says about itself: one report behind tables, JSON and metrics, the events of
//! its life, and the flows that open and close.

pub mod events;
pub mod flow_events;
pub mod report;
