//! The interface appears, disappears and changes while the balancer runs, which serves on without a restart.

mod change;
mod link_type;
mod presence;

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};

use serde_json::Value;
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Layout;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::{client, payload, wait};

use crate::finance::{PORT, Testbed};

/// Bytes of a download during which the interface changes.
const DOWNLOAD: u64 = 60_000_000;
/// Bytes of it that arrive before the change.
const BEFORE_CHANGE: u64 = 8_000_000;

/// Two servers on one segment, with HTTP.
fn http(attachment: &Attachment) -> Testbed {
    Testbed::http(&two_servers(attachment), attachment.mode)
}

/// Two servers on one segment, which send back what they receive.
fn echo(attachment: &Attachment) -> Testbed {
    Testbed::echo(&two_servers(attachment), attachment.mode)
}

fn two_servers(attachment: &Attachment) -> Shape {
    Shape {
        servers: 2,
        ..Shape::of(attachment)
    }
}

/// Deletes the balancer's veth pair.
fn remove(topology: &Topology) {
    topology.router().remove_link(&topology.balancer).or_panic();
}

/// Gives the balancer a new veth pair on the segment.
fn add(topology: &Topology, mtu: u16, queues: u32) {
    topology.router().join(&topology.balancer, mtu, queues).or_panic();
}

/// Downloads through the balancer, and calls `change` in the middle. All bytes must arrive.
fn download(topology: &Topology, family: Family, change: impl FnOnce()) {
    let mut stream = client::tcp(&topology.clients[0], (family.balancer(), PORT).into());
    stream
        .set_read_timeout(Some(2 * wait::STEP))
        .expect("set a time-out");
    write!(
        stream,
        "GET /bytes/{DOWNLOAD} HTTP/1.1\r\nHost: finance\r\nConnection: close\r\n\r\n"
    )
    .expect("send the request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("read the head of the answer");
        head.extend(byte);
    }
    let mut body = Interrupted {
        stream,
        left: BEFORE_CHANGE,
        change: Some(change),
    };
    let received = payload::hash(&mut body, DOWNLOAD).expect("read the body");
    assert_eq!(received, (DOWNLOAD, payload::sha256(DOWNLOAD)));
}

/// A stream that calls `change` after `left` bytes.
struct Interrupted<F> {
    stream: TcpStream,
    left: u64,
    change: Option<F>,
}

impl<F: FnOnce()> Read for Interrupted<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        if self.left == 0
            && let Some(change) = self.change.take()
        {
            change();
        }
        Ok(read)
    }
}

/// A request over each family must be answered.
fn get(topology: &Topology) {
    for family in Family::BOTH {
        get_at(topology, family.balancer());
    }
}

fn get_at(topology: &Topology, address: IpAddr) {
    let answer = client::curl(&topology.clients[0].netns, &client::url(address, PORT, "/"));
    assert!(answer.starts_with("Hello!"), "{answer}");
}

/// Waits until `/readyz` refuses with this reason.
fn wait_not_ready(balancer: &Balancer, reason: &str) {
    wait::until(
        &format!("not to be ready: {reason}"),
        wait::STEP,
        || match balancer.http("/readyz") {
            Ok((503, body)) if body.contains(reason) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

/// Waits until the status has an attached interface of this kind, such as `veth`.
fn wait_attached(balancer: &Balancer, kind: &str) {
    wait::until("the balancer to attach", wait::STEP, || {
        let found = interface(balancer)["kind"].clone();
        (found == kind).then_some(()).ok_or(found)
    });
}

/// Waits until `count` flows have ended because the interface lost their address.
fn wait_interface_lost(balancer: &Balancer, count: f64) {
    wait::until(
        "the flows of removed addresses to end",
        wait::STEP,
        || match interface_lost(balancer) {
            ended if ended == count => Ok(()),
            ended => Err(format!("{ended} ended")),
        },
    );
}

fn status(balancer: &Balancer) -> Value {
    balancer.cli_json(&["status"])["items"][0].clone()
}

fn interface(balancer: &Balancer) -> Value {
    status(balancer)["interface"].clone()
}

fn interface_lost(balancer: &Balancer) -> f64 {
    let metrics = balancer.metrics();
    metrics.sum("vl3lb_service_flows_closed_total", &[("cause", "interface_lost")])
}

fn assert_no_defects(balancer: &Balancer) {
    let metrics = balancer.metrics();
    for reason in ["internal", "bad_checksum", "malformed"] {
        assert_eq!(metrics.drops(reason), 0.0, "{reason}");
    }
    let log = balancer.log();
    assert!(!log.contains("please report"), "{log}");
}
