//! With several receive queues, as many workers share the work, whichever worker a reply arrives at.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::{Attachment, Link};
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::server::greeting;
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance;

/// Connections for each queue and family.
const CONNECTIONS: usize = 32;
/// Exchanges over each connection, while all are open.
const ROUNDS: usize = 3;

// Generic mode is not here: the kernel hands all packets of a veth without NAPI to queue 0 in it.
on_attachments!(all_workers_serve_and_hand_over_replies_and_no_flow_is_lost:
    native = Attachment::VETH_NATIVE.queues(2),
    companion = Attachment::VETH_COMPANION.queues(2),
    native_four = Attachment::VETH_NATIVE.queues(4),
);

fn all_workers_serve_and_hand_over_replies_and_no_flow_is_lost(attachment: &Attachment) {
    let Link::Veth { queues } = attachment.link else {
        panic!("a TUN device has one queue")
    };
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::echo_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let node = &topology.clients[0];
    let connections = CONNECTIONS * queues as usize;
    let mut open: Vec<TcpStream> = Vec::new();
    for family in Family::BOTH {
        let to = SocketAddr::new(family.balancer(), finance::PORT);
        open.extend((0..connections).map(|_| client::tcp(node, to)));
    }
    for stream in &mut open {
        greeting(stream).expect("the backend greets");
    }
    for _ in 0..ROUNDS {
        for stream in &mut open {
            stream.write_all(&[1; 1000]).expect("write");
            stream.read_exact(&mut [0; 1000]).expect("the echo");
        }
    }
    let metrics = balancer.metrics();
    for worker in 0..queues {
        let worker = worker.to_string();
        let labels = [("worker", worker.as_str())];
        let received = metrics.sum("vl3lb_worker_received_packets_total", &labels);
        assert!(received > 50.0, "worker {worker} received {received} packets");
        let flows = metrics.sum("vl3lb_flow_table_entries", &labels);
        assert!(flows > 10.0, "worker {worker} owns {flows} flows");
    }
    let opened = metrics.sum("vl3lb_service_flows_opened_total", &[]);
    assert!(
        opened >= (2 * connections) as f64,
        "{opened} of {} flows",
        2 * connections
    );
    // In companion mode our own program chooses the queue, so that replies find their owner.
    if attachment.mode == "native" {
        let handed = metrics.sum("vl3lb_worker_handoff_packets_total", &[]);
        assert!(handed > 0.0, "all replies arrived at their owners by chance?");
    }
    for reason in ["handoff_full", "unknown_reply", "not_syn", "internal"] {
        assert_eq!(metrics.drops(reason), 0.0, "{reason}");
    }
}
