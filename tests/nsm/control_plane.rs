//! The control plane itself, without the balancer: the SDK's clients work with it, and nothing of it is left.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use vl3lb_tests::client::{dig, ping};
use vl3lb_tests::mesh::client::MeshClient;
use vl3lb_tests::mesh::{DNS, ENDPOINT, Mesh, Sdk};
use vl3lb_tests::wait;

/// Every client has an address, reaches the others, and is found by name.
fn clients_reach_each_other_by_name(sdk: Sdk, options: &[&str]) {
    let mesh = Mesh::start_with(sdk, options);
    let one = MeshClient::labelled(&mesh, "one", "app=finance");
    let other = MeshClient::connect(&mesh, "other");
    assert_ne!(one.address(), other.address());
    assert_eq!(one.connection()["labels"]["app"], "finance");
    ping(&one.netns, ENDPOINT.parse().unwrap());
    ping(&one.netns, other.address());
    let answer = dig(&one.netns, DNS.parse().unwrap(), &["other.vl3-lb", "A"]);
    assert_eq!(answer.records, [(3600, other.address().to_string())]);
    other.leave();
    let answer = dig(&one.netns, DNS.parse().unwrap(), &["other.vl3-lb", "A"]);
    assert_eq!(answer.records, [], "{answer:?}");
}

#[test]
fn clients_reach_each_other_by_name_over_veth() {
    clients_reach_each_other_by_name(Sdk::V1_13, &[]);
}

#[test]
fn clients_reach_each_other_by_name_over_tun() {
    clients_reach_each_other_by_name(Sdk::V1_13, &["--link", "tun"]);
}

#[test]
fn clients_reach_each_other_by_name_with_the_next_sdk() {
    clients_reach_each_other_by_name(Sdk::V1_14, &[]);
}

#[test]
fn clients_of_two_nodes_and_endpoints_reach_each_other() {
    let mesh = Mesh::start(&["--nodes", "2", "--endpoints", "2"]);
    let clients: Vec<MeshClient<'_>> = (0..4)
        .map(|index| MeshClient::connect_with(&mesh, &format!("client-{index}"), index % 2, json!({})))
        .collect();
    for one in &clients {
        for other in &clients {
            ping(&one.netns, other.address());
        }
    }
    let segments = |client: &MeshClient<'_>| {
        client.connection()["path"]["path_segments"]
            .as_array()
            .unwrap()
            .len()
    };
    let mut lengths: Vec<usize> = clients.iter().map(segments).collect();
    lengths.sort_unstable();
    lengths.dedup();
    assert_eq!(lengths, [4, 6], "endpoints of the own node and of the other one");
}

#[test]
fn a_killed_mesh_leaves_no_process_behind() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let pids: Vec<i64> = ["registry", "nsmgr-0", "forwarder-0", "nse-vl3-0", "client"]
        .iter()
        .map(|part| mesh.part(part)["pid"].as_i64().expect("a process id"))
        .collect();
    let supervisor = Pid::from_raw(mesh.pid().cast_signed()).unwrap();
    kill_process(supervisor, Signal::KILL).unwrap();
    for pid in pids {
        wait::until(&format!("the end of process {pid}"), wait::STEP, || {
            let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
            let ended = status.is_err() || status.is_ok_and(|text| text.contains("State:\tZ"));
            ended.then_some(()).ok_or("it runs")
        });
    }
    wait::until("the end of the client's interface", wait::STEP, || {
        let links = client
            .netns
            .run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        (!links.contains("nsm-1")).then_some(()).ok_or(links)
    });
}
