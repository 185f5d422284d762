//! Identities of real SPIRE in the place of the test authority, for the control plane and for the balancer.

use std::time::Duration;

use vl3lb_tests::balancer::binary;
use vl3lb_tests::mesh::balancer::MeshBalancer;
use vl3lb_tests::mesh::server::{MeshServer, addresses};
use vl3lb_tests::mesh::{Mesh, Sdk, program};
use vl3lb_tests::spire::Spire;
use vl3lb_tests::wait;

/// SVIDs of a minute are renewed after half of it: the balancer's next refreshes carry the new one, and a server that
/// comes then is found with it.
#[test]
fn spire_gives_and_renews_the_identity_of_the_balancer() {
    let spire = Spire::start("60s");
    spire.register(&program(Sdk::V1_13), "ns/nsm-system");
    let id = spire.register(&binary(), "ns/default/pod/finance");
    let mesh = Mesh::start(&["--workload-api", &spire.workload_api()]);
    let mut servers = MeshServer::several(&mesh, 1);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    let before = balancer.nsm();
    assert_eq!(before["spiffeId"], id, "{before}");

    wait::until("a renewed SVID", Duration::from_secs(90), || {
        let now = balancer.nsm();
        (now["svidExpiryTime"] != before["svidExpiryTime"])
            .then_some(())
            .ok_or_else(|| now.to_string())
    });
    let refreshes = balancer.calls("refresh", "ok");
    wait::until("two refreshes with it", Duration::from_secs(60), || {
        let now = balancer.calls("refresh", "ok");
        (now >= refreshes + 2)
            .then_some(())
            .ok_or_else(|| format!("{now} refreshes after {refreshes}"))
    });
    // A new stream of the manager, and so a handshake with the new SVID.
    mesh.cut("nsmgr-0", "connections");
    servers.push(MeshServer::start(&mesh, 2));
    balancer.wait_up(&addresses(&servers));
    assert_eq!(balancer.nsm()["addresses"], before["addresses"]);
}
