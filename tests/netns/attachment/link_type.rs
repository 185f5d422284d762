//! The interface is replaced by one of another link type.

use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_testbed::switch::{Switch, SwitchPort};
use vl3lb_testbed::tun::{self, TunKind};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::topology::{Shape, Topology};

use super::{
    Layout, assert_no_defects, download, get, interface, interface_lost, remove, two_servers, wait_attached,
    wait_not_ready,
};
use crate::finance::Testbed;

#[test]
fn a_download_survives_a_change_from_ethernet_to_raw_ip_and_back() {
    let attachment = &Attachment::VETH_AUTO;
    let shape = Shape {
        layout: Layout::Routed,
        ..two_servers(attachment)
    };
    let mut testbed = Testbed::http(&shape, attachment.mode);
    let (topology, balancer) = (&testbed.topology, &mut testbed.balancer);
    let mut link = None;
    download(topology, Family::V4, || {
        remove(topology);
        link = Some(tun_link(topology));
        wait_attached(balancer, "tun");
        // Only now: there is no MAC address to learn first, so packets come at once.
        topology.router().connect(&topology.balancer).or_panic();
    });
    balancer.wait_ready();
    let now = interface(balancer);
    assert_eq!((&now["link"], &now["kind"]), (&"raw-ip".into(), &"tun".into()));
    get(topology);
    download(topology, Family::V4, || {
        drop(link.take());
        wait_not_ready(balancer, "does not exist");
        veth_link(topology, balancer);
    });
    balancer.wait_ready();
    assert_eq!(interface(balancer)["link"], "ethernet");
    get(topology);
    assert_eq!(interface_lost(balancer), 0.0);
    assert_no_defects(balancer);
}

/// A veth pair between router and balancer, of which the router uses its end when the balancer is attached: until
/// then the kernel would reset the flows of the packets.
fn veth_link(topology: &Topology, balancer: &Balancer) {
    let (router, node) = (topology.router(), &topology.balancer);
    router.add_link(node, 1500, 1).or_panic();
    node.configure(Layout::Routed).or_panic();
    wait_attached(balancer, "veth");
    router.connect(node).or_panic();
}

/// A pair of TUN devices between router and balancer, of which the router does not use its end yet. Dropping it
/// removes both.
fn tun_link(topology: &Topology) -> Switch {
    let (router, node) = (topology.router(), &topology.balancer);
    let open = |netns, name| tun::open(netns, name, TunKind::Plain).or_panic();
    let near = SwitchPort {
        device: open(&node.netns, INTERFACE),
        prefixes: node.addresses.iter().map(|&address| address.into()).collect(),
    };
    let far = SwitchPort {
        device: open(&router.netns, &node.router_port),
        prefixes: Family::BOTH.map(Family::network).into(),
    };
    node.configure(Layout::Switched).or_panic();
    Switch::start(vec![near, far], TunKind::Plain).or_panic()
}
