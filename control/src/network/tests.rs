//! The monitor against a real kernel, in network namespaces.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use vl3lb_common::next_hop::{Link, NextHop, RouteKind};
use vl3lb_common::{Duration, MacAddr};
use vl3lb_testbed::veth::{self, VethEnd};
use vl3lb_testbed::{Netns, OrPanic, process};

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

/// Rules and routes of every kind, with a destination for each, IPv4 and IPv6. The kernel's answer to RTM_GETROUTE for
/// each destination is compared with the table of prefixes by the monitor itself.
#[test]
fn the_view_agrees_with_the_kernel_under_policy_routing() {
    let [own, peer] = ["balancer", "backend"].map(|label| Netns::new(label).or_panic());
    own.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(policy(&own, &peer));
    });
}

async fn policy(own: &Netns, peer: &Netns) {
    veth::create(
        (own, &VethEnd::new("nsm-1", 1)),
        (peer, &VethEnd::new("eth0", 1)),
        1500,
    )
    .or_panic();
    peer.ip("link set eth0 up").or_panic();
    own.ip("link set nsm-1 up\n\
         addr add 172.16.1.103/24 dev nsm-1\n\
         addr add 2001:db8::67/64 dev nsm-1 nodad\n\
         link add other type veth peer name unused\n\
         link set unused up\n\
         link set other up\n\
         addr add 192.168.7.1/24 dev other\n\
         route add default via 192.168.7.2 metric 5\n\
         route add default via 172.16.1.1 dev nsm-1 metric 50\n\
         route add 10.0.0.0/8 via 172.16.1.2 mtu 1400\n\
         route add 10.1.0.0/16 via 172.16.1.3 metric 20\n\
         route add unreachable 10.2.0.0/16\n\
         route add blackhole 10.3.0.0/16\n\
         route add prohibit 10.4.0.0/16\n\
         route add 10.5.0.0/16 nexthop via 172.16.1.4 nexthop via 172.16.1.5\n\
         route add 10.6.0.0/16 via 192.168.7.3\n\
         route add 10.7.0.0/16 via 172.16.1.7 table 100\n\
         route add throw 10.7.8.0/24 table 100\n\
         route add default via 172.16.1.8 table 200\n\
         rule add from 172.16.1.103 lookup 100 pref 100\n\
         rule add to 10.8.0.0/16 lookup 200 pref 110\n\
         rule add to 10.9.0.0/16 prohibit pref 120\n\
         rule add from 172.16.1.104 unreachable pref 130\n\
         rule add to 10.10.0.0/16 goto 32766 pref 140\n\
         rule add to 10.10.0.0/15 unreachable pref 150\n\
         rule add oif nsm-1 to 10.12.0.0/16 lookup 200 pref 160\n\
         rule add lookup 200 suppress_prefixlength 0 pref 170\n\
         route add default via 2001:db8::1 mtu 1300\n\
         route add unreachable 2001:db8:2::/48\n\
         route add 2001:db8:3::/48 via 2001:db8::3 table 100\n\
         route add 2001:db8:5::/48 nexthop via 2001:db8::4 nexthop via 2001:db8::5")
        .or_panic();
    for rule in [
        ["from", "2001:db8::67", "lookup", "100", "pref", "100"].as_slice(),
        &["to", "2001:db8:4::/48", "prohibit", "pref", "110"],
    ] {
        process::run(own.command("ip").args(["-6", "rule", "add"]).args(rule)).or_panic();
    }
    // What the table of prefixes decides for each.
    let hop = |neighbor: &str| NextHop::Unresolved(ip(neighbor));
    let refused = NextHop::Refused;
    let decided = [
        ("172.16.1.9", hop("172.16.1.9")),
        ("9.9.9.9", hop("172.16.1.1")),
        ("10.0.0.1", hop("172.16.1.2")),
        ("10.1.0.1", hop("172.16.1.3")),
        ("10.2.0.1", refused(RouteKind::Unreachable)),
        ("10.3.0.1", refused(RouteKind::Blackhole)),
        ("10.4.0.1", refused(RouteKind::Prohibit)),
        ("10.6.0.1", hop("172.16.1.2")),
        ("10.7.0.1", hop("172.16.1.7")),
        ("10.7.8.1", hop("172.16.1.2")),
        ("10.8.0.1", hop("172.16.1.8")),
        ("10.9.0.1", refused(RouteKind::Prohibit)),
        ("10.10.0.1", hop("172.16.1.2")),
        ("10.11.0.1", refused(RouteKind::Unreachable)),
        ("10.12.0.1", hop("172.16.1.8")),
        ("172.16.1.103", refused(RouteKind::Local)),
        ("2001:db8::9", hop("2001:db8::9")),
        ("2001:db8:1::1", hop("2001:db8::1")),
        ("2001:db8:2::1", refused(RouteKind::Unreachable)),
        ("2001:db8:3::1", hop("2001:db8::3")),
        ("2001:db8:4::1", refused(RouteKind::Prohibit)),
    ];
    let (monitor, mut view, resolver) = Monitor::new("nsm-1".to_owned(), Vec::new(), Arc::default());
    let task = tokio::spawn(monitor.run());
    let multipath = ["10.5.0.1", "10.5.0.2", "2001:db8:5::1"].map(ip);
    let destinations = decided.iter().map(|(destination, _)| ip(destination));
    resolver.keep(destinations.chain(multipath).collect());
    wait(&mut view, "the decisions", |view| {
        decided
            .iter()
            .all(|(destination, want)| view.next_hops.resolve(ip(destination)) == *want)
    })
    .await;

    // A rule that no table expresses appears after all backends were asked for.
    own.ip("rule add fwmark 1 lookup 200 pref 180").or_panic();
    let now = wait(&mut view, "the rule", |view| !view.routing_problems.is_empty()).await;
    assert_eq!(
        now.routing_problems,
        ["ip rule 180 matches by fwmark: applied as to local packets without a mark"]
    );
    assert_eq!(now.next_hops.mtu_towards(ip("10.0.0.1")), Some(1400));
    for destination in multipath {
        let paths = now.next_hops.paths_to(destination);
        assert_eq!(paths.len(), 2, "{destination}: {paths:?}");
    }

    // A rule that the table leaves out, but that the kernel applies to the process that asks: its answers win.
    own.ip("rule add uidrange 0-0 to 10.13.0.0/16 lookup 200 pref 105")
        .or_panic();
    resolver.keep([ip("10.13.0.1")].into());
    let now = wait(&mut view, "the kernel's answer", |view| {
        view.next_hops.resolve(ip("10.13.0.1")) == hop("172.16.1.8")
    })
    .await;
    assert!(
        now.routing_problems.iter().any(|text| text.contains("10.13.0.1")),
        "{:?}",
        now.routing_problems
    );
    assert_eq!(now.next_hops.resolve(ip("10.13.0.2")), hop("172.16.1.2"));
    drop(resolver);
    task.await.unwrap();
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
