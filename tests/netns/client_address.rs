//! HAProxy and nginx as backends that read the client's address from the header of PROXY protocol version 2, and a UDP server
//! that does.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_testbed::node::Node;
use vl3lb_testbed::packet_socket::PacketSocket;
use vl3lb_testbed::process::Process;
use vl3lb_testbed::tun::VNET_HEADER;
use vl3lb_testbed::{Netns, OrPanic};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::{TcpServer, greeting};
use vl3lb_tests::socket::receive;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

/// The ports of the services, and of their backends.
const HAPROXY: u16 = 8080;
const GREETING: u16 = 8082;
const NGINX: u16 = 8084;
/// Of the servers behind HAProxy and nginx, on their nodes.
const UPLOADS: u16 = 9001;
const GREETER: u16 = 9002;

/// HAProxy on the first server, nginx on the second, each before a server that hashes uploads; HAProxy also before one that
/// speaks first.
struct Receivers {
    _processes: [Process; 2],
    _servers: Vec<TcpServer>,
    _folder: TempDir,
}

impl Receivers {
    fn start(topology: &Topology) -> Self {
        let [haproxy, nginx] = &topology.servers[..] else {
            panic!("two servers")
        };
        let folder = TempDir::new().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("write a configuration");
            path
        };
        let servers = vec![
            TcpServer::http(&haproxy.netns, "uploads", UPLOADS),
            TcpServer::echo(&haproxy.netns, "greeter", GREETER),
            TcpServer::http(&nginx.netns, "uploads", UPLOADS),
        ];
        let start = |netns: &Netns, mut command: Command, ports: &[u16]| {
            let log = folder.path().join(netns.label());
            let mut process = Process::start(&mut command, &log).or_panic();
            for &port in ports {
                wait_listener(netns, port, &mut process);
            }
            process
        };
        let mut command = haproxy.netns.command("haproxy");
        command
            .args(["-db", "-f"])
            .arg(file("haproxy.cfg", &haproxy_config()));
        let first = start(&haproxy.netns, command, &[HAPROXY, GREETING]);
        let mut command = nginx.netns.command("nginx");
        command.arg("-c").arg(file(
            "nginx.conf",
            &nginx_config(&folder.path().display().to_string()),
        ));
        let second = start(&nginx.netns, command, &[NGINX]);
        Self {
            _processes: [first, second],
            _servers: servers,
            _folder: folder,
        }
    }
}

fn haproxy_config() -> String {
    format!(
        "defaults
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend http
    mode http
    bind :::{HAPROXY} v4v6 accept-proxy
    http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port]\" if {{ path /address }}
    default_backend uploads
backend uploads
    mode http
    server local 127.0.0.1:{UPLOADS}
frontend greeting
    mode tcp
    bind :::{GREETING} v4v6 accept-proxy
    default_backend greeter
backend greeter
    mode tcp
    server local 127.0.0.1:{GREETER}
"
    )
}

fn nginx_config(folder: &str) -> String {
    format!(
        "daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 0.0.0.0:{NGINX} proxy_protocol;
        listen [::]:{NGINX} ipv6only=on proxy_protocol;
        location = /address {{
            return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port\";
        }}
        location / {{
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_pass http://127.0.0.1:{UPLOADS};
        }}
    }}
}}
"
    )
}

/// Waits until something listens at a TCP port of a namespace.
fn wait_listener(netns: &Netns, port: u16, process: &mut Process) {
    let needle = format!(":{port:04X} ");
    wait::until("a listener", wait::STEP, || {
        process.check_running().map_err(|error| error.to_string())?;
        let sockets = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default());
        let listens = |line: &str| line.contains(&needle) && line.contains(" 0A ");
        let found = sockets.lines().any(listens);
        found.then_some(()).ok_or_else(|| format!("none at port {port}"))
    });
}

/// A service for each receiver, with this `clientAddress`.
fn config(topology: &Topology, mode: &str, address: &str) -> Config {
    let proxied = |name: &str, port: u16, server: &Node| {
        let backends = Family::BOTH.map(|family| server.address(family));
        let mut service = service(name, "TCP", port, port, &backends);
        service["clientAddress"] = json!(address);
        service
    };
    Config::new(mode)
        .service(proxied("haproxy", HAPROXY, &topology.servers[0]))
        .service(proxied("greeting", GREETING, &topology.servers[0]))
        .service(proxied("nginx", NGINX, &topology.servers[1]))
}

/// Asks a receiver for the addresses of a connection, and compares them with the client's own.
fn expect_own_address(node: &Node, family: Family, port: u16) {
    let service = SocketAddr::new(family.balancer(), port);
    let mut stream = client::tcp(node, service);
    let own = stream.local_addr().expect("a connected socket has an address");
    stream
        .write_all(b"GET /address HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n")
        .expect("send a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let expected = format!("{} {} {} {port}", own.ip(), own.port(), service.ip());
    assert_eq!(body.trim(), expected, "{answer}");
}

/// A backend that speaks first does so only behind the header, to a client that sends nothing.
fn expect_greeting(node: &Node, family: Family) {
    let mut stream = client::tcp(node, SocketAddr::new(family.balancer(), GREETING));
    assert_eq!(greeting(&mut stream).expect("a greeting"), "greeter");
    let mut echo = [0; 5];
    stream.write_all(b"hello").expect("send");
    stream.read_exact(&mut echo).expect("the echo");
    assert_eq!(&echo, b"hello");
}

on_attachments!(receivers_read_the_clients_address_and_all_bytes: every_mode,
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_companion_mtu_9000 = Attachment::VETH_COMPANION.mtu(9000),
    veth_auto_mtu_1280 = Attachment::VETH_AUTO.mtu(1280),
    tun_offload_generic = Attachment::TUN_OFFLOAD_GENERIC,
    tun_offload_companion = Attachment::TUN_OFFLOAD_COMPANION,
);

fn receivers_read_the_clients_address_and_all_bytes(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        servers: 2,
        ..Shape::of(attachment)
    });
    let _receivers = Receivers::start(&topology);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, attachment.mode, "proxyV2"));
    let node = &topology.clients[0];
    for family in Family::BOTH {
        expect_greeting(node, family);
        for port in [HAPROXY, NGINX] {
            expect_own_address(node, family, port);
            client::upload(&node.netns, family.balancer(), port, 10_000_000);
            client::download(&node.netns, family.balancer(), port, 5_000_000);
        }
    }
    expect_no_defects(&balancer);
}

/// Each link to and from client and balancer loses packets, so headers, handshakes and data are lost too.
#[test]
fn headers_and_uploads_survive_a_lossy_network() {
    let topology = Topology::build(&Shape {
        servers: 2,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
    let _receivers = Receivers::start(&topology);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, "auto", "proxyV2"));
    // Every so many TCP packets, so that nothing is lost again and again; neighbours are found.
    let lossy = [
        (&topology.clients[0], 23),
        (&topology.balancer, 29),
        (&topology.servers[0], 31),
        (&topology.servers[1], 37),
    ];
    let chain = |(node, every): (&Node, u32)| {
        format!(
            "chain every{every} {{ type filter hook ingress device \"{}\" priority 0; \
             meta l4proto tcp numgen inc mod {every} == 0 drop; }}\n",
            node.router_port
        )
    };
    let chains: String = lossy.into_iter().map(chain).collect();
    let rules = format!("table netdev lossy {{\n{chains}}}\n");
    let router = &topology.router().netns;
    router
        .feed(router.command("nft").args(["-f", "-"]), &rules)
        .or_panic();
    let node = &topology.clients[0];
    for family in Family::BOTH {
        for port in [HAPROXY, NGINX] {
            client::upload(&node.netns, family.balancer(), port, 1_000_000);
            for _ in 0..15 {
                expect_own_address(node, family, port);
            }
        }
        for _ in 0..10 {
            expect_greeting(node, family);
        }
    }
    expect_no_defects(&balancer);
}

fn expect_no_defects(balancer: &Balancer) {
    let metrics = balancer.metrics();
    for reason in ["internal", "bad_checksum", "malformed", "not_syn", "mtu_exceeded"] {
        assert_eq!(metrics.drops(reason), 0.0, "{reason}");
    }
}

#[test]
fn the_setting_is_shown_and_a_change_applies_to_new_connections() {
    let topology = Topology::build(&Shape {
        servers: 2,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
    let _receivers = Receivers::start(&topology);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, "auto", "proxyV2"));
    let of = |balancer: &Balancer, name: &str| {
        let answer = balancer.cli_json(&["services"]);
        let items = answer["items"].as_array().expect("a list of services").clone();
        let item = items.into_iter().find(|item| item["name"] == name);
        item.expect("the service")["clientAddress"].clone()
    };
    assert_eq!(of(&balancer, "haproxy"), "proxyV2");
    let node = &topology.clients[0];
    let to = SocketAddr::new(Family::V4.balancer(), GREETING);
    let mut old = client::tcp(node, to);
    assert_eq!(greeting(&mut old).expect("a greeting"), "greeter");
    // The backend still asks for a header that new connections do not have.
    balancer.replace_config(&config(&topology, "auto", "none"));
    wait::until("the change", wait::STEP, || {
        let shown = of(&balancer, "greeting");
        (shown == "none").then_some(()).ok_or_else(|| shown.to_string())
    });
    old.write_all(b"hello").expect("send");
    let mut echo = [0; 5];
    old.read_exact(&mut echo).expect("the old connection goes on");
    let mut new = client::tcp(node, to);
    new.write_all(b"no header, which HAProxy refuses\r\n")
        .expect("send");
    assert!(greeting(&mut new).is_err(), "HAProxy closes it");
}

/// The service with a header before each datagram, and the one with a header before the first.
const EACH: u16 = 7000;
const FIRST: u16 = 7002;

/// A UDP server that answers each datagram with the addresses of its header, or `no header`, and its payload.
struct DatagramReceiver {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DatagramReceiver {
    fn start(netns: &Netns, port: u16) -> Self {
        let socket = netns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind a UDP socket"));
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("set a time-out");
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let serve = move || {
            let mut buffer = [0; 2048];
            while !stopping.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let (addresses, payload) = match read_header(&buffer[..length]) {
                    Some((source, destination, payload)) => (format!("{source} {destination}"), payload),
                    None => ("no header".to_owned(), &buffer[..length]),
                };
                let answer = [addresses.as_bytes(), b" ", payload].concat();
                socket.send_to(&answer, from).expect("send an answer");
            }
        };
        let thread = netns.spawn("datagrams", serve).or_panic();
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for DatagramReceiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a UDP server panicked");
        }
    }
}

/// Source, destination and payload of a datagram with a header of PROXY protocol version 2 for UDP.
fn read_header(datagram: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let rest = datagram.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n\x21")?;
    let (&[family, high, low], rest) = rest.split_first_chunk::<3>()?;
    let (addresses, payload) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
    let length = match family {
        0x12 => 4,
        0x22 => 16,
        _ => return None,
    };
    let (ips, ports) = addresses.split_at_checked(2 * length)?;
    let end = |index: usize| {
        let ip = &ips[index * length..(index + 1) * length];
        let ip: IpAddr = match family {
            0x12 => <[u8; 4]>::try_from(ip).ok()?.into(),
            _ => <[u8; 16]>::try_from(ip).ok()?.into(),
        };
        let port = ports.get(2 * index..2 * index + 2)?;
        Some(SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])))
    };
    Some((end(0)?, end(1)?, payload))
}

on_attachments!(datagrams_name_their_client:
    veth_native = Attachment::VETH_NATIVE,
    veth_companion = Attachment::VETH_COMPANION,
    tun_auto = Attachment::TUN_AUTO,
    tun_offload_generic = Attachment::TUN_OFFLOAD_GENERIC,
);

fn datagrams_name_their_client(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        servers: 1,
        ..Shape::of(attachment)
    });
    let server = &topology.servers[0];
    let _receivers = [EACH, FIRST].map(|port| DatagramReceiver::start(&server.netns, port));
    let backends = Family::BOTH.map(|family| server.address(family));
    let mut config = Config::new(attachment.mode);
    for (name, port, address) in [("each", EACH, "proxyV2"), ("first", FIRST, "proxyV2First")] {
        let mut service = service(name, "UDP", port, port, &backends);
        service["clientAddress"] = json!(address);
        config = config.service(service);
    }
    let balancer = Balancer::start(&topology.balancer, &config);
    for family in Family::BOTH {
        for port in [EACH, FIRST] {
            let to = SocketAddr::new(family.balancer(), port);
            let socket = client::udp(&topology.clients[0], 0, to);
            let own = socket.local_addr().expect("a bound socket has an address");
            for number in 0..40 {
                let payload = format!("datagram {number}");
                socket.send(payload.as_bytes()).expect("send");
                let mut answer = [0; 256];
                let length = receive(&socket, &mut answer).expect("an answer");
                let expected = if port == EACH || number == 0 {
                    format!("{own} {to} {payload}")
                } else {
                    format!("no header {payload}")
                };
                assert_eq!(String::from_utf8_lossy(&answer[..length]), expected);
            }
        }
    }
    expect_no_defects(&balancer);
}

/// The TCP flags of an Ethernet frame to `port`, and its option 254.
fn address_option(frame: &[u8], port: u16) -> Option<(u8, Option<Vec<u8>>)> {
    let ip = frame.get(14..)?;
    let (l4, protocol) = match ip.first()? >> 4 {
        4 => (20, ip.get(9)?),
        _ => (40, ip.get(6)?),
    };
    let tcp = ip.get(l4..)?;
    if *protocol != 6 || tcp.get(2..4)? != port.to_be_bytes() {
        return None;
    }
    let mut options = tcp.get(20..usize::from(tcp.get(12)? >> 4) * 4)?;
    let mut found = None;
    while let [kind, rest @ ..] = options {
        match kind {
            0 => break,
            1 => options = rest,
            _ => {
                let (option, behind) = options.split_at_checked((*rest.first()?).into())?;
                if *kind == 254 {
                    found = Some(option.to_vec());
                }
                options = behind;
            }
        }
    }
    Some((tcp[13], found))
}

#[test]
fn the_handshake_has_the_option_with_the_clients_address() {
    const SYN: u8 = 0x02;
    let topology = Topology::build(&Shape {
        servers: 1,
        ..Shape::of(&Attachment::VETH_AUTO)
    });
    let server = &topology.servers[0];
    let _server = TcpServer::echo(&server.netns, "greeter", GREETER);
    let backends = Family::BOTH.map(|family| server.address(family));
    let mut service = service("toa", "TCP", GREETING, GREETER, &backends);
    service["clientAddress"] = json!("toa");
    let balancer = Balancer::start(&topology.balancer, &Config::new("auto").service(service));
    for family in Family::BOTH {
        let socket = server
            .netns
            .run(|| PacketSocket::with_vnet_header(INTERFACE))
            .or_panic();
        let mut stream = client::tcp(&topology.clients[0], SocketAddr::new(family.balancer(), GREETING));
        let own = stream.local_addr().expect("a connected socket has an address");
        assert_eq!(greeting(&mut stream).expect("a greeting"), "greeter");
        let address = match own.ip() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let length = u8::try_from(4 + address.len()).expect("a short option");
        let option = [&[254, length][..], &own.port().to_be_bytes(), &address].concat();
        let mut segments = Vec::new();
        // The SYN, and the ACK that completes the handshake.
        while segments.len() < 2 {
            let frame = socket.receive(wait::STEP).expect("receive").expect("a frame");
            segments.extend(address_option(&frame[VNET_HEADER..], GREETER));
        }
        for (number, (bits, found)) in segments.into_iter().enumerate() {
            assert_eq!(bits & SYN != 0, number == 0);
            assert_eq!(found.as_ref(), Some(&option), "{family:?}, segment {number}");
        }
        // The kernel of the server ignores what it does not know.
        stream.write_all(b"hello").expect("send");
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).expect("the echo");
        assert_eq!(&echo, b"hello");
    }
    expect_no_defects(&balancer);
}
