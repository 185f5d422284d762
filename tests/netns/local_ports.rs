//! Programs beside the balancer.

use std::net::SocketAddr;

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::server::TcpServer;
use vl3lb_tests::socket::connect_tcp;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{self, TARGET_PORT, echo_servers};
use crate::routing::warnings;

#[test]
fn a_program_at_a_nat_port_is_a_warning() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = echo_servers(&topology);
    let own = &topology.balancer;
    let listener = TcpServer::echo(&own.netns, "beside", 15_020);
    let balancer = Balancer::start(own, &finance::config(&topology, "auto"));
    let shows = |what: &str, parts: &[&str]| {
        wait::until(what, wait::STEP, || {
            let shown = warnings(&balancer, "nat_ports_taken");
            let is_shown = match &shown[..] {
                [] => parts.is_empty(),
                [text] => !parts.is_empty() && parts.iter().all(|part| text.contains(part)),
                _ => false,
            };
            is_shown.then_some(()).ok_or_else(|| format!("{shown:?}"))
        });
    };
    shows("a listener from before the start", &[":15020"]);
    drop(listener);
    shows("no warning after it is gone", &[]);

    // Its SYN leaves by the kernel; the response is taken for a reply of a backend.
    let from = SocketAddr::new(own.address(Family::V4), 15_333);
    let to = SocketAddr::new(topology.servers[0].address(Family::V4), TARGET_PORT);
    let connection = own
        .netns
        .spawn("client", move || connect_tcp(from, to, wait::STEP).map(drop))
        .expect("start a thread");
    shows("a connection that began later", &["TCP 172.16.1.103:15333"]);
    drop(connection);
}
