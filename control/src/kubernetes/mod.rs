//! Access to the Kubernetes API: the connection, the watch stream, errors, and the names that this product uses there.

pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod ingress;
pub(crate) mod names;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod watch;
