//! Backends are the clients of the vL3 network with the labels of NSM_SELECTOR.

use serde_json::{Value, json};

use vl3lb_tests::mesh::balancer::MeshBalancer;
use vl3lb_tests::mesh::client::{MeshClient, service_url};
use vl3lb_tests::mesh::server::{MeshServer, addresses};
use vl3lb_tests::mesh::traffic::{Traffic, wait_all_answer};
use vl3lb_tests::mesh::{Mesh, Sdk};
use vl3lb_tests::wait;

/// The configuration of a client with these labels, as in a URL's query.
fn with_labels(labels: &str) -> Value {
    json!({"networkServices": [service_url(labels)]})
}

/// P9: the predecessor took a client with any of the labels.
#[test]
fn a_backend_has_all_labels_of_the_selector() {
    let mesh = Mesh::start(&[]);
    let both = MeshServer::start_with(&mesh, 1, 0, with_labels("app=finance&tier=web"));
    let _one = MeshServer::start_with(&mesh, 2, 0, with_labels("app=finance"));
    let _other = MeshServer::start_with(&mesh, 3, 0, with_labels("tier=web"));
    let balancer = MeshBalancer::join_with(&mesh, &[("NSM_SELECTOR", "app:finance,tier:web")]);
    balancer.wait_up(&[both.address()]);
    let also = MeshServer::start_with(&mesh, 4, 0, with_labels("tier=web&app=finance&x=y"));
    balancer.wait_up(&[both.address(), also.address()]);
}

/// P10: the predecessor ignored an event whose labels no longer matched.
#[test]
fn changed_labels_add_and_remove_a_backend() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 2);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    let traffic = Traffic::start(&client.netns, balancer.address());
    let (serving, other): (Vec<_>, Vec<_>) =
        servers.iter().partition(|server| server.name() == traffic.server);

    serving[0].client.relabel(&json!({"app": "other"}));
    balancer.wait_up(&[other[0].address()]);
    traffic.goes_on(20);
    serving[0].client.relabel(&json!({"app": "finance"}));
    balancer.wait_up(&addresses(&servers));
    traffic.goes_on(20);
    traffic.finish();
}

#[test]
fn a_client_that_leaves_is_no_backend_any_more() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let mut servers = MeshServer::several(&mesh, 3);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    servers.remove(1).client.leave();
    balancer.wait_up(&addresses(&servers));
    wait_all_answer(&client.netns, balancer.address(), &servers);
}

/// P18: nobody closes the connection of a killed client; NSM itself notices after most of its token's life.
#[test]
fn a_killed_client_gets_no_connections_long_before_its_token_ends() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let mut servers = MeshServer::several(&mesh, 3);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    servers[0].crash();
    balancer.wait_up(&addresses(&servers[1..]));
    wait_all_answer(&client.netns, balancer.address(), &servers[1..]);
}

/// P18: the predecessor sent connections to every client of the network, whether its program listened or not.
#[test]
fn a_client_without_a_listening_program_gets_no_connections() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 1);
    let _idle = MeshClient::labelled(&mesh, "idle", "app=finance");
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    wait_all_answer(&client.netns, balancer.address(), &servers);
}

#[test]
fn backends_of_other_nodes_and_endpoints_are_found() {
    let mesh = Mesh::start(&["--nodes", "2", "--endpoints", "2"]);
    let client = MeshClient::connect(&mesh, "client");
    let mut servers: Vec<MeshServer<'_>> = (1..=4)
        .map(|number| MeshServer::start_with(&mesh, number, number % 2, with_labels("app=finance")))
        .collect();
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    wait_all_answer(&client.netns, balancer.address(), &servers);
    let endpoints = balancer.discovery()["nsm"]["endpoints"].clone();
    let managers = endpoints.as_array().into_iter().flatten();
    let is_remote = |endpoint: &&Value| {
        let server = endpoint["monitor"]["server"].as_str().unwrap_or_default();
        server.starts_with("tcp://")
    };
    assert_eq!(managers.filter(is_remote).count(), 1, "{endpoints}");

    // The monitor of the other node's manager is opened again.
    let traffic = Traffic::start(&client.netns, balancer.address());
    mesh.interrupt("nsmgr-1");
    traffic.goes_on(20);
    balancer.wait_up(&addresses(&servers));
    servers.push(MeshServer::start_with(&mesh, 5, 1, with_labels("app=finance")));
    balancer.wait_up(&addresses(&servers));
    traffic.finish();
}

/// P7, P8: an endpoint that comes and goes, with the clients that it serves.
#[test]
fn an_endpoint_may_join_and_leave() {
    let mesh = Mesh::start(&["--nodes", "2"]);
    let client = MeshClient::connect(&mesh, "client");
    let first = MeshServer::start(&mesh, 1);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&[first.address()]);
    // A watch that began after the loss of another.
    mesh.interrupt("registry");
    mesh.post(
        "/parts",
        &json!({"kind": "endpoint", "name": "nse-vl3-1", "node": 1}),
    );
    let mut servers = vec![first];
    let of_the_new_one =
        |server: &MeshServer<'_>| server.client.connection()["network_service_endpoint_name"] == "nse-vl3-1";
    for number in 2.. {
        servers.push(MeshServer::start_with(
            &mesh,
            number,
            1,
            with_labels("app=finance"),
        ));
        if servers.last().is_some_and(of_the_new_one) {
            break;
        }
        assert!(number < 8, "no client gets the new endpoint");
    }
    balancer.wait_up(&addresses(&servers));
    wait_all_answer(&client.netns, balancer.address(), &servers);
    servers.pop().expect("the one of the new endpoint").client.leave();
    mesh.stop("nse-vl3-1");
    balancer.wait_up(&addresses(&servers));
    wait_all_answer(&client.netns, balancer.address(), &servers);
}

/// P11: the predecessor used the first address only, and crashed without one.
#[test]
fn both_address_families_are_balanced() {
    let mesh = Mesh::start_with(Sdk::V1_14, &["--prefix", "172.16.0.0/16,fd12::/64"]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 2);
    let balancer = MeshBalancer::join(&mesh);
    let all: Vec<_> = servers
        .iter()
        .flat_map(|server| server.client.addresses())
        .collect();
    assert_eq!(all.len(), 4);
    balancer.wait_up(&all);
    let own = balancer.addresses();
    assert_eq!(own.len(), 2);
    for address in own {
        wait_all_answer(&client.netns, address, &servers);
    }
}

/// This version of the SDK gives the address of the last prefix only.
#[test]
fn a_network_of_two_prefixes_that_gives_one_address_is_balanced() {
    let mesh = Mesh::start_with(Sdk::V1_13, &["--prefix", "172.16.0.0/16,fd12::/64"]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 2);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    assert_eq!(balancer.addresses().len(), 1);
    assert!(balancer.address().is_ipv6());
    wait_all_answer(&client.netns, balancer.address(), &servers);
}

/// Events of a monitor carry the bearer tokens of all clients.
#[test]
fn tokens_of_clients_are_in_no_log_or_status() {
    let mesh = Mesh::start(&[]);
    let servers = MeshServer::several(&mesh, 1);
    let balancer = MeshBalancer::join_with(&mesh, &[("NSM_LOG_LEVEL", "TRACE")]);
    balancer.wait_up(&addresses(&servers));
    mesh.cut("nsmgr-0", "error");
    balancer.wait_connected();
    let also = MeshServer::start(&mesh, 2);
    balancer.wait_up(&[servers[0].address(), also.address()]);
    let log = balancer.log();
    assert!(log.contains(r#"\"logLevel\":\"trace\""#), "{log}");
    let shown = [
        log,
        balancer.cli_json(&["status"]).to_string(),
        balancer.cli_json(&["events"]).to_string(),
        balancer.cli_json(&["backends"]).to_string(),
    ];
    for text in shown {
        // The start of each JWT.
        let token = text
            .find("eyJ")
            .map(|at| text[at..].chars().take(40).collect::<String>());
        assert_eq!(token, None);
    }
}

/// A manager that shows each client its own connections only.
#[test]
fn a_manager_that_forbids_monitoring_is_a_warning() {
    let mesh = Mesh::start(&["--restrict-monitor"]);
    let mut balancer = MeshBalancer::launch(&mesh, &[]);
    balancer.wait_connected();
    wait::until("a warning", 2 * wait::STEP, || {
        let status = balancer.cli_json(&["status"]);
        let warnings = status["items"][0]["warnings"].to_string();
        warnings
            .contains("no sufficient privileges")
            .then_some(())
            .ok_or(warnings)
    });
    assert_eq!(balancer.nsm()["monitored"], true, "its own connection");
    assert!(balancer.terminate().success());
}
