//! The ground of whole-balancer measurements: network namespaces, the network in them, and processes.
//!
//! Nothing outlives this process, however it ends: a namespace is only an open descriptor, and each
//! program gets SIGKILL when its parent dies.

mod netns;
mod process;
mod topology;
mod tun;

pub(crate) use netns::Netns;
pub(crate) use process::{Process, on_path, open_many_files, output};
pub(crate) use topology::{
    BACKENDS, BALANCER_ADDRESS, BALANCER_MAC, CLIENT_ADDRESS, INTERFACE, NETWORK_PORT, Network, Site,
    WIRE_MAC, Wire, backend_address,
};
pub(crate) use tun::VNET_HEADER;
