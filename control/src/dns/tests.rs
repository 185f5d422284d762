//! The server with real sockets on loopback.

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
use crate::config::Config;
use crate::discovery::{Desired, ServiceSpec};
use crate::network::{LinkState, NetworkView};
use crate::peers::{Peer, PeerSet};
use crate::publisher::Current;
use crate::state::{Inputs, State, TimePoint};

fn view(addresses: &[&str]) -> NetworkView {
    NetworkView {
        index: Some(7),
        state: LinkState::Up,
        mtu: 1500,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        broadcasts: Vec::new(),
        next_hops: NextHops::new(Link::RawIp, 1, Vec::new(), HashMap::new()),
    }
}

/// What the publisher would send for these services.
fn current(names: &[&str]) -> Arc<Current> {
    let services = (8080..).zip(names).map(|(port, name)| ServiceSpec {
        name: (*name).to_owned(),
        host: name.strip_suffix("-http").map(str::to_owned),
        protocol: Protocol::Tcp,
        port,
        target_port: port,
        selector: BTreeMap::new(),
        scheduler: Scheduler::Maglev,
        affinity: Duration::ZERO,
        source_ranges: Vec::new(),
        drain: Duration::ZERO,
        health_check: None,
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
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&question.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
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
async fn the_zone_has_exactly_the_services() {
    let server = Server::start(Some(&["finance", "dns"]), &[], &["127.0.0.1"]).await;
    for (name, kind, want) in [
        ("finance.vl3-lb.", RecordType::A, "172.16.1.103"),
        ("FINANCE.Vl3-LB.", RecordType::A, "172.16.1.103"),
        ("dns.vl3-lb.", RecordType::AAAA, "2001:db8::67"),
        ("ns.vl3-lb.", RecordType::A, "172.16.1.103"),
        ("vl3-lb.", RecordType::NS, "ns.vl3-lb."),
    ] {
        let answer = server.ask(name, kind).await;
        assert_eq!(data(&answer), [want], "{name}");
        assert!(answer.metadata.authoritative);
        assert_eq!(answer.answers[0].ttl, 5);
        assert_eq!(
            answer.answers[0].name.to_string(),
            name,
            "spelled as it was asked"
        );
    }
    let soa = server.ask("vl3-lb.", RecordType::SOA).await;
    assert!(matches!(&soa.answers[0].data, RData::SOA(soa) if soa.serial == 1));
    assert_eq!(
        server.ask("finance.vl3-lb.", RecordType::ANY).await.answers.len(),
        2
    );

    for name in ["sales.vl3-lb.", "x.finance.vl3-lb.", "_tcp.vl3-lb."] {
        let answer = server.ask(name, RecordType::A).await;
        assert!(is_negative(&answer, ResponseCode::NXDomain), "{name}: {answer}");
    }
    for (name, kind) in [
        ("finance.vl3-lb.", RecordType::TXT),
        ("finance.vl3-lb.", RecordType::SOA),
        ("vl3-lb.", RecordType::A),
    ] {
        let answer = server.ask(name, kind).await;
        assert!(is_negative(&answer, ResponseCode::NoError), "{name}: {answer}");
    }
    for name in ["example.com.", ".", "xvl3-lb.", "lb."] {
        let answer = server.ask(name, RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name}");
    }
    // Each was asked by UDP and by TCP.
    assert_eq!((server.count("nxdomain"), server.count("refused")), (6, 8));
    assert_eq!(
        server.stats.durations().counts().iter().sum::<u64>(),
        2 * (5 + 2 + 3 + 3 + 4)
    );
}

#[tokio::test]
async fn the_balancers_addresses_have_the_services_names() {
    let server = Server::start(Some(&["finance", "dns"]), &[], &["127.0.0.1"]).await;
    for address in ["172.16.1.103", "2001:db8::67"] {
        let name = Name::from(address.parse::<IpAddr>().unwrap()).to_string();
        let answer = server.ask(&name, RecordType::PTR).await;
        assert_eq!(data(&answer), ["dns.vl3-lb.", "finance.vl3-lb."], "{name}");
    }
    let answer = server.ask("1.1.16.172.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn a_service_of_several_ports_has_a_name_for_all_of_them() {
    let server = Server::start(Some(&["shop-http"]), &[], &["127.0.0.1"]).await;
    for (name, answers) in [("shop-http.vl3-lb.", 1), ("shop.vl3-lb.", 1), ("http.vl3-lb.", 0)] {
        let answer = server.ask(name, RecordType::A).await;
        assert_eq!(answer.answers.len(), answers, "{name}");
    }
}

#[tokio::test]
async fn answers_have_every_balancer_of_a_service_in_rotation() {
    let server = Server::start(Some(&["finance"]), &[], &["127.0.0.1"]).await;
    let peer = |host: u8| Peer {
        name: format!("lb-{host}"),
        ready: true,
        addresses: vec![[172, 16, 2, host].into()],
        services: ["finance".to_owned()].into(),
        since: SystemTime::UNIX_EPOCH,
    };
    let ask = async |kind| {
        let answer = udp(server.address, &question("finance.vl3-lb.", kind)).await;
        data(&answer)
    };
    let with = |peers: Vec<Peer>, leaving| {
        server.peers.send_replace(Arc::new(PeerSet {
            peers,
            leaving,
            ..PeerSet::default()
        }));
    };
    with(vec![peer(1), peer(2)], false);
    let mut first = Vec::new();
    for _ in 0..3 {
        let mut answer = ask(RecordType::A).await;
        first.push(answer[0].clone());
        answer.sort_unstable();
        assert_eq!(answer, ["172.16.1.103", "172.16.2.1", "172.16.2.2"]);
    }
    first.sort_unstable();
    assert_eq!(first, ["172.16.1.103", "172.16.2.1", "172.16.2.2"]);
    assert_eq!(ask(RecordType::AAAA).await, ["2001:db8::67"]);

    let answer = udp(server.address, &question("ns.vl3-lb.", RecordType::A)).await;
    assert_eq!(
        data(&answer),
        ["172.16.1.103"],
        "the name server is this balancer"
    );

    with(vec![peer(1)], true);
    assert_eq!(
        ask(RecordType::A).await,
        ["172.16.2.1"],
        "who leaves is not answered with"
    );

    with((1..=200).map(peer).collect(), false);
    let answer = udp(server.address, &question("finance.vl3-lb.", RecordType::A)).await;
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (4, false));
    let answer = tcp(server.address, &question("finance.vl3-lb.", RecordType::A)).await;
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (13, false));
}

#[tokio::test]
async fn names_follow_the_published_snapshot() {
    let server = Server::start(None, &[], &["127.0.0.1"]).await;
    let code = async |name| server.ask(name, RecordType::A).await.metadata.response_code;
    assert_eq!(code("finance.vl3-lb.").await, ResponseCode::ServFail);
    server.current.send_replace(Some(current(&["finance"])));
    assert_eq!(code("finance.vl3-lb.").await, ResponseCode::NoError);
    server.current.send_replace(Some(current(&["sales"])));
    assert_eq!(code("finance.vl3-lb.").await, ResponseCode::NXDomain);
    assert_eq!(code("sales.vl3-lb.").await, ResponseCode::NoError);
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
async fn queries_for_other_zones_are_forwarded() {
    let upstream = Server::start(Some(&["other"]), &[], &["127.0.0.1"]).await;
    // The upstream is a balancer too: it knows a reverse name that this one, which has nothing
    // published yet, does not.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let servers = [silent.local_addr().unwrap(), upstream.address];
    let server = Server::start(None, &servers, &["127.0.0.1"]).await;
    let name = "103.1.16.172.in-addr.arpa.";
    let answer = udp(server.address, &question(name, RecordType::PTR)).await;
    assert_eq!(data(&answer), ["other.vl3-lb."]);
    assert!(!answer.metadata.authoritative);
    assert_eq!(answer.metadata.id, 4711);
    let answer = tcp(server.address, &question(name, RecordType::PTR)).await;
    assert_eq!(data(&answer), ["other.vl3-lb."]);
    let answer = udp(server.address, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

/// An upstream server that responds to each query with `code` and `answers` addresses, truncated or not. Counts its queries.
async fn upstream(code: ResponseCode, answers: usize, truncated: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let mut message = Message::from_vec(&buffer[..length]).unwrap();
            message.metadata.message_type = MessageType::Response;
            message.metadata.response_code = code;
            message.metadata.truncation = truncated;
            let name = message.queries[0].name().clone();
            for host in 0..answers {
                let address = RData::A(A([192, 0, 2, u8::try_from(host).unwrap()].into()));
                message
                    .answers
                    .push(Record::from_rdata(name.clone(), 60, address));
            }
            socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_failing_upstream_server_makes_the_next_be_asked() {
    let (good, asked) = upstream(ResponseCode::NoError, 1, false).await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut failing = vec![silent.local_addr().unwrap()];
    for code in [
        ResponseCode::ServFail,
        ResponseCode::Refused,
        ResponseCode::NotImp,
    ] {
        failing.push(upstream(code, 0, false).await.0);
    }
    failing.push(upstream(ResponseCode::NoError, 0, true).await.0);
    for (number, &first) in failing.iter().enumerate() {
        let server = Server::start(Some(&[]), &[first, good], &["127.0.0.1"]).await;
        let answer = udp(server.address, &question("example.com.", RecordType::A)).await;
        assert_eq!(data(&answer), ["192.0.2.0"], "{first}");
        assert_eq!(asked.load(Ordering::Relaxed), number + 1);
    }
    // A name that does not exist is no failure.
    let (nothing, _) = upstream(ResponseCode::NXDomain, 0, false).await;
    let server = Server::start(Some(&[]), &[nothing, good], &["127.0.0.1"]).await;
    let answer = udp(server.address, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    // If all fail, the client learns how; a truncated response lets it try over TCP.
    let server = Server::start(Some(&[]), &failing[1..4], &["127.0.0.1"]).await;
    let answer = udp(server.address, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let server = Server::start(Some(&[]), &failing[1..], &["127.0.0.1"]).await;
    let answer = udp(server.address, &question("example.com.", RecordType::A)).await;
    assert!(answer.metadata.truncation);
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
    let (few, _) = upstream(ResponseCode::NoError, 3, false).await;
    let server = Server::start(Some(&[]), &[few], &["127.0.0.1"]).await;
    let answer = udp(server.address, &question("example.com.", RecordType::A)).await;
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (3, false));
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
async fn a_service_called_ns_is_answered_with_its_balancers() {
    let server = Server::start(Some(&["ns"]), &[], &["127.0.0.1"]).await;
    server.peers.send_replace(Arc::new(PeerSet {
        peers: vec![Peer {
            name: "lb-b".to_owned(),
            ready: true,
            addresses: vec!["172.16.2.1".parse().unwrap()],
            services: ["ns".to_owned()].into(),
            since: SystemTime::UNIX_EPOCH,
        }],
        ..PeerSet::default()
    }));
    let answer = udp(server.address, &question("ns.vl3-lb.", RecordType::A)).await;
    let mut addresses = data(&answer);
    addresses.sort_unstable();
    assert_eq!(addresses, ["172.16.1.103", "172.16.2.1"]);
    let name_server = udp(server.address, &question("vl3-lb.", RecordType::NS)).await;
    assert_eq!(data(&name_server), ["ns.vl3-lb."]);
}
