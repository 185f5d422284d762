//! Identities change while the balancer runs: SVIDs, and the authority's roots.

use std::time::Duration;

use serde_json::{Value, json};

use vl3lb_tests::mesh::Mesh;
use vl3lb_tests::mesh::balancer::MeshBalancer;
use vl3lb_tests::mesh::client::MeshClient;
use vl3lb_tests::mesh::comparison::Comparison;
use vl3lb_tests::mesh::server::{MeshServer, addresses};
use vl3lb_tests::wait;

/// Refreshes go on with the new identity, and discovery too.
fn goes_on_after(rotation: &str) {
    let mesh = Mesh::start(&["--token-lifetime", "30s"]);
    let client = MeshClient::connect(&mesh, "client");
    let bystander = MeshClient::connect(&mesh, "bystander");
    let other = MeshServer::start_with(&mesh, 9, 0, json!({}));
    let mut servers = MeshServer::several(&mesh, 2);
    let balancer = MeshBalancer::join_with(&mesh, &[("NSM_MAX_TOKEN_LIFETIME", "30s")]);
    let address = balancer.address();
    balancer.wait_up(&addresses(&servers));
    let comparison = Comparison::start((&client, &balancer, &servers), (&bystander, &other));

    mesh.post(rotation, &Value::Null);
    // With an identity that is refused none would work. Single calls may fail: the manager gives a connection to its
    // forwarder 750 ms, and one of both may still have the former root.
    wait_for_refreshes(&balancer, 2);
    assert_eq!(balancer.addresses(), [address]);
    // A new stream with the new identity.
    mesh.cut("nsmgr-0", "connections");
    servers.push(MeshServer::start(&mesh, 3));
    balancer.wait_up(&addresses(&servers));
    comparison.goes_on();
    comparison.finish(rotation);
}

fn wait_for_refreshes(balancer: &MeshBalancer, count: u64) {
    let before = balancer.calls("refresh", "ok");
    wait::until("refreshes", Duration::from_secs(30), || {
        let now = balancer.calls("refresh", "ok");
        (now >= before + count)
            .then_some(())
            .ok_or_else(|| format!("{now} after {before}"))
    });
}

#[test]
fn new_svids_are_used() {
    goes_on_after("/svid/rotate");
}

#[test]
fn a_second_root_is_trusted() {
    goes_on_after("/ca/rotate");
}

#[test]
fn a_new_root_replaces_the_old_one() {
    goes_on_after("/ca/rotate?retire");
}

/// SVIDs that are renewed twice as often as tokens expire.
#[test]
fn short_lived_svids_shorten_the_refresh_interval() {
    let mesh = Mesh::start(&["--svid-ttl", "60s"]);
    let servers = MeshServer::several(&mesh, 1);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    wait::until("two refreshes", Duration::from_secs(40), || {
        let now = balancer.calls("refresh", "ok");
        (now >= 2).then_some(()).ok_or_else(|| format!("{now} refreshes"))
    });
    assert_eq!(balancer.nsm()["state"], "connected");
    assert_eq!(balancer.up().len(), 1);
}
