//! Black-box tests of the binary with a real Kubernetes. They need root, VL3LB_BIN, the absolute path of the binary,
//! VL3LB_CLUSTER_BIN, the folder of Kubernetes' programs, and VL3LB_NSM_BIN, that of Network Service Mesh;
//! `./run test cluster` sets them.

mod capability;
mod change;
mod connection_addresses;
mod example;
mod fault;
mod image;
mod latency;
mod manifests;
mod mesh;
mod peers;
mod permission;
mod pods;
mod spire;
mod start;
mod storm;
mod tenancy;
mod watch;
