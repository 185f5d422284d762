//! The server with real sockets on loopback.

mod forwarding;
mod fuzz;
mod zone;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use vl3lb_common::next_hop::{Link, NextHops};
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{Protocol, Timestamp};

use super::*;
use crate::config::{Config, FlowRules, ListenAddresses};
use crate::discovery::{Desired, ServiceSpec};
use crate::network::{LinkState, NetworkView};
use crate::peers::{Peer, PeerSet};
use crate::publisher::Current;
use crate::state::{Inputs, State, TimePoint};
use forwarding::upstream;

fn view(addresses: &[&str]) -> NetworkView {
    NetworkView {
        index: Some(7),
        state: LinkState::Up,
        mtu: 1500,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        broadcasts: Vec::new(),
        next_hops: NextHops::new(Link::RawIp, 1, Vec::new(), HashMap::new()),
        routing_problems: Vec::new(),
    }
}

/// The name, host, namespace and own address of a service: `web-http@172.16.1.103`, `web@@172.16.1.103` if it shares its name,
/// `web/shop` if it is a Service of Kubernetes.
fn named(text: &str) -> (String, Option<String>, Option<String>, Option<IpAddr>) {
    let (name, address) = text.split_once('@').unwrap_or((text, ""));
    let (name, namespace) = name
        .split_once('/')
        .map_or((name, None), |(name, of)| (name, Some(of.to_owned())));
    match address.strip_prefix('@') {
        Some(address) => (
            format!("{name}@{address}"),
            Some(name.to_owned()),
            namespace,
            address.parse().ok(),
        ),
        None => (
            name.to_owned(),
            name.strip_suffix("-http").map(str::to_owned),
            namespace,
            address.parse().ok(),
        ),
    }
}

/// What the publisher would send for these services.
fn current(names: &[&str]) -> Arc<Current> {
    let names = names.iter().map(|text| named(text));
    let services = (8080..)
        .zip(names)
        .map(|(port, (name, host, namespace, address))| ServiceSpec {
            addresses: ListenAddresses::exactly(address),
            host,
            namespace,
            name,
            protocol: Protocol::Tcp,
            port,
            target_port: port,
            selector: BTreeMap::new(),
            scheduler: Scheduler::Maglev,
            affinity: Duration::ZERO,
            source_ranges: Vec::new(),
            client_address: vl3lb_common::ClientAddress::None,
            drain: Duration::ZERO,
            health_check: None,
            rules: FlowRules::default(),
            backends: Vec::new(),
        });
    let update = State::new(NatPorts::new(1, 2).unwrap())
        .update(Inputs {
            desired: &Desired {
                services: services.map(Arc::new).collect(),
                ..Desired::default()
            },
            network: &Arc::new(view(&["172.16.1.103", "2001:db8::67"])),
            health: &Arc::default(),
            now: TimePoint {
                monotonic: Timestamp(0),
                wall: SystemTime::UNIX_EPOCH,
            },
            workers: &[],
        })
        .unwrap();
    Arc::new(Current {
        snapshot: update.snapshot,
        directory: update.directory,
        published: SystemTime::UNIX_EPOCH,
        applied_in: Duration::ZERO,
    })
}

/// A running server and what it depends on.
struct Server {
    address: SocketAddr,
    current: watch::Sender<Option<Arc<Current>>>,
    peers: watch::Sender<Arc<PeerSet>>,
    network: watch::Sender<Option<Arc<NetworkView>>>,
    stats: Arc<DnsStats>,
}

/// A free port. Another process may take it before we do, which fails the test.
async fn free_port() -> u16 {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap().port()
}

impl Server {
    /// With `services`, if anything was published yet, on all of `own` by the port.
    async fn start(services: Option<&[&str]>, upstream: &[SocketAddr], own: &[&str]) -> Self {
        let port = free_port().await;
        let upstream: Vec<String> = upstream.iter().map(|server| format!("'{server}'")).collect();
        let text = format!(
            "{{services: [], natPorts: 1-2, dns: {{listen: '{port}', upstream: [{}]}}}}",
            upstream.join(", ")
        );
        let config = Config::parse(Some(&text), "", &|_| None, &(32_768..=60_999))
            .unwrap()
            .config;
        let (current_sender, current_receiver) = watch::channel(services.map(current));
        let (network, network_receiver) = watch::channel(Some(Arc::new(view(own))));
        let peers = watch::Sender::default();
        let (dns, stats) =
            Dns::new(&config.dns, current_receiver, peers.subscribe(), network_receiver).unwrap();
        tokio::spawn(dns.run());
        let server = Self {
            address: SocketAddr::new(own[0].parse().unwrap(), port),
            current: current_sender,
            peers,
            network,
            stats,
        };
        server.listening(own.len() as u64).await;
        server
    }

    async fn listening(&self, count: u64) {
        while self.stats.listeners() != count {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let udp = udp(self.address, &question(name, kind)).await;
        let tcp = tcp(self.address, &question(name, kind)).await;
        assert_eq!(
            (&udp.answers, udp.metadata.response_code),
            (&tcp.answers, tcp.metadata.response_code)
        );
        udp
    }

    fn count(&self, rcode: &str) -> u64 {
        let mut counts = self.stats.by_rcode();
        counts.find(|(name, _)| *name == rcode).unwrap().1
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn udp(server: SocketAddr, question: &Message) -> Message {
    Message::from_vec(&raw_udp(server, question).await).unwrap()
}

async fn raw_udp(server: SocketAddr, question: &Message) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&question.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    buffer[..length].to_vec()
}

async fn tcp(server: SocketAddr, question: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = question.to_vec().unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// The data of all answers, as text.
fn data(message: &Message) -> Vec<String> {
    message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

fn is_negative(message: &Message, code: ResponseCode) -> bool {
    message.metadata.response_code == code
        && message.answers.is_empty()
        && matches!(&message.authorities[..], [soa] if matches!(soa.data, RData::SOA(_)) && soa.ttl == 5)
}

#[tokio::test]
async fn listeners_follow_the_addresses() {
    let server = Server::start(Some(&["finance"]), &[], &["127.0.0.1", "127.0.0.2"]).await;
    server.network.send_replace(Some(Arc::new(view(&["127.0.0.3"]))));
    // The count goes from two to one.
    server.listening(1).await;
    let moved = SocketAddr::new("127.0.0.3".parse().unwrap(), server.address.port());
    let asked = question("finance.vl3-lb.", RecordType::A);
    assert_eq!(data(&tcp(moved, &asked).await), ["172.16.1.103"]);
    // The old ones close as their tasks end, right after.
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_datagram_is_answered_with_at_most_three_times_its_length() {
    let (many, _) = upstream(ResponseCode::NoError, 20, false).await;
    let server = Server::start(Some(&[]), &[many], &["127.0.0.1"]).await;
    let answer = udp(server.address, &question("example.com.", RecordType::A)).await;
    assert!(
        answer.metadata.truncation && answer.answers.is_empty(),
        "{answer}"
    );
    // The answer would have 33 + 31 + 3 * 16 bytes: the first record repeats the question's name.
    let (four, _) = upstream(ResponseCode::NoError, 4, false).await;
    let server = Server::start(Some(&[]), &[four], &["127.0.0.1"]).await;
    let query = question("www.example.com.", RecordType::A);
    let answer = raw_udp(server.address, &query).await;
    assert!(
        answer.len() <= 3 * query.to_vec().unwrap().len(),
        "{}",
        answer.len()
    );
    let (few, _) = upstream(ResponseCode::NoError, 2, false).await;
    let server = Server::start(Some(&[]), &[few], &["127.0.0.1"]).await;
    let answer = udp(server.address, &question("example.com.", RecordType::A)).await;
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (2, false));
}

#[tokio::test]
async fn a_flood_of_datagrams_is_answered_at_a_limited_rate() {
    let server = Server::start(Some(&["finance"]), &[], &["127.0.0.1"]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    let query = question("finance.vl3-lb.", RecordType::A).to_vec().unwrap();
    let mut buffer = [0; 512];
    let mut truncated = false;
    while !truncated || server.stats.limited().1 == 0 {
        for _ in 0..64 {
            socket.send(&query).await.unwrap();
        }
        let pause = Duration::from_millis(1);
        while let Ok(length) = tokio::time::timeout(pause, socket.recv(&mut buffer)).await {
            let answer = Message::from_vec(&buffer[..length.unwrap()]).unwrap();
            assert_eq!(answer.answers.is_empty(), answer.metadata.truncation);
            truncated |= answer.metadata.truncation;
        }
    }
    // TCP proves the source.
    let answer = tcp(server.address, &question("finance.vl3-lb.", RecordType::A)).await;
    assert_eq!(data(&answer), ["172.16.1.103"]);
}

#[tokio::test]
async fn invalid_queries_get_their_response_code() {
    let server = Server::start(Some(&["finance"]), &[], &["127.0.0.1"]).await;
    let mut two = question("finance.vl3-lb.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    let mut update = question("finance.vl3-lb.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    let mut chaos = question("finance.vl3-lb.", RecordType::A);
    chaos.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    for (message, code) in [
        (two, ResponseCode::FormErr),
        (update, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
    ] {
        assert_eq!(udp(server.address, &message).await.metadata.response_code, code);
    }
}

#[tokio::test]
async fn an_address_in_use_is_bound_once_it_is_free() {
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = holder.local_addr().unwrap();
    let text = format!("{{services: [], dns: {{listen: '{address}'}}}}");
    let config = Config::parse(Some(&text), "", &|_| None, &(32_768..=60_999))
        .unwrap()
        .config;
    let (_current, current_receiver) = watch::channel(Some(current(&["finance"])));
    let (_network, network_receiver) = watch::channel(None);
    let balancers = watch::Sender::default().subscribe();
    let (dns, stats) = Dns::new(&config.dns, current_receiver, balancers, network_receiver).unwrap();
    tokio::spawn(dns.run());
    tokio::task::yield_now().await;
    assert_eq!(stats.listeners(), 0);
    drop(holder);
    while stats.listeners() == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let answer = tcp(address, &question("finance.vl3-lb.", RecordType::A)).await;
    assert_eq!(data(&answer), ["172.16.1.103"]);
}

#[tokio::test]
async fn idle_tcp_connections_make_room_for_queries() {
    let server = Server::start(Some(&["finance"]), &[], &["127.0.0.1"]).await;
    let limit = crate::connections::Limits::of_process().per_source;
    let mut idle = Vec::new();
    for _ in 0..limit + 5 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let answer = tcp(server.address, &question("finance.vl3-lb.", RecordType::A)).await;
    assert_eq!(data(&answer), ["172.16.1.103"]);
    let begin = tokio::time::Instant::now();
    for client in &mut idle[..5] {
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "closed");
    }
    // Before their time was over.
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_malformed_query_over_tcp_is_a_format_error() {
    let server = Server::start(Some(&["finance"]), &[], &["127.0.0.1"]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // A header that announces a question, and none.
    let header = [0x12, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    stream.write_u16(12).await.unwrap();
    stream.write_all(&header).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(answer.metadata.id, 0x1267);
}

#[tokio::test]
async fn a_name_that_points_into_the_header_is_a_format_error() {
    let server = Server::start(Some(&["finance"]), &[], &["127.0.0.1"]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    // The pointer leads to the flags, which a response changes.
    let query = [0x12, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 2, 0, 1, 0, 1];
    socket.send(&query).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert_eq!((answer.metadata.id, answer.queries.len()), (0x1267, 0));
}
