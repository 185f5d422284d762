//! Network Service Mesh: its API.

pub mod proto;
