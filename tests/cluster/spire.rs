//! The identities of the cluster's pods, where SPIRE is built.

use serde_json::Value;
use vl3lb_tests::cluster::{Cluster, NAMESPACE};

use crate::mesh::wait_ready;

/// They come from SPIRE's agent on the pod's node, which knows the pod, and its controller manager, which registers it.
#[test]
fn the_balancers_identity_is_that_of_its_pod() {
    assert!(
        std::env::var_os("VL3LB_SPIRE_BIN").is_some(),
        "VL3LB_SPIRE_BIN, the folder of SPIRE, is not set: `./run setup nsm` builds it, and `./run test cluster` sets it then"
    );
    let cluster = Cluster::with_mesh();
    cluster.shell("kubectl apply -k deploy/examples/vl3-lb-nsm");
    wait_ready(cluster);
    let log = std::fs::read_to_string("/run/vl3-lb-cluster/log/spire-agent-1.log").expect("the agent's log");
    assert!(log.contains("Node attestation was successful"), "{log}");
    let status = cluster.shell("kubectl exec deployments/vl3-lb -n ns-vl3-lb -- vl3-lb status --output json");
    let status: Value = serde_json::from_str(&status).expect("the status is JSON");
    let pods = cluster.pods("app.kubernetes.io/name=vl3-lb");
    let expected = format!("spiffe://k8s.nsm/ns/{NAMESPACE}/pod/{}", pods[0]);
    let balancer = &status["items"][0];
    assert_eq!(balancer["nsm"]["spiffeId"], expected, "{balancer}");
    cluster.shell("kubectl delete ns ns-vl3-lb");
}
