//! Black-box tests with a real control plane of Network Service Mesh: root only; the environment variables VL3LB_BIN
//! and VL3LB_NSM_BIN name the binary and the folder of `mesh`. Each module is one promise to users.
//!
//! P1 to P24 in the tests are faults of the predecessor, cmd-lb-vl3-vpp.

mod conflict;
mod connector;
mod control_plane;
mod discovery;
mod figures;
mod join;
mod outage;
mod request;
mod rotation;
mod scale;
mod spire;
