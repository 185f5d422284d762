//! Clients in the balancer's own network namespace, whose packets the kernel sends over the loopback interface.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::process;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::{TcpServer, UdpServer, greeting};
use vl3lb_tests::socket::{connect_tcp, receive};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{self, PORT, TARGET_PORT, backends, server_name};

/// Bytes of a transfer.
const LENGTH: u64 = 8_000_000;
/// A port that is no service's.
const OTHER: u16 = 9191;

on_attachments!(a_client_beside_the_balancer_is_balanced: every_mode,
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_generic_two_queues = Attachment::VETH_GENERIC.two_queues(),
    veth_companion_two_queues = Attachment::VETH_COMPANION.two_queues(),
    tun_offload_generic = Attachment::TUN_OFFLOAD_GENERIC,
);

fn a_client_beside_the_balancer_is_balanced(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        servers: 2,
        ..Shape::of(attachment)
    });
    let _servers = finance::http_servers(&topology);
    let _datagrams: Vec<_> = (topology.servers.iter().enumerate())
        .map(|(index, node)| UdpServer::echo(&node.netns, &server_name(index), TARGET_PORT))
        .collect();
    let backends = backends(&topology);
    let config = Config::new(attachment.mode)
        .service(service("tcp", "TCP", PORT, TARGET_PORT, &backends))
        .service(service("udp", "UDP", PORT, TARGET_PORT, &backends));
    let own = &topology.balancer;
    let _other = TcpServer::echo(&own.netns, "beside", OTHER);
    let balancer = Balancer::start(own, &config);
    let all: BTreeSet<String> = (0..topology.servers.len()).map(server_name).collect();
    for family in Family::BOTH {
        let address = own.address(family);
        let url = client::url(address, PORT, "/");
        let answers = client::curl_many(&own.netns, family, &url, 16);
        let reached: BTreeSet<String> = answers
            .iter()
            .filter_map(|answer| answer.strip_prefix("Hello! I'm "))
            .map(str::to_owned)
            .collect();
        assert_eq!(reached, all, "{family:?}");
        client::upload(&own.netns, address, PORT, LENGTH);
        client::download(&own.netns, address, PORT, LENGTH);
        datagrams(&topology, family, &all);
        // Neither theirs nor what goes to other ports is the balancer's.
        for to in [address, Ipv4Addr::LOCALHOST.into()] {
            let from = SocketAddr::new(to, 0);
            let connected = own
                .netns
                .run(|| connect_tcp(from, SocketAddr::new(to, OTHER), wait::STEP));
            let mut stream = connected.expect("connect to the program beside the balancer");
            assert_eq!(greeting(&mut stream).expect("its name"), "beside");
        }
    }
    // Those of other namespaces still are.
    for family in Family::BOTH {
        let url = client::url(family.balancer(), PORT, "/");
        client::curl(&topology.clients[0].netns, &url);
    }
    for reason in [
        "martian",
        "unknown_reply",
        "internal",
        "bad_checksum",
        "tx_refused",
        "not_syn",
    ] {
        assert_eq!(balancer.metrics().drops(reason), 0.0, "{reason}");
    }
}

/// Short ones, which reach all servers, and one that is longer than the link takes.
fn datagrams(topology: &Topology, family: Family, all: &BTreeSet<String>) {
    let own = &topology.balancer;
    let to = SocketAddr::new(own.address(family), PORT);
    let ask = |socket: &UdpSocket, payload: &[u8]| {
        socket.send(payload).expect("send");
        let mut answer = [0; 8_000];
        let length = receive(socket, &mut answer).ok()?;
        let name = answer[..length].strip_suffix(payload)?.strip_suffix(b":")?;
        Some(String::from_utf8_lossy(name).into_owned())
    };
    let mut reached = BTreeSet::new();
    for _ in 0..16 {
        let socket = client::udp(own, 0, to);
        reached.insert(ask(&socket, b"hello").expect("the datagram, with a name"));
    }
    assert_eq!(&reached, all, "{family:?}");
    let socket = client::udp(own, 0, to);
    ask(&socket, &[b'x'; 4_000]).expect("the long datagram, with a name");
}

/// What `vl3-lb` shows of it is what it shows of all clients.
#[test]
fn flows_counters_and_captures_show_clients_beside_the_balancer() {
    let topology = Topology::build(&Shape {
        servers: 2,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
    let _servers = finance::echo_servers(&topology);
    let own = &topology.balancer;
    let balancer = Balancer::start(own, &finance::config(&topology, "auto"));
    let mut streams = Vec::new();
    for family in Family::BOTH {
        let to = SocketAddr::new(own.address(family), PORT);
        let mut stream = client::tcp(own, to);
        greeting(&mut stream).expect("the name of the server");
        let from = stream.local_addr().expect("its address");
        assert_eq!(from.ip(), to.ip());
        let flows = balancer.cli_json(&["flows", "--client", &from.ip().to_string()]);
        let flow = &flows["items"][0];
        assert_eq!(flow["client"], from.ip().to_string(), "{flow}");
        assert_eq!(flow["clientPort"], from.port(), "{flow}");
        assert_eq!(flow["state"], "established", "{flow}");
        streams.push(stream);
    }
    let opened = balancer
        .metrics()
        .sum("vl3lb_service_flows_opened_total", &[("service", "finance")]);
    assert_eq!(opened, 2.0);

    let client = own.address(Family::V4).to_string();
    let arguments = [
        "capture",
        "-o",
        "jsonl",
        "-c",
        "4",
        "--duration",
        "1m",
        "--client",
        &client,
    ];
    let mut capture = balancer.cli_command(&arguments);
    let capture = own
        .netns
        .spawn("capture", move || process::run(&mut capture))
        .expect("start a thread");
    let stream = &mut streams[0];
    wait::until("the capture to end", wait::STEP, || {
        stream.write_all(b"hello").expect("send");
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).expect("the echo");
        assert_eq!(&echo, b"hello");
        capture.is_finished().then_some(()).ok_or("it goes on")
    });
    let text = capture.join().expect("the thread").expect("capture");
    let from = format!("\"client\":\"{}\"", stream.local_addr().expect("its address"));
    for direction in ["in", "out"] {
        let direction = format!("\"direction\":\"{direction}\"");
        let mut lines = text.lines();
        assert!(
            lines.any(|line| line.contains(&direction) && line.contains(&from)),
            "{text}"
        );
    }
}

/// Without a backend a client gets a reset, and while there is one again it is served.
#[test]
fn a_client_beside_the_balancer_is_refused_without_a_backend() {
    let topology = Topology::build(&Shape {
        servers: 1,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
    let _servers = finance::echo_servers(&topology);
    let own = &topology.balancer;
    let config = finance::config(&topology, "auto");
    let balancer = Balancer::start(own, &config);
    for family in Family::BOTH {
        greeting(&mut client::tcp(own, SocketAddr::new(own.address(family), PORT)))
            .expect("the name of the server");
    }
    balancer.replace_config(&Config::new("auto").service(service("finance", "TCP", PORT, TARGET_PORT, &[])));
    for family in Family::BOTH {
        let to = SocketAddr::new(own.address(family), PORT);
        let refused = wait::until("a new connection to be refused", wait::STEP, || {
            let from = SocketAddr::new(to.ip(), 0);
            match own.netns.run(|| connect_tcp(from, to, wait::STEP)) {
                Ok(_) => Err("it is accepted"),
                Err(error) => Ok(error.kind()),
            }
        });
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
    }
    assert!(balancer.metrics().drops("no_backend") > 0.0);
}

/// The kernel answers then, as without a balancer.
#[test]
fn nothing_stays_at_the_loopback_interface_of_a_killed_balancer() {
    let topology = Topology::build(&Shape {
        servers: 1,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
    let _servers = finance::echo_servers(&topology);
    let own = &topology.balancer;
    let mut balancer = Balancer::start(own, &finance::config(&topology, "auto"));
    let to = SocketAddr::new(own.address(Family::V4), PORT);
    let from = SocketAddr::new(to.ip(), 0);
    drop(client::tcp(own, to));
    balancer.kill();
    let refused = own.netns.run(|| connect_tcp(from, to, wait::STEP));
    let refused = refused.map_err(|error| error.kind()).err();
    assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused));
    // The next one removes the pair that was left behind.
    balancer.restart();
    greeting(&mut client::tcp(own, to)).expect("the name of the server");
    let names = process::run(own.netns.command("ip").args(["-br", "link"])).expect("list the interfaces");
    assert_eq!(
        names.lines().filter(|line| line.starts_with("lbl-")).count(),
        1,
        "{names}"
    );
}

/// The rule by which the kernel chooses a backend goes on to work where somebody has it.
#[test]
fn a_rule_of_the_kernel_comes_before_the_balancer() {
    let topology = Topology::build(&Shape {
        servers: 2,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
    let _servers = finance::echo_servers(&topology);
    let own = &topology.balancer;
    let balancer = Balancer::start(own, &finance::config(&topology, "auto"));
    let address = own.address(Family::V4);
    let [first, second] = [0, 1].map(|server: usize| topology.servers[server].address(Family::V4));
    let rules = format!(
        "table ip local-clients {{ chain output {{ type nat hook output priority -100; ip daddr {address} tcp dport {PORT} dnat \
         to numgen inc mod 2 map {{ 0 : {first}, 1 : {second} }} : {TARGET_PORT}; }}; }}"
    );
    process::run(own.netns.command("nft").arg(rules)).expect("have the kernel choose a backend");
    let mut reached = BTreeSet::new();
    for _ in 0..4 {
        let mut stream = client::tcp(own, SocketAddr::new(address, PORT));
        reached.insert(greeting(&mut stream).expect("the name of a server"));
    }
    assert_eq!(reached, BTreeSet::from([0, 1].map(server_name)));
    let opened = balancer.metrics().sum("vl3lb_service_flows_opened_total", &[]);
    assert_eq!(opened, 0.0);
}
