//! The balancer in a vL3 network of a real cluster: the example of Network Service Mesh with exactly its commands.

use std::collections::BTreeSet;

use serde_json::Value;
use vl3lb_tests::cluster::{Cluster, NAMESPACE, TIMEOUT};
use vl3lb_tests::wait;

const SERVERS: usize = 3;
/// 1500 less the headers of VXLAN, UDP, IPv4 and the inner Ethernet.
const VXLAN_MTU: &str = "1450";

/// Applied again after its end, the same names are there with other addresses.
#[test]
fn the_example_of_network_service_mesh_works_with_its_four_commands_and_works_again() {
    let cluster = Cluster::with_mesh();
    for _ in 0..2 {
        cluster.shell("kubectl apply -k deploy/examples/vl3-lb-nsm");
        wait_ready(cluster);
        let answer = cluster.shell(
            "kubectl exec deployments/finance-client -n ns-vl3-lb -- curl -s finance.vl3-lb:8080 | \
             grep \"Hello! I'm finance-server\"",
        );
        assert!(answer.starts_with("Hello! I'm finance-server-"), "{answer}");
        every_server_answers(cluster);
        pods_of_both_nodes_are_clients(cluster);
        cluster.shell("kubectl delete ns ns-vl3-lb");
    }
}

/// With the interface of the SDK's own client, which pings the endpoint from the balancer's address and would request
/// another interface if it got no answer.
#[test]
fn the_balancer_works_beside_the_client_of_the_annotation() {
    let cluster = Cluster::with_mesh();
    cluster.shell("kubectl apply -k deploy/examples/vl3-lb-nsm-sidecar");
    wait_ready(cluster);
    every_server_answers(cluster);
    pods_of_both_nodes_are_clients(cluster);
    let before = echo_replies(cluster);
    wait::until("more pings of the sidecar", TIMEOUT, || {
        let now = echo_replies(cluster);
        (now >= before + 3)
            .then_some(())
            .ok_or_else(|| format!("{before} echo replies before, {now} now"))
    });
    let states =
        cluster.shell("kubectl logs deployments/vl3-lb -n ns-vl3-lb -c cmd-nsc | grep '^{' | tail -n 1");
    let state: Value = serde_json::from_str(&states).expect("the client reports its state as JSON");
    assert_eq!(state["state"]["reselects"], 0, "{state}");
    cluster.shell("kubectl delete ns ns-vl3-lb");
}

/// Echo replies that the balancer's pod has received.
fn echo_replies(cluster: &Cluster) -> u64 {
    let counters = cluster
        .shell("kubectl exec deployments/vl3-lb -n ns-vl3-lb -c cmd-nsc -- grep ^Icmp: /proc/net/snmp");
    let (names, values) = counters
        .split_once('\n')
        .expect("a line of names and one of values");
    let mut columns = names.split(' ').zip(values.trim_end().split(' '));
    let (_, replies) = columns
        .find(|(name, _)| *name == "InEchoReps")
        .expect("the counter");
    replies.parse().expect("a number")
}

pub(super) fn wait_ready(cluster: &Cluster) {
    cluster.wait_for_pod("type=vl3-client");
    cluster.shell("kubectl wait --for=condition=ready --timeout=2m pod -l type=vl3-client -n ns-vl3-lb");
}

fn every_server_answers(cluster: &Cluster) {
    let mut answered = BTreeSet::new();
    wait::until("an answer of every server", TIMEOUT, || {
        answered.insert(cluster.request().map_err(|error| error.to_string())?);
        (answered.len() == SERVERS)
            .then_some(())
            .ok_or_else(|| format!("{answered:?}"))
    });
}

/// One of them is not on the endpoint's node: its path has two managers and two forwarders with a VXLAN between them, and
/// the MTU of the whole vL3 network is what fits through that.
fn pods_of_both_nodes_are_clients(cluster: &Cluster) {
    let pods = cluster.get(&["pods", "-l", "type=vl3-client"]);
    let pods = pods["items"].as_array().expect("a list");
    let nodes: BTreeSet<&str> = pods
        .iter()
        .filter_map(|pod| pod["spec"]["nodeName"].as_str())
        .collect();
    assert_eq!(nodes.len(), 2, "all clients of {NAMESPACE} are on {nodes:?}");
    wait::until("the MTU of the vL3 network", TIMEOUT, || {
        let mtu = cluster.in_client("cat /sys/class/net/nsm-1/mtu").stdout;
        let mtu = String::from_utf8_lossy(&mtu).trim().to_owned();
        (mtu == VXLAN_MTU).then_some(()).ok_or(mtu)
    });
}
