//! The monitor against a real kernel, in network namespaces.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use vl3lb_common::next_hop::{Link, NextHop};
use vl3lb_common::{Duration, MacAddr};
use vl3lb_testbed::veth::{self, VethEnd};
use vl3lb_testbed::{Netns, OrPanic};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
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
    let [own, peer] = ["balancer", "backend"].map(|label| Netns::new(label).or_panic());
    // The view has no address that is still tentative.
    own.sysctl("net/ipv6/conf/default/accept_dad", "1").or_panic();
    own.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(follow(&own, &peer));
    });
}

/// Changes the interface, on a thread in the namespace `own`, and waits for each change in the view. `peer` is the
/// namespace of a backend.
async fn follow(own: &Netns, peer: &Netns) {
    let (monitor, mut view, resolver) = Monitor::new("nsm-1".to_owned(), Vec::new(), Arc::default());
    let task = tokio::spawn(monitor.run());
    let first = wait(&mut view, "no interface", |view| view.index.is_none()).await;
    assert!(!first.usable());

    let ip_own = |line: &str| own.ip(line).or_panic();
    let ip_peer = |line: &str| peer.ip(line).or_panic();
    veth::create(
        (own, &VethEnd::new("nsm-1", 1)),
        (peer, &VethEnd::new("eth0", 1)),
        1500,
    )
    .or_panic();
    ip_peer("link set eth0 address 02:00:00:00:00:02 up");
    ip_peer("addr add 172.16.1.2/24 dev eth0");
    ip_peer("addr add 2001:db8::2/64 dev eth0 nodad");
    ip_own("link set nsm-1 address 02:00:00:00:00:01 mtu 1446 up");
    ip_own("addr add 172.16.1.103/24 dev nsm-1");
    ip_own("addr add 2001:db8::67/64 dev nsm-1");
    let both = [ip("172.16.1.103"), ip("2001:db8::67")];
    let ready = wait(&mut view, "both addresses, past duplicate detection", |view| {
        view.is_up() && view.addresses == both
    })
    .await;
    assert_eq!(ready.mtu, 1446);
    assert_eq!(ready.broadcasts, [Ipv4Addr::new(172, 16, 1, 255)]);
    assert_eq!(ready.next_hops.link, Link::Ethernet(MacAddr([2, 0, 0, 0, 0, 1])));
    let backend = ip("172.16.1.2");
    assert_eq!(ready.next_hops.resolve(backend), NextHop::Unresolved(backend));
    assert_eq!(ready.next_hops.resolve(ip("9.9.9.9")), NextHop::NoRoute);

    // Backends are resolved without being asked for by a packet, over a gateway too.
    ip_own("route add 10.1.0.0/16 via 172.16.1.2 dev nsm-1");
    resolver.keep([ip("10.1.2.3"), ip("2001:db8::2")].into());
    let peer_mac = NextHop::Mac(MacAddr([2, 0, 0, 0, 0, 2]));
    let resolved = |address: &'static str, want: NextHop| {
        move |view: &NetworkView| view.next_hops.resolve(ip(address)) == want
    };
    wait(&mut view, "the gateway", resolved("10.1.2.3", peer_mac)).await;
    wait(&mut view, "the IPv6 backend", resolved("2001:db8::2", peer_mac)).await;

    // What a packet needs is resolved too.
    ip_peer("addr add 172.16.1.9/24 dev eth0");
    resolver.resolve(ip("172.16.1.9"));
    wait(
        &mut view,
        "the neighbour of a packet",
        resolved("172.16.1.9", peer_mac),
    )
    .await;

    // An entry that goes is asked for again.
    ip_own("neigh del 172.16.1.2 dev nsm-1");
    wait(&mut view, "the gateway again", resolved("10.1.2.3", peer_mac)).await;

    // Routes have an MTU of their own, or none.
    let towards =
        |address: &'static str, mtu| move |view: &NetworkView| view.next_hops.mtu_towards(ip(address)) == mtu;
    ip_own("route replace 10.1.0.0/16 via 172.16.1.2 dev nsm-1 mtu 1400");
    ip_own("route add 2001:db8:1::/48 via 2001:db8::2 dev nsm-1 mtu 1300");
    wait(&mut view, "the route's MTU", towards("10.1.2.3", Some(1400))).await;
    wait(
        &mut view,
        "the IPv6 route's MTU",
        towards("2001:db8:1::9", Some(1300)),
    )
    .await;
    let now = wait(&mut view, "no MTU", towards("172.16.1.2", None)).await;
    assert_eq!(now.next_hops.smallest_mtu(), 1300);
    ip_own("route del 2001:db8:1::/48");

    // Routes, addresses and the MTU change.
    ip_own("route del 10.1.0.0/16");
    wait(&mut view, "no route", resolved("10.1.2.3", NextHop::NoRoute)).await;
    ip_own("link set nsm-1 mtu 9000");
    wait(&mut view, "the new MTU", |view| view.mtu == 9000).await;
    ip_own("addr del 172.16.1.103/24 dev nsm-1");
    wait(&mut view, "one address less", |view| {
        view.addresses == both[1..] && view.broadcasts.is_empty()
    })
    .await;

    // Its other end goes down, and the interface itself.
    ip_peer("link set eth0 down");
    wait(&mut view, "no carrier", |view| view.state == LinkState::NoCarrier).await;
    ip_own("link set nsm-1 down");
    wait(&mut view, "down", |view| view.state == LinkState::Down).await;
    ip_peer("link set eth0 up");
    ip_own("link set nsm-1 up");
    wait(&mut view, "up", NetworkView::is_up).await;
    // The kernel removes IPv6 addresses of an interface that goes down.
    ip_peer("addr add 2001:db8::2/64 dev eth0 nodad");
    ip_own("addr add 2001:db8::67/64 dev nsm-1 nodad");

    // A new MAC address of its own, after which the backends' addresses are resolved again.
    ip_own("link set nsm-1 address 02:00:00:00:00:07");
    let own = Link::Ethernet(MacAddr([2, 0, 0, 0, 0, 7]));
    wait(&mut view, "the new MAC address", |view| {
        view.next_hops.link == own && view.next_hops.resolve(ip("2001:db8::2")) == peer_mac
    })
    .await;

    // A rename away and back.
    ip_own("link set nsm-1 name away");
    wait(&mut view, "no interface", |view| view.state == LinkState::Absent).await;
    ip_own("link set away name nsm-1");
    wait(&mut view, "the interface", |view| view.state == LinkState::Up).await;

    // It vanishes and comes back as another.
    let old = view.borrow().as_ref().unwrap().index;
    ip_own("link del nsm-1");
    wait(&mut view, "no interface", |view| view.index.is_none()).await;
    ip_own("link add nsm-1 type veth peer name other");
    ip_own("link set other up");
    ip_own("addr add 172.16.1.104/24 dev nsm-1");
    ip_own("link set nsm-1 up");
    let back = wait(&mut view, "the new interface", |view| {
        view.usable() && view.is_up()
    })
    .await;
    assert_ne!(back.index, old);

    // A TUN device has no Ethernet.
    ip_own("link del nsm-1");
    ip_own("tuntap add nsm-1 mode tun");
    ip_own("addr add 172.16.1.105/24 dev nsm-1");
    ip_own("link set nsm-1 up");
    wait(&mut view, "raw IP", |view| {
        view.next_hops.link == Link::RawIp && view.usable()
    })
    .await;

    drop(resolver);
    task.await.unwrap();
}
