//! Black-box tests of the binary with a real API server of Kubernetes and no nodes: the tests do the work of its controllers and
//! kubelets. And of the image, which needs none. They need root, VL3LB_BIN, the absolute path of the binary, VL3LB_CLUSTER_BIN, the folder of Kubernetes' programs,
//! and VL3LB_NSM_BIN, that of Network Service Mesh; `./run test cluster` sets them.

mod connection_addresses;
mod image;
mod latency;
mod manifests;
mod peers;
mod permission;
mod pods;
mod storm;
mod tenancy;
mod watch;
