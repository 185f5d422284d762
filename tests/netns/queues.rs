//! With two receive queues, two workers share the flows, and hand over replies that arrive at the other one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::server::greeting;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance;

const CONNECTIONS: usize = 64;

// Without generic mode: in it the kernel assigns all packets of a veth without NAPI to queue 0.
on_attachments!(two_workers_serve_and_hand_over_replies:
    native = Attachment::VETH_NATIVE.two_queues(),
    companion = Attachment::VETH_COMPANION.two_queues(),
);

fn two_workers_serve_and_hand_over_replies(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::echo_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let node = &topology.clients[0];
    for family in Family::BOTH {
        let to = SocketAddr::new(family.balancer(), finance::PORT);
        let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| client::tcp(node, to)).collect();
        for stream in &mut streams {
            greeting(stream).expect("the backend greets");
            stream.write_all(&[1; 1000]).expect("write");
            stream.read_exact(&mut [0; 1000]).expect("the echo");
        }
    }
    let metrics = balancer.metrics();
    for worker in ["0", "1"] {
        let received = metrics.sum("vl3lb_worker_received_packets_total", &[("worker", worker)]);
        assert!(received > 100.0, "worker {worker} received {received} packets");
        let flows = metrics.sum("vl3lb_flow_table_entries", &[("worker", worker)]);
        assert!(flows > 10.0, "worker {worker} owns {flows} flows");
    }
    // In companion mode the steer program selects the owner's queue.
    if attachment.mode == "native" {
        let handed = metrics.sum("vl3lb_worker_handoff_packets_total", &[]);
        assert!(handed > 0.0, "no reply was handed over");
    }
    assert_eq!(metrics.drops("handoff_full"), 0.0);
}
