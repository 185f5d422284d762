//! Outages of the control plane: connections go on, new ones are balanced, and afterwards all is as before.

use serde_json::json;

use vl3lb_tests::mesh::balancer::MeshBalancer;
use vl3lb_tests::mesh::client::{MeshClient, service_url};
use vl3lb_tests::mesh::comparison::Comparison;
use vl3lb_tests::mesh::server::{MeshServer, addresses};
use vl3lb_tests::mesh::traffic::{ask, wait_all_answer};
use vl3lb_tests::mesh::{Mesh, OUTAGE};
use vl3lb_tests::wait;

/// A client, three servers and the balancer, with a connection open during what `disturb` does.
fn survives(fault: &str, options: &[&str], disturb: impl FnOnce(&Mesh, &dyn Fn())) {
    let mesh = Mesh::start(options);
    let client = MeshClient::connect(&mesh, "client");
    let bystander = MeshClient::connect(&mesh, "bystander");
    let other = MeshServer::start_with(&mesh, 9, 0, json!({}));
    let mut servers = MeshServer::several(&mesh, 3);
    let balancer = MeshBalancer::join(&mesh);
    let address = balancer.address();
    balancer.wait_up(&addresses(&servers));
    let comparison = Comparison::start((&client, &balancer, &servers), (&bystander, &other));

    disturb(&mesh, &|| {
        comparison.goes_on();
        // P5, P6: the loss of a stream is not the loss of the backends.
        ask(&client.netns, address).expect("a new connection during the outage");
    });

    comparison.goes_on();
    balancer.wait_connected();
    wait_synced(&balancer);
    assert_eq!(balancer.addresses(), [address]);
    assert_eq!(
        balancer.nsm()["replacementsTotal"],
        0,
        "the connection was given up"
    );
    balancer.wait_up(&addresses(&servers));
    balancer.assert_no_backend_lost();
    wait_all_answer(&client.netns, address, &servers);
    for server in &servers {
        assert_eq!(
            server.client.reselects(),
            0,
            "the SDK's client gave up its connection"
        );
    }
    comparison.finish(fault);
    // Discovery goes on: P5, P8.
    servers.push(MeshServer::start(&mesh, 4));
    balancer.wait_up(&addresses(&servers));
    servers.remove(0).client.leave();
    balancer.wait_up(&addresses(&servers));
}

/// Waits until all streams of discovery are there.
fn wait_synced(balancer: &MeshBalancer) {
    wait::until("all streams of discovery", 2 * wait::STEP, || {
        let discovery = balancer.discovery();
        let is_synced = discovery["synced"] == true && discovery["lastError"].is_null();
        is_synced.then_some(()).ok_or_else(|| discovery.to_string())
    });
}

fn survives_the_death_of(part: &str) {
    survives(&format!("{part} is killed"), &[], |mesh, during| {
        mesh.kill(part);
        during();
        std::thread::sleep(OUTAGE);
        during();
        mesh.start_again(part);
    });
}

#[test]
fn a_killed_manager_stops_nothing() {
    survives_the_death_of("nsmgr-0");
}

#[test]
fn a_killed_forwarder_stops_nothing() {
    survives_the_death_of("forwarder-0");
}

#[test]
fn a_killed_registry_stops_nothing() {
    survives_the_death_of("registry");
}

#[test]
fn a_killed_endpoint_stops_nothing() {
    survives_the_death_of("nse-vl3-0");
}

#[test]
fn ended_streams_are_opened_again() {
    survives("streams end", &[], |mesh, during| {
        for how in ["eof", "error", "connections"] {
            mesh.cut("nsmgr-0", how);
            during();
        }
    });
}

/// P17: the predecessor never closed the connections of its monitors.
#[test]
fn lost_streams_leave_no_open_files() {
    let mesh = Mesh::start(&[]);
    let servers = MeshServer::several(&mesh, 1);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    let files = || {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", balancer.pid())).expect("it runs");
        entries.count()
    };
    let losses = || balancer.nsm()["monitorLossesTotal"].as_u64().expect("a number");
    let before = files();
    for how in ["error", "connections"].repeat(2) {
        // The pause before the next one doubles.
        wait::until("a monitor", 2 * wait::STEP, || {
            (balancer.nsm()["monitored"] == true).then_some(()).ok_or("none")
        });
        let lost = losses();
        mesh.cut("nsmgr-0", how);
        wait::until("the loss of the monitor", wait::STEP, || {
            (losses() > lost).then_some(()).ok_or("none")
        });
        balancer.wait_connected();
        wait_synced(&balancer);
    }
    // Each loss is one of the own monitor and two of discovery.
    wait::until("the old files to be closed", wait::STEP, || {
        let now = files();
        (now <= before + 2)
            .then_some(())
            .ok_or_else(|| format!("{now} files, {before} before"))
    });
}

/// Calls hang until their timeout.
#[test]
fn a_manager_that_hangs_stops_nothing() {
    survives(
        "the manager hangs",
        &["--request-timeout", "5s"],
        |mesh, during| {
            mesh.post("/parts/nsmgr-0/pause", &json!(null));
            std::thread::sleep(3 * OUTAGE);
            during();
            mesh.post("/parts/nsmgr-0/resume", &json!(null));
        },
    );
}

#[test]
fn everything_but_the_data_plane_may_die_at_once() {
    let parts = ["nse-vl3-0", "forwarder-0", "nsmgr-0", "registry"];
    survives("all parts are killed", &[], |mesh, during| {
        for part in parts {
            mesh.kill(part);
        }
        std::thread::sleep(OUTAGE);
        during();
        for part in parts.iter().rev() {
            mesh.start_again(part);
        }
    });
}

/// P22: the predecessor did not notice the death of the data plane. The others here do not either, so that none of them
/// claims its old address again, which the network may have given to the balancer meanwhile.
#[test]
fn a_dead_data_plane_is_noticed_and_works_again() {
    let mesh = Mesh::start(&[]);
    let unaware = json!({"withoutLiveness": true, "networkServices": [service_url("app=finance")]});
    let client = MeshClient::connect_with(&mesh, "client", 0, json!({"withoutLiveness": true}));
    let server = MeshServer::start_with(&mesh, 1, 0, unaware);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&[server.address()]);
    mesh.data_plane("dead");
    let data_plane_becomes = |state: &str| {
        wait::until(&format!("data plane {state}"), 2 * wait::STEP, || {
            let nsm = balancer.nsm();
            (nsm["dataPlane"] == state)
                .then_some(())
                .ok_or_else(|| nsm["dataPlane"].to_string())
        });
    };
    data_plane_becomes("silent");
    let replaced = || balancer.nsm()["replacementsTotal"].as_u64().expect("a number");
    wait::until("another connection", 2 * wait::STEP, || {
        (replaced() > 0).then_some(()).ok_or("the old one")
    });
    mesh.data_plane("alive");
    data_plane_becomes("alive");
    balancer.wait_connected();
    balancer.wait_up(&[server.address()]);
    // The address may be a new one, which the workers learn of shortly after the status has it.
    wait::until("a connection through the new one", wait::STEP, || {
        ask(&client.netns, balancer.address())
    });
}

/// As the death of a forwarder's VPP does.
#[test]
fn a_lost_interface_is_requested_again() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 1);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    let requests = servers[0].client.requests();
    mesh.data_plane("lost");
    servers[0].client.wait_requests(requests);
    wait::until("an answer through the new interface", 2 * wait::STEP, || {
        balancer.wait_connected();
        ask(&client.netns, balancer.address())
    });
}
