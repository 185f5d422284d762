//! The monitor against a real kernel, in network namespaces that end with the test.
//!
//! The test binary starts itself again inside a new namespace, so no test thread changes its own.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use vl3lb_common::next_hop::{Link, NextHop};
use vl3lb_common::{Duration, MacAddr};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Runs `command`, words separated by blanks.
fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

/// A namespace that lives as long as a process that does nothing in it.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        // It says so once it is inside.
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo in; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut { output }, &mut line).unwrap();
        assert_eq!(line, "in\n");
        Self(child)
    }

    fn ip(&self, arguments: &str) {
        run(&format!(
            "nsenter --net=/proc/{}/ns/net ip {arguments}",
            self.0.id()
        ));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Waits for a view that `accept`s.
async fn wait(
    receiver: &mut NetworkReceiver,
    what: &str,
    accept: impl Fn(&NetworkView) -> bool,
) -> Arc<NetworkView> {
    let last = receiver.clone();
    let waited = receiver.wait_for(|view| view.as_deref().is_some_and(&accept));
    match tokio::time::timeout(Duration::from_secs(30), waited).await {
        Ok(view) => Arc::clone(view.unwrap().as_ref().unwrap()),
        Err(_) => panic!("never saw: {what}; last view {:?}", last.borrow().clone()),
    }
}

#[test]
fn the_view_follows_the_kernel() {
    let itself = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .arg("--net")
        .arg(itself)
        .args([
            "--exact",
            "network::tests::inside_a_namespace",
            "--ignored",
            "--nocapture",
        ])
        .output()
        .expect("unshare (util-linux) runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "run as root, with network namespaces:\n{text}"
    );
}

#[tokio::test]
#[ignore = "changes its network namespace: run by the_view_follows_the_kernel"]
async fn inside_a_namespace() {
    let (monitor, mut view, resolver) = Monitor::new("nsm-1".to_owned(), Vec::new(), Arc::default());
    let task = tokio::spawn(monitor.run());
    let first = wait(&mut view, "no interface", |view| view.index.is_none()).await;
    assert!(!first.usable());

    // A peer in another namespace, as a backend.
    let peer = Namespace::new();
    run(&format!(
        "ip link add nsm-1 type veth peer name eth0 netns {}",
        peer.0.id()
    ));
    peer.ip("link set eth0 address 02:00:00:00:00:02 up");
    peer.ip("addr add 172.16.1.2/24 dev eth0");
    peer.ip("addr add 2001:db8::2/64 dev eth0 nodad");
    run("ip link set nsm-1 address 02:00:00:00:00:01 mtu 1446 up");
    run("ip addr add 172.16.1.103/24 dev nsm-1");
    run("ip addr add 2001:db8::67/64 dev nsm-1");
    let both = [ip("172.16.1.103"), ip("2001:db8::67")];
    let ready = wait(&mut view, "both addresses, past duplicate detection", |view| {
        view.is_up() && view.addresses == both
    })
    .await;
    assert_eq!(ready.mtu, 1446);
    assert_eq!(ready.next_hops.link, Link::Ethernet(MacAddr([2, 0, 0, 0, 0, 1])));
    let backend = ip("172.16.1.2");
    assert_eq!(ready.next_hops.resolve(backend), NextHop::Unresolved(backend));
    assert_eq!(ready.next_hops.resolve(ip("9.9.9.9")), NextHop::NoRoute);

    // Backends are resolved without being asked for by a packet, over a gateway too.
    run("ip route add 10.1.0.0/16 via 172.16.1.2 dev nsm-1");
    resolver.keep([ip("10.1.2.3"), ip("2001:db8::2")].into());
    let peer_mac = NextHop::Mac(MacAddr([2, 0, 0, 0, 0, 2]));
    let resolved = |address: &'static str, want: NextHop| {
        move |view: &NetworkView| view.next_hops.resolve(ip(address)) == want
    };
    wait(&mut view, "the gateway", resolved("10.1.2.3", peer_mac)).await;
    wait(&mut view, "the IPv6 backend", resolved("2001:db8::2", peer_mac)).await;

    // What a packet needs is resolved too.
    peer.ip("addr add 172.16.1.9/24 dev eth0");
    resolver.resolve(ip("172.16.1.9"));
    wait(
        &mut view,
        "the neighbour of a packet",
        resolved("172.16.1.9", peer_mac),
    )
    .await;

    // An entry that goes is asked for again.
    run("ip neigh del 172.16.1.2 dev nsm-1");
    wait(&mut view, "the gateway again", resolved("10.1.2.3", peer_mac)).await;

    // Routes, addresses and the MTU change.
    run("ip route del 10.1.0.0/16");
    wait(&mut view, "no route", resolved("10.1.2.3", NextHop::NoRoute)).await;
    run("ip link set nsm-1 mtu 9000");
    wait(&mut view, "the new MTU", |view| view.mtu == 9000).await;
    run("ip addr del 172.16.1.103/24 dev nsm-1");
    wait(&mut view, "one address less", |view| view.addresses == both[1..]).await;

    // Its other end goes down, and the interface itself.
    peer.ip("link set eth0 down");
    wait(&mut view, "no carrier", |view| view.state == LinkState::NoCarrier).await;
    run("ip link set nsm-1 down");
    wait(&mut view, "down", |view| view.state == LinkState::Down).await;
    peer.ip("link set eth0 up");
    run("ip link set nsm-1 up");
    wait(&mut view, "up", NetworkView::is_up).await;
    // The kernel removes IPv6 addresses of an interface that goes down.
    peer.ip("addr add 2001:db8::2/64 dev eth0 nodad");
    run("ip addr add 2001:db8::67/64 dev nsm-1 nodad");

    // A new MAC address of its own, after which the backends' addresses are resolved again.
    run("ip link set nsm-1 address 02:00:00:00:00:07");
    let own = Link::Ethernet(MacAddr([2, 0, 0, 0, 0, 7]));
    wait(&mut view, "the new MAC address", |view| {
        view.next_hops.link == own && view.next_hops.resolve(ip("2001:db8::2")) == peer_mac
    })
    .await;

    // A rename away and back.
    run("ip link set nsm-1 name away");
    wait(&mut view, "no interface", |view| view.state == LinkState::Absent).await;
    run("ip link set away name nsm-1");
    wait(&mut view, "the interface", |view| view.state == LinkState::Up).await;

    // It vanishes and comes back as another.
    let old = view.borrow().as_ref().unwrap().index;
    run("ip link del nsm-1");
    wait(&mut view, "no interface", |view| view.index.is_none()).await;
    run("ip link add nsm-1 type veth peer name other");
    run("ip link set other up");
    run("ip addr add 172.16.1.104/24 dev nsm-1");
    run("ip link set nsm-1 up");
    let back = wait(&mut view, "the new interface", |view| {
        view.usable() && view.is_up()
    })
    .await;
    assert_ne!(back.index, old);

    // A TUN device has no Ethernet.
    run("ip link del nsm-1");
    run("ip tuntap add nsm-1 mode tun");
    run("ip addr add 172.16.1.105/24 dev nsm-1");
    run("ip link set nsm-1 up");
    wait(&mut view, "raw IP", |view| {
        view.next_hops.link == Link::RawIp && view.usable()
    })
    .await;

    drop(resolver);
    task.await.unwrap();
}
