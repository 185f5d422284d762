//! Backends follow the pods of a real API server through everything that it does to a watch.

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

/// The account, the role and its binding that we ship.
pub(crate) const ROLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/base/rbac.yaml");
/// The balancer pauses for half a minute at most between two attempts to reach the server.
pub(crate) const CONVERGENCE: Duration = Duration::from_secs(60);

#[test]
fn a_killed_server_changes_nothing_and_its_return_brings_all_changes() {
    let world = World::build();
    let mut server = world.server();
    Pods::new(&server).create(0..20);
    let balancer = world.balancer(&server);
    expect_backends(&balancer, 20, 0);

    server.kill();
    wait::until("the balancer to miss the server", CONVERGENCE, || match balancer
        .metrics()
        .find("vl3lb_discovery_synced", &[])
    {
        Some(0.0) => Ok(()),
        synced => Err(format!("synced: {synced:?}")),
    });
    expect_backends(&balancer, 20, 0);
    assert_eq!(balancer.http("/readyz").expect("it answers").0, 200);

    server.restart();
    let pods = Pods::new(&server);
    pods.delete(0..5);
    pods.create(20..30);
    pods.set_ready(10..13, false);
    // The unready ones stay; those that are gone had no flows to wait for.
    expect_backends(&balancer, 22, 3);
    let synced = || balancer.metrics().sum("vl3lb_discovery_synced", &[]);
    wait::until("the balancer to be in step", CONVERGENCE, || {
        (synced() == 1.0)
            .then_some(())
            .ok_or_else(|| "not synced".to_owned())
    });
}

#[test]
fn a_compacted_etcd_makes_the_balancer_list_again() {
    let world = World::build();
    // Without its cache the server answers from etcd, which has forgotten.
    let mut server = world.server_with(&["--watch-cache=false"]);
    Pods::new(&server).create(0..10);
    let balancer = world.balancer(&server);
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
    assert!(server.requests("LIST", "pods") > lists, "410 Gone was not met");
}

#[test]
fn two_thousand_pods_and_statuses_by_the_thousand_converge() {
    let world = World::build();
    let server = world.server();
    let pods = Pods::new(&server);
    pods.create(0..2000);
    let balancer = world.balancer(&server);
    expect_backends(&balancer, 2000, 0);

    pods.set_ready(0..1000, false);
    expect_backends(&balancer, 1000, 1000);
    pods.set_ready(0..1000, true);
    pods.set_ready(1500..2000, false);
    expect_backends(&balancer, 1500, 500);
    assert_eq!(balancer.metrics().drops("internal"), 0.0);
}

/// Waits until so many backends take new flows, and so many do not.
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

/// A vL3 network whose router is home to the API server.
pub(crate) struct World(Topology);

impl World {
    pub(crate) fn build() -> Self {
        Self::build_with(&Attachment::VETH_AUTO)
    }

    pub(crate) fn build_with(attachment: &Attachment) -> Self {
        let topology = Topology::build(&Shape::of(attachment));
        // The pods of the test have addresses, but nobody answers there.
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

    /// A balancer with the permissions that we ship.
    pub(crate) fn balancer(&self, server: &ApiServer) -> Balancer {
        self.balancer_of(server, &finance())
    }

    /// The same with another configuration.
    pub(crate) fn balancer_of(&self, server: &ApiServer, config: &Config) -> Balancer {
        server.must_kubectl(&["apply", "--namespace", NAMESPACE, "--filename", ROLE], "");
        let mut balancer = self.launch_with(server, config);
        balancer.wait_answering();
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
