//! Network Service Mesh: its API, the identity of this workload, and authenticated connections to its servers.
//!
//! | step | where |
//! |---|---|
//! | the Workload API streams SVID and trust bundles | [`identity`] |
//! | a connection: socket, descriptor of the network namespace, TLS, HTTP/2 | [`connector`] |
//! | a call: its token names the peer of the connection | [`connector::Session`] |
//! | the client that gets the interface and keeps it | [`client`] |
//! | messages and clients | [`proto`] |

mod channel;
pub mod client;
pub mod connector;
pub mod identity;
pub mod proto;
mod status_text;
mod target;
#[cfg(test)]
pub(crate) mod testing;

pub use channel::Channel;
pub(crate) use status_text::status_text;
pub use target::{Target, TargetError};
