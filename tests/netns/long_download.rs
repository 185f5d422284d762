//! One download of a GiB through the fast path, while everything around it changes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};

use serde_json::{Value, json};
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::{client, payload, wait};

use crate::finance;

const LENGTH: u64 = 1 << 30;
/// Bytes between two changes.
const PART: u64 = LENGTH / 5;

/// A stream that does the next step after each part.
struct Stepped<'a> {
    stream: TcpStream,
    read: u64,
    steps: std::vec::IntoIter<Box<dyn FnOnce() + 'a>>,
    next: u64,
}

impl Read for Stepped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read >= self.next
            && let Some(step) = self.steps.next()
        {
            step();
            self.next += PART;
        }
        let read = self.stream.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

fn config(attachment: &Attachment, backends: &[IpAddr], drain: &str) -> Config {
    let mut service = service("finance", "TCP", finance::PORT, finance::TARGET_PORT, backends);
    service["drain"] = json!(drain);
    Config::new(attachment.mode)
        .service(service)
        .with("fastPath", json!({"mode": "auto", "after": 1}))
}

fn connect(topology: &Topology) -> TcpStream {
    let address = Family::V4.balancer();
    let stream = client::tcp(&topology.clients[0], (address, finance::PORT).into());
    stream.set_read_timeout(Some(wait::STEP)).unwrap();
    stream
}

/// The flow of a connection in the output of `flows`.
fn flow_of<'a>(flows: &'a Value, stream: &TcpStream) -> Option<&'a Value> {
    let port = stream.local_addr().unwrap().port();
    let flows = flows["items"].as_array()?;
    flows.iter().find(|flow| flow["clientPort"] == port)
}

fn backend_of(balancer: &Balancer, stream: &TcpStream) -> IpAddr {
    let flows = balancer.cli_json(&["flows"]);
    flow_of(&flows, stream)
        .and_then(|flow| flow["backend"].as_str()?.parse().ok())
        .unwrap_or_else(|| panic!("no flow of {stream:?}: {flows}"))
}

/// Packets that the program took, in both directions.
fn fast_packets(balancer: &Balancer) -> f64 {
    balancer.metrics().sum("vl3lb_fastpath_packets_total", &[])
}

fn wait_readiness(balancer: &Balancer, status: u16) {
    wait::until(
        &format!("/readyz to be {status}"),
        wait::STEP,
        || match balancer.http("/readyz") {
            Ok((found, _)) if found == status => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

fn begin_download(topology: &Topology) -> TcpStream {
    let mut stream = connect(topology);
    write!(
        stream,
        "GET /bytes/{LENGTH} HTTP/1.1\r\nHost: finance\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("read the head of the answer");
        head.extend(byte);
    }
    stream
}

#[test]
fn a_gibibyte_arrives_in_companion_mode_through_every_change() {
    let attachment = Attachment::VETH_COMPANION;
    let topology = Topology::build(&Shape {
        servers: 3,
        ..Shape::of(&attachment)
    });
    let _servers = finance::http_servers(&topology);
    let all = finance::backends(&topology);
    let mut balancer = Balancer::start(&topology.balancer, &config(&attachment, &all, "1s"));
    let stream = begin_download(&topology);
    let own = backend_of(&balancer, &stream);
    // A connection to another backend, which is going to leave.
    let (mut other, leaving) = std::iter::repeat_with(|| connect(&topology))
        .map(|other| {
            let backend = backend_of(&balancer, &other);
            (other, backend)
        })
        .take(100)
        .find(|(_, backend)| *backend != own)
        .expect("one of a hundred connections has another backend");
    let remaining: Vec<IpAddr> = all
        .iter()
        .copied()
        .filter(|address| *address != leaving)
        .collect();
    let balancer_now = &balancer;
    // Counters may be half a second old.
    let is_fast = |what: &str, before: f64| {
        wait::until(what, wait::STEP, || {
            let after = fast_packets(balancer_now);
            (after > before + 10_000.0)
                .then_some(after)
                .ok_or_else(|| format!("{before} and {after} packets"))
        })
    };
    let taken = std::cell::Cell::new(0.0);
    let steps: Vec<Box<dyn FnOnce()>> = vec![
        Box::new(|| {
            taken.set(is_fast("packets in the kernel at the start", 0.0));
            balancer_now.replace_config(&config(&attachment, &remaining, "1s"));
            // Its drain ends, and with it the connection that it had.
            wait::until("the drained backend to be gone", wait::STEP, || {
                let flows = balancer_now.cli_json(&["flows"]);
                flow_of(&flows, &other).map_or(Ok(()), |flow| Err(flow.to_string()))
            });
            other.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            let end = other.read(&mut [0; 16]);
            assert!(
                matches!(&end, Err(error) if error.kind() == io::ErrorKind::ConnectionReset),
                "{end:?}"
            );
        }),
        Box::new(|| {
            taken.set(is_fast("packets in the kernel after a drain", taken.get()));
            // The stop waits so long for the rest of the download, however busy the machine is.
            balancer_now.replace_config(&config(&attachment, &all, "60s"));
        }),
        Box::new(|| {
            taken.set(is_fast("packets in the kernel with a new backend", taken.get()));
            topology.router().remove_link(&topology.balancer).or_panic();
            wait_readiness(balancer_now, 503);
            topology.router().join(&topology.balancer, 1500, 1).or_panic();
            wait_readiness(balancer_now, 200);
        }),
        Box::new(|| {
            is_fast("packets in the kernel on another interface", taken.get());
            balancer_now.signal_terminate();
        }),
    ];
    let mut body = Stepped {
        stream,
        read: 0,
        steps: steps.into_iter(),
        next: PART,
    };
    let received = payload::hash(&mut body, LENGTH).expect("the download arrives");
    assert_eq!(received, (LENGTH, payload::sha256(LENGTH)));
    assert_eq!(body.steps.len(), 0, "steps that did not happen");
    drop(body);
    let log = balancer.log();
    assert_eq!(balancer.wait_end().code(), Some(0), "{log}");
}
