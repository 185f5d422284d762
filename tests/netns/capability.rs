//! A missing capability is named.

use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance;

#[test]
fn a_missing_capability_is_named() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let config = finance::config(&topology, "auto");
    // CAP_SYS_ADMIN stands for CAP_BPF too: bpf(2).
    for (dropped, named) in [
        ("-net_admin", "CAP_NET_ADMIN"),
        ("-net_raw", "CAP_NET_RAW"),
        ("-bpf,-sys_admin", "CAP_BPF"),
    ] {
        let without = ["setpriv", "--bounding-set", dropped, "--inh-caps", dropped];
        let mut balancer = Balancer::launch_through(&topology.balancer, &config, &without);
        let status = balancer.wait_end();
        let log = balancer.log();
        assert_eq!(status.code(), Some(2), "without {named}: {log}");
        assert!(log.contains(named), "{named} is not named: {log}");
    }
}
