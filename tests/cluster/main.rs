//! Black-box tests of the binary on a real Kubernetes cluster with two nodes, which they share. They need root, VL3LB_BIN, the
//! absolute path of the binary, VL3LB_CLUSTER_BIN, the folder of Kubernetes' programs, and VL3LB_NSM_BIN, that of Network Service
//! Mesh; `./run test cluster` sets them.

mod capability;
mod change;
mod example;
mod fault;
mod mesh;
mod spire;
mod start;
