//! Observes the vL3 interface by netlink.
//!
//! [`Monitor`] turns link, addresses, routes and neighbours into a [`NetworkView`], and has the kernel
//! resolve the next hops that packets need. It configures nothing.

mod announcement;
mod change;
mod dump;
mod message;
mod monitor;
mod query;
mod resolution;
mod routing;
mod tables;
#[cfg(test)]
mod tests;
mod view;

pub use monitor::{Monitor, NetworkReceiver, Resolver};
pub use view::{LinkState, NetworkView};
