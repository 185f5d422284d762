//! Observability: one report behind tables, JSON and metrics, the event log, and the flows: listed, and
//! followed as they open and close.

pub mod capture;
pub mod events;
pub mod filter;
pub mod flow_events;
pub mod flows;
pub mod lookup;
pub mod report;
