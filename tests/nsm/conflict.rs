//! Clients that claim what others have, and close what is not theirs: no policy of NSM forbids it.

use serde_json::json;

use vl3lb_tests::mesh::Mesh;
use vl3lb_tests::mesh::balancer::{MeshBalancer, NAME};
use vl3lb_tests::mesh::client::{MeshClient, service_url};
use vl3lb_tests::mesh::server::{MeshServer, addresses};
use vl3lb_tests::mesh::traffic::{Traffic, ask, wait_all_answer};
use vl3lb_tests::wait;

fn wait_event(balancer: &MeshBalancer, code: &str) {
    wait::until(&format!("the event {code}"), 2 * wait::STEP, || {
        let codes = balancer.event_codes();
        codes
            .iter()
            .any(|have| have == code)
            .then_some(())
            .ok_or_else(|| format!("{codes:?}"))
    });
}

/// Two connections with one address are also normal for a while: after a reselection.
#[test]
fn a_second_claim_of_a_backends_address_is_an_event_and_cuts_nothing() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 2);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    let traffic = Traffic::start(&client.netns, balancer.address());
    let (_, idle): (Vec<_>, Vec<_>) = servers.iter().partition(|server| server.name() == traffic.server);

    // The address of the server that does not serve the traffic, since the network sends its packets to the claimant.
    let claimed = format!("{}/32", idle[0].address());
    let config = json!({"networkServices": [service_url("app=finance")], "sourceAddresses": [claimed]});
    let claimant = MeshClient::connect_with(&mesh, "claimant", 0, config);
    assert_eq!(claimant.address(), idle[0].address());
    wait_event(&balancer, "address_conflict");
    traffic.goes_on(20);
    claimant.leave();
    traffic.goes_on(20);
    traffic.finish();
}

/// Labels are a client's own word, so a claimant could take another's address into a service.
#[test]
fn a_claim_of_an_address_takes_no_other_client_into_a_service() {
    let mesh = Mesh::start(&[]);
    let victim = MeshClient::labelled(&mesh, "ledger-1", "app=ledger");
    let servers = MeshServer::several(&mesh, 1);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    let address = victim.address();
    let claimed = format!("{address}/32");
    let config = json!({"networkServices": [service_url("app=finance")], "sourceAddresses": [claimed]});
    let claimant = MeshClient::connect_with(&mesh, "claimant", 0, config);
    assert_eq!(claimant.address(), address, "the network lets it");
    wait_event(&balancer, "address_conflict");
    let text = balancer.events("address_conflict")[0]["text"].clone();
    assert_eq!(
        text,
        format!(
            "address {address} is claimed by client claimant (claimant-0) and belongs to client ledger-1 (ledger-1-0)"
        )
    );
    assert_eq!(
        balancer.cli_json(&["backends"])["items"].as_array().map(Vec::len),
        Some(1)
    );
    let open = || balancer.metrics().sum("vl3lb_nsm_conflicts_open", &[]);
    assert!(open() > 0.5);
    claimant.leave();
    wait::until("the end of the conflict", wait::STEP, || {
        let open = open();
        (open < 0.5).then_some(()).ok_or(open)
    });
}

#[test]
fn a_second_claim_of_the_balancers_name_is_an_event() {
    let mesh = Mesh::start(&[]);
    let servers = MeshServer::several(&mesh, 1);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    let _claimant = MeshClient::connect_with(&mesh, "claimant", 0, json!({"podName": NAME}));
    wait_event(&balancer, "name_conflict");
}

#[test]
fn a_connection_that_another_client_closed_is_requested_again() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 2);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    let id = balancer.nsm()["id"].clone();
    let granted = balancer.nsm()["grantedTime"].clone();
    mesh.post("/parts/client/closeOther", &id);
    wait::until("another connection", 2 * wait::STEP, || {
        let now = balancer.nsm()["grantedTime"].clone();
        (now != granted).then_some(()).ok_or("the old one")
    });
    balancer.wait_connected();
    wait::until("an answer through it", 2 * wait::STEP, || {
        ask(&client.netns, balancer.address())
    });
    balancer.wait_up(&addresses(&servers));
    wait_all_answer(&client.netns, balancer.address(), &servers);
}
