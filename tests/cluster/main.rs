//! Black-box tests of the binary with a real Kubernetes. They need root, VL3LB_BIN, the absolute path of the binary,
//! and VL3LB_CLUSTER_BIN, the folder of Kubernetes' programs; `./run test cluster` sets both.

mod capability;
mod change;
mod example;
mod fault;
mod image;
mod latency;
mod manifests;
mod peers;
mod permission;
mod pods;
mod start;
mod storm;
mod watch;
