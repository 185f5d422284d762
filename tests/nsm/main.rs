//! Black-box tests with a real control plane of Network Service Mesh: root only; the environment variables VL3LB_BIN
//! and VL3LB_NSM_BIN name the binary and the folder of `mesh`. Each module is one promise to users.

mod connector;
mod control_plane;
