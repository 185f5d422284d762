//! `addressFrom: nsm`: pods that Kubernetes selects, at the addresses of their connections to a vL3 network.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::node::Node;
use vl3lb_tests::api_server::ApiServer;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::Config;
use vl3lb_tests::mesh::balancer::{NAME, PORT, TARGET_PORT};
use vl3lb_tests::mesh::client::MeshClient;
use vl3lb_tests::mesh::server::MeshServer;
use vl3lb_tests::mesh::traffic::ask;
use vl3lb_tests::mesh::{Mesh, SERVICE};
use vl3lb_tests::wait;

use crate::watch::{ROLE, expect_backends};

/// The namespace of the mesh's clients.
const NAMESPACE: &str = "default";

#[test]
fn pods_are_chosen_by_kubernetes_and_reached_through_the_vl3_network() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    // The third has the labels in the vL3 network too, but is no pod that is ready.
    let servers = MeshServer::several(&mesh, 3);
    let node = Node::new(NAME, []).or_panic();
    mesh.attach_pod(&node.netns);
    let server = ApiServer::start(&node.netns, std::net::Ipv4Addr::LOCALHOST.into());
    let kubeconfig = server.kubeconfig_of(NAMESPACE, "vl3-lb");
    server.must_kubectl(&["apply", "--namespace", NAMESPACE, "--filename", ROLE], "");
    for (server_pod, ready) in servers.iter().zip([true, true, false]) {
        create_pod(&server, server_pod.name(), ready);
    }
    let config = Config::new("auto")
        .with("discovery", "kubernetes".into())
        .with("kubernetes", json!({"addressFrom": "nsm"}))
        .with("networkService", SERVICE.into())
        .service(json!({
            "name": "finance", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORT,
            "selector": {"app": "finance"},
        }));
    let variables = [
        format!("KUBECONFIG={}", kubeconfig.display()),
        format!("NSM_CONNECT_TO={}", mesh.connect_to(0)),
        format!("NSM_NETWORK_SERVICES=kernel://{SERVICE}/nsm-1"),
        format!("SPIFFE_ENDPOINT_SOCKET={}", mesh.identity(NAME)),
        format!("NSM_NAME={NAME}"),
        format!("POD_NAME={NAME}"),
        "NODE_NAME=node-0".to_owned(),
    ];
    let program: Vec<&str> = std::iter::once("env")
        .chain(variables.iter().map(String::as_str))
        .collect();
    let mut balancer = Balancer::launch_through(&node, &config, &program);
    balancer.wait_ready();

    // A pod that is not ready keeps its connections and gets no new ones.
    expect_backends(&balancer, 2, 1);
    let status = balancer.cli_json(&["status"]);
    let address = status["items"][0]["nsm"]["addresses"][0]
        .as_str()
        .expect("an address");
    let address = address.parse().expect("an IP address");
    let mut answered = std::collections::BTreeSet::new();
    wait::until("an answer of both", wait::STEP, || {
        answered.insert(ask(&client.netns, address).map_err(|error| error.to_string())?);
        (answered.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{answered:?}"))
    });
    assert!(!answered.contains(servers[2].name()), "{answered:?}");
    set_ready(&server, servers[2].name(), true);
    expect_backends(&balancer, 3, 0);
}

fn create_pod(server: &ApiServer, name: &str, ready: bool) {
    server.run(async |client| {
        let api: Api<Pod> = Api::namespaced(client, NAMESPACE);
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": "finance"}},
            "spec": {
                "nodeName": "node-0",
                "automountServiceAccountToken": false,
                "containers": [{"name": "server", "image": "none"}],
            },
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        api.create(&PostParams::default(), &pod)
            .await
            .expect("create a pod");
    });
    set_ready(server, name, ready);
}

fn set_ready(server: &ApiServer, name: &str, ready: bool) {
    server.run(async |client| {
        let api: Api<Pod> = Api::namespaced(client, NAMESPACE);
        let status = json!({"status": {
            "phase": "Running",
            "podIP": "10.128.1.1",
            "podIPs": [{"ip": "10.128.1.1"}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        }});
        let patched = api
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await;
        patched.expect("write the status of a pod");
    });
}
