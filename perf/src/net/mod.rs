//! The testbed of whole-balancer measurements: the network, and programs in it on chosen cores.
//!
//! Namespaces, links and processes are those of `vl3lb-testbed`; nothing outlives this process.

mod bounce;
mod process;
mod topology;

pub(crate) use process::{on_cores, on_path, start};
pub(crate) use topology::{
    BACKENDS, BALANCER_ADDRESS, BALANCER_MAC, CLIENT_ADDRESS, NETWORK_PORT, Network, PeerNode, WIRE_MAC,
    Wire, backend_address,
};
pub(crate) use vl3lb_testbed::Netns;
pub(crate) use vl3lb_testbed::addresses::INTERFACE;
pub(crate) use vl3lb_testbed::process::Process;
