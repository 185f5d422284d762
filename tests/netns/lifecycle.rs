//! The balancer leaves nothing behind when it is terminated, and starts again after it was killed.

use serde_json::Value;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_testbed::{Netns, OrPanic, process};
use vl3lb_tests::attachment::{Attachment, Link};
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance;

on_attachments!(sigterm_ends_with_success_and_leaves_nothing_behind: every_mode);

fn sigterm_ends_with_success_and_leaves_nothing_behind(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::http_servers(&topology);
    let before = Traces::of(&topology.balancer.netns);
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    request(&topology);
    let status = balancer.terminate();
    assert_eq!(status.code(), Some(0), "{}", balancer.log());
    assert_eq!(Traces::of(&topology.balancer.netns), before);
}

on_attachments!(a_killed_balancer_starts_again: every_veth_mode,
    tun_auto = Attachment::TUN_AUTO,
    tun_generic = Attachment::TUN_GENERIC,
);

fn a_killed_balancer_starts_again(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::http_servers(&topology);
    let before = Traces::of(&topology.balancer.netns);
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    request(&topology);
    for _ in 0..2 {
        balancer.kill();
        if attachment.link != (Link::Tun { offloads: false }) {
            // Without the balancer the kernel answers for the address.
            client::ping(&topology.clients[0].netns, Family::V4.balancer());
        }
        balancer.restart();
        request(&topology);
    }
    assert_eq!(balancer.terminate().code(), Some(0), "{}", balancer.log());
    assert_eq!(Traces::of(&topology.balancer.netns), before);
}

fn request(topology: &Topology) {
    for family in Family::BOTH {
        let url = client::url(family.balancer(), finance::PORT, "/");
        let answer = client::curl(&topology.clients[0].netns, &url);
        assert!(answer.starts_with("Hello!"), "{answer}");
    }
}

/// Everything that a balancer could leave in its namespace.
#[derive(Debug, PartialEq)]
struct Traces {
    links: Vec<String>,
    /// The kind of XDP on the vL3 interface.
    xdp: Value,
    qdiscs: String,
    filters: String,
}

impl Traces {
    fn of(netns: &Netns) -> Self {
        let json = process::run(netns.command("ip").args(["-j", "-d", "link", "show"])).or_panic();
        let links: Value = serde_json::from_str(&json).expect("ip prints JSON");
        let links = links.as_array().expect("a list of links");
        let name = |link: &Value| link["ifname"].as_str().unwrap_or_default().to_owned();
        let vl3 = links
            .iter()
            .find(|link| name(link) == INTERFACE)
            .expect("the vL3 interface");
        let filters = ["ingress", "egress"].map(|direction| {
            let output = netns
                .command("tc")
                .args(["filter", "show", "dev", INTERFACE, direction])
                .output()
                .expect("run tc");
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        Self {
            links: links.iter().map(name).collect(),
            xdp: vl3["xdp"].clone(),
            qdiscs: process::run(netns.command("tc").args(["qdisc", "show", "dev", INTERFACE])).or_panic(),
            filters: filters.concat(),
        }
    }
}
