//! Parts of Kubernetes fail. Traffic continues, and the balancers follow all changes afterwards.

use serde_json::Value;
use vl3lb_tests::cluster::{Cluster, Jobs, TIMEOUT};
use vl3lb_tests::wait;

#[test]
fn traffic_continues_without_the_api_server_and_changes_follow_later() {
    let cluster = Cluster::with_example();
    let requests = "n=0; while [ $n -lt 100 ]; do curl -sf --max-time 5 -o /dev/null finance.vl3-lb:8080 || exit 1; \
                    sleep 0.1; n=$((n + 1)); done";
    let jobs = Jobs::start(cluster, "requests", &[requests.to_owned()]);
    let downloads = Jobs::downloads(cluster, 3);
    cluster.api_server("stop");
    // It returns when about half of the requests are done; without it, their number cannot be read.
    std::thread::sleep(std::time::Duration::from_secs(8));
    cluster.api_server("start");
    jobs.finish();
    downloads.finish_downloads();
    cluster.scale(5);
    cluster.settle(5);
    cluster.scale(3);
    cluster.settle(3);
}

#[test]
fn a_killed_kubelet_breaks_no_connection() {
    let cluster = Cluster::with_example();
    let downloads = Jobs::downloads(cluster, 6);
    // Not the client's node: programs could not be started in its container.
    let node = if node_of(cluster, "type=vl3-client") == "node1" {
        2
    } else {
        1
    };
    cluster.kubelet(node, "stop");
    wait_node(cluster, node, "Unknown");
    cluster.request().expect("the other node's servers answer");
    cluster.kubelet(node, "start");
    wait_node(cluster, node, "True");
    downloads.finish_downloads();
    cluster.settle(3);
}

#[test]
fn a_drained_node_breaks_no_download() {
    let cluster = Cluster::with_example();
    let downloads = Jobs::downloads(cluster, 6);
    let node = if node_of(cluster, "type=vl3-client") == "node1" {
        "node2"
    } else {
        "node1"
    };
    std::thread::scope(|scope| {
        // The drain waits for the end of the servers, and these wait for the downloads.
        let drain = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data"];
        let drain = scope.spawn(move || cluster.must_kubectl(&drain));
        wait::until("all servers of the node to terminate", TIMEOUT, || {
            let pods = cluster.get(&["pods", "-l", "app=finance"]);
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            let stays = |pod: &&Value| {
                pod["spec"]["nodeName"] == node && pod["metadata"]["deletionTimestamp"].is_null()
            };
            match pods.iter().filter(stays).count() {
                0 => Ok(()),
                left => Err(format!("{left} are not terminating")),
            }
        });
        cluster.settle(3);
        cluster.request().expect("the servers that took over answer");
        downloads.finish_downloads();
        drain.join().expect("the drain ends");
    });
    cluster.must_kubectl(&["uncordon", node]);
    cluster.settle(3);
}

fn node_of(cluster: &Cluster, labels: &str) -> String {
    let pods = cluster.get(&["pods", "-l", labels]);
    pods["items"][0]["spec"]["nodeName"]
        .as_str()
        .expect("a running pod has a node")
        .to_owned()
}

fn wait_node(cluster: &Cluster, node: u8, ready: &str) {
    let name = format!("node{node}");
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    wait::until(&format!("{name} to be ready: {ready}"), TIMEOUT, || {
        let now = cluster.must_kubectl(&["get", "node", &name, "-o", path]);
        (now == ready).then_some(()).ok_or(now)
    });
}
