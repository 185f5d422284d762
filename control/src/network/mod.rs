//! The kernel's side of the vL3 interface, followed by netlink.
//!
//! [`Monitor`] turns addresses, routes and neighbours into a [`NetworkView`], and has the kernel
//! resolve the next hops that packets need. Nothing is ever configured here.

mod change;
mod message;
mod monitor;
mod resolution;
mod tables;
#[cfg(test)]
mod tests;
mod view;

pub use monitor::{Monitor, NetworkReceiver, Resolver};
pub use view::{LinkState, NetworkView};
