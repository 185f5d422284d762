//! Real HTTP requests to the service's name reach every backend.

use std::collections::BTreeMap;

use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Layout;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::client;
use vl3lb_tests::topology::Shape;

use crate::finance::Testbed;

on_attachments!(requests_by_name_reach_every_backend: every_mode,
    veth_auto_two_queues = Attachment::VETH_AUTO.two_queues(),
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_generic_two_queues = Attachment::VETH_GENERIC.two_queues(),
    veth_companion_two_queues = Attachment::VETH_COMPANION.two_queues(),
    tun_companion = Attachment::TUN_COMPANION,
    tun_offload_auto = Attachment::TUN_OFFLOAD_AUTO,
    tun_offload_generic = Attachment::TUN_OFFLOAD_GENERIC,
    tun_offload_companion = Attachment::TUN_OFFLOAD_COMPANION,
);

fn requests_by_name_reach_every_backend(attachment: &Attachment) {
    request(&Shape::of(attachment), attachment.mode);
}

on_attachments!(requests_reach_every_backend_behind_a_router: every_veth_mode,
    veth_auto = Attachment::VETH_AUTO,
);

fn requests_reach_every_backend_behind_a_router(attachment: &Attachment) {
    let shape = Shape {
        layout: Layout::Routed,
        ..Shape::of(attachment)
    };
    request(&shape, attachment.mode);
}

fn request(shape: &Shape, mode: &str) {
    let testbed = Testbed::http(shape, mode);
    let client = &testbed.topology.clients[0].netns;
    client.resolve_with(Family::V4.balancer());
    // The probability that one of three backends gets none of 40 is below one in a million.
    const REQUESTS: u32 = 40;
    for family in Family::BOTH {
        let mut answers = BTreeMap::new();
        for answer in client::curl_many(client, family, "http://finance.vl3-lb:8080/", REQUESTS) {
            *answers.entry(answer).or_insert(0) += 1;
        }
        let names: Vec<_> = answers.keys().cloned().collect();
        assert_eq!(
            names,
            [1, 2, 3].map(|n| format!("Hello! I'm finance-server-{n}")),
            "{family:?}: {answers:?}"
        );
        assert_eq!(answers.values().sum::<u32>(), REQUESTS, "{family:?}: {answers:?}");
    }
    let accepted: u64 = testbed.servers.iter().map(|server| server.accepted()).sum();
    let opened = testbed
        .balancer
        .metrics()
        .sum("vl3lb_service_flows_opened_total", &[("service", "finance")]);
    assert_eq!(opened, accepted as f64, "flows opened and connections accepted");
}
