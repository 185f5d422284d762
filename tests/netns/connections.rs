//! Idle connections do not lock out probes and DNS clients.

use std::net::{SocketAddr, TcpStream};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vl3lb_testbed::Netns;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::dig;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance;

/// More than the balancer's limit of descriptors.
const IDLE: usize = 1123;

/// Opens connections and sends nothing.
fn open_idle(netns: &Netns, address: SocketAddr) -> Vec<TcpStream> {
    let connect = || TcpStream::connect(address).expect("open an idle connection");
    netns.run(|| (0..IDLE).map(|_| connect()).collect())
}

#[test]
fn idle_connections_lock_out_neither_probes_nor_queries() {
    // This process holds the other ends.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("raise the limit of open files");
    let topology = Topology::build(&Shape::of(&Attachment::VETH_GENERIC));
    let config = finance::config(&topology, "generic");
    let program = ["prlimit", "--nofile=1024:1024"];
    let mut balancer = Balancer::launch_through(&topology.balancer, &config, &program);
    balancer.wait_ready();

    let admin: SocketAddr = "127.0.0.1:9090".parse().expect("an address");
    let _to_admin = open_idle(&topology.balancer.netns, admin);
    let client = &topology.clients[0].netns;
    let dns = SocketAddr::new(Family::V4.balancer(), 53);
    let _to_dns = open_idle(client, dns);

    for path in ["/healthz", "/readyz", "/metrics"] {
        let (status, _) = balancer.http(path).expect(path);
        assert_eq!(status, 200, "{path}");
    }
    let answer = dig(client, dns.ip(), &["finance.vl3-lb", "A", "+tcp"]);
    assert_eq!(answer.status, "NOERROR");
    let open = balancer.metrics().sum("process_open_fds", &[]);
    assert!(open < 600.0, "{open} descriptors");
}
