//! Backends follow the pods of a real API server through restarts, compaction and bulk changes.

use std::time::Duration;

use serde_json::json;
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::api_server::ApiServer;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::Config;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::pods::{NAMESPACE, Pods};

/// ServiceAccount, Role and RoleBinding of the manifests.
pub(crate) const ROLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/base/rbac.yaml");
/// The balancer pauses for half a minute at most between two attempts to reach the server.
pub(crate) const CONVERGENCE: Duration = Duration::from_secs(60);

#[test]
fn backends_stay_without_the_api_server_and_follow_it_again_later() {
    let testbed = Testbed::build();
    let mut server = testbed.server();
    Pods::new(&server).create(0..20);
    let balancer = testbed.balancer(&server);
    expect_backends(&balancer, 20, 0);

    server.kill();
    wait::until(
        "the balancer to notice the loss of the server",
        CONVERGENCE,
        || match balancer.metrics().find("vl3lb_discovery_synced", &[]) {
            Some(0.0) => Ok(()),
            synced => Err(format!("synced: {synced:?}")),
        },
    );
    expect_backends(&balancer, 20, 0);
    assert_eq!(balancer.http("/readyz").expect("GET /readyz").0, 200);

    server.restart();
    let pods = Pods::new(&server);
    pods.delete(0..5);
    pods.create(20..30);
    pods.set_ready(10..13, false);
    // Unready backends stay and drain; removed ones have no flows to wait for.
    expect_backends(&balancer, 22, 3);
    let synced = || balancer.metrics().sum("vl3lb_discovery_synced", &[]);
    wait::until("the balancer to be synchronized", CONVERGENCE, || {
        (synced() == 1.0).then_some(()).ok_or("not synced")
    });
}

#[test]
fn a_compacted_etcd_causes_a_new_list() {
    let testbed = Testbed::build();
    // Without its cache the server answers from etcd, which is compacted.
    let mut server = testbed.server_with(&["--watch-cache=false"]);
    Pods::new(&server).create(0..10);
    let balancer = testbed.balancer(&server);
    expect_backends(&balancer, 10, 0);

    server.kill();
    balancer.pause();
    server.restart();
    let pods = Pods::new(&server);
    pods.delete(0..3);
    pods.create(10..15);
    server.compact();
    let lists = server.requests("LIST", "pods");
    balancer.resume();
    expect_backends(&balancer, 12, 0);
    assert!(
        server.requests("LIST", "pods") > lists,
        "the balancer did not list again"
    );
}

#[test]
fn two_thousand_pods_with_bulk_status_changes_converge() {
    let testbed = Testbed::build();
    let server = testbed.server();
    let pods = Pods::new(&server);
    pods.create(0..2000);
    let balancer = testbed.balancer(&server);
    expect_backends(&balancer, 2000, 0);

    pods.set_ready(0..1000, false);
    expect_backends(&balancer, 1000, 1000);
    pods.set_ready(0..1000, true);
    pods.set_ready(1500..2000, false);
    expect_backends(&balancer, 1500, 500);
    assert_eq!(balancer.metrics().drops("internal"), 0.0);
}

/// Waits until these numbers of backends are up and draining.
pub(crate) fn expect_backends(balancer: &Balancer, up: u32, draining: u32) {
    let what = format!("{up} backends up and {draining} draining");
    wait::until(&what, CONVERGENCE, || {
        let metrics = balancer.metrics();
        let count = |state| metrics.sum("vl3lb_service_backends", &[("state", state)]);
        let found = (count("up"), count("draining"));
        (found == (up.into(), draining.into()))
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    });
}

/// A vL3 network whose router runs the API server.
pub(crate) struct Testbed(Topology);

impl Testbed {
    pub(crate) fn build() -> Self {
        Self::build_with(&Attachment::VETH_AUTO)
    }

    pub(crate) fn build_with(attachment: &Attachment) -> Self {
        let topology = Topology::build(&Shape::of(attachment));
        // The pods of the test have addresses without anything behind them.
        topology
            .balancer
            .netns
            .ip(&format!("route add 10.128.0.0/16 via {}", Family::V4.router()))
            .or_panic();
        Self(topology)
    }

    pub(crate) fn server(&self) -> ApiServer {
        self.server_with(&[])
    }

    fn server_with(&self, options: &[&str]) -> ApiServer {
        let server = ApiServer::start_with(&self.0.router().netns, Family::V4.router(), options);
        server.kubeconfig_of(NAMESPACE, "vl3-lb");
        server
    }

    /// A balancer with the permissions of the manifests.
    pub(crate) fn balancer(&self, server: &ApiServer) -> Balancer {
        self.balancer_of(server, &finance())
    }

    /// The same with another configuration.
    pub(crate) fn balancer_of(&self, server: &ApiServer, config: &Config) -> Balancer {
        server.must_kubectl(&["apply", "--namespace", NAMESPACE, "--filename", ROLE], "");
        let mut balancer = self.launch_with(server, config);
        balancer.wait_ready_answer();
        balancer
    }

    fn launch_with(&self, server: &ApiServer, config: &Config) -> Balancer {
        let kubeconfig = server.kubeconfig_of(NAMESPACE, "vl3-lb");
        let variable = format!("KUBECONFIG={}", kubeconfig.display());
        Balancer::launch_through(&self.0.balancer, config, &["env", &variable])
    }
}

fn finance() -> Config {
    Config::new("auto")
        .with("discovery", "kubernetes".into())
        .service(json!({
            "name": "finance",
            "protocol": "TCP",
            "port": 8080,
            "targetPort": 8081,
            "selector": {"app": "finance"},
            "drain": "300s",
        }))
}
