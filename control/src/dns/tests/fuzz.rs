//! Fuzz target: changed messages to the server, over UDP and TCP, and from an upstream server to it. See
//! `vl3lb_testbed::fuzz`.

use std::net::Ipv4Addr;
use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, timeout};
use vl3lb_testbed::mutation::change_bytes;

use super::super::response::AMPLIFICATION;
use super::*;

/// Seeds that have failed: a question whose name points into the header was repeated, and unreadable.
const CORPUS: &[u64] = &[7_713_703_118_348_747_057];
/// Rounds of one seed, each with messages over both transports.
const ROUNDS: u64 = 30;
/// Datagrams of one round, after each of which a good query must be answered.
const DATAGRAMS: u64 = 4;
/// The longest time to an answer: the machine may be busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// The id of good queries.
const GOOD: u16 = 0x600d;

#[test]
fn any_message_is_harmless_and_answers_are_small_and_well_formed() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    vl3lb_testbed::fuzz::run("DNS", 3, CORPUS, |seed| {
        let rng = StdRng::seed_from_u64(seed);
        runtime.block_on(messages(rng))
    });
}

async fn messages(mut rng: StdRng) -> u64 {
    let upstream = hostile_upstream(StdRng::seed_from_u64(rng.random())).await;
    let services = ["finance", "dns", "web-http"];
    let server = Server::start(Some(&services), &[upstream], &["127.0.0.1"]).await;
    let mut count = 0;
    for _ in 0..ROUNDS {
        count += by_datagram(&mut rng, &server).await;
        count += by_stream(&mut rng, &server).await;
    }
    let answer = tcp(server.address, &question("finance.vl3-lb.", RecordType::A)).await;
    assert_eq!(data(&answer), ["172.16.1.103"]);
    count
}

/// Each answer is to the message before it, at most three times as long, and can be read; and the good query behind it is
/// answered.
async fn by_datagram(rng: &mut StdRng, server: &Server) -> u64 {
    // Another source each time, since the rate of one is limited.
    let source: [u8; 3] = rng.random();
    let source = Ipv4Addr::new(127, source[0], source[1], source[2].clamp(1, 254));
    let socket = UdpSocket::bind((source, 0)).await.unwrap();
    socket.connect(server.address).await.unwrap();
    let mut good = question("finance.vl3-lb.", RecordType::A);
    good.metadata.id = GOOD;
    let good = good.to_vec().unwrap();
    // The longest message by id: an answer of the upstream server comes later than others.
    let mut sent: HashMap<[u8; 2], usize> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    for _ in 0..DATAGRAMS {
        let mut message = message(rng);
        message.truncate(60_000);
        if let Some(id) = message.first_chunk() {
            if *id == GOOD.to_be_bytes() {
                continue;
            }
            let length = sent.entry(*id).or_default();
            *length = message.len().max(*length);
        }
        socket.send(&message).await.unwrap();
        socket.send(&good).await.unwrap();
        let begin = Instant::now();
        loop {
            let received = timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await;
            let Ok(received) = received else {
                // Over the limit of all sources.
                assert!(begin.elapsed() < ANSWER_LIMIT, "no answer after {message:02x?}");
                socket.send(&good).await.unwrap();
                continue;
            };
            let answer = &buffer[..received.unwrap()];
            let read = Message::from_vec(answer);
            let read = read.unwrap_or_else(|error| panic!("{error}: {answer:02x?} after {message:02x?}"));
            assert_eq!(
                read.metadata.message_type,
                MessageType::Response,
                "after {message:02x?}"
            );
            if read.metadata.id == GOOD {
                assert_eq!(data(&read), ["172.16.1.103"]);
                break;
            }
            let length = sent.get(&answer[..2]).copied();
            let length = length
                .unwrap_or_else(|| panic!("{answer:02x?} is the answer to nothing, after {message:02x?}"));
            assert!(
                answer.len() <= AMPLIFICATION * length,
                "{answer:02x?} after {message:02x?}"
            );
        }
    }
    2 * DATAGRAMS
}

/// Framed messages of which the frames are changed, too, in pieces. What comes back until the server has read all are
/// framed answers.
async fn by_stream(rng: &mut StdRng, server: &Server) -> u64 {
    let mut bytes = Vec::new();
    let messages = rng.random_range(1..=3);
    for _ in 0..messages {
        let message = message(rng);
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&message);
    }
    for _ in 0..rng.random_range(0..2) {
        change_bytes(rng, &mut bytes);
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_nodelay(true).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let at = rng.random_range(0..=bytes.len());
    let (head, tail) = bytes.split_at(at);
    let writing = async {
        // The server may have closed the connection for an earlier part.
        if writer.write_all(head).await.is_ok() {
            tokio::task::yield_now().await;
            writer.write_all(tail).await.ok();
        }
        writer.shutdown().await.ok();
    };
    let reading = async {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.ok();
        all
    };
    let both = timeout(ANSWER_LIMIT, async { tokio::join!(writing, reading) }).await;
    let Ok(((), answers)) = both else {
        panic!("the connection does not end: {bytes:02x?}")
    };
    let mut rest = &answers[..];
    while let Some((length, later)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        // The last one may be cut where the server had to reset the connection.
        let Some(answer) = later.get(..length) else { break };
        let read = Message::from_vec(answer);
        let read = read.unwrap_or_else(|error| panic!("{error}: {answer:02x?} to {bytes:02x?}"));
        assert_eq!(
            read.metadata.message_type,
            MessageType::Response,
            "to {bytes:02x?}"
        );
        rest = &later[length..];
    }
    messages
}

/// A query with up to five changes.
fn message(rng: &mut StdRng) -> Vec<u8> {
    const NAMES: [&str; 8] = [
        "finance.vl3-lb.",
        "WEB.vl3-lb.",
        "ns.vl3-lb.",
        "nothing.vl3-lb.",
        "103.1.16.172.in-addr.arpa.",
        "www.example.com.",
        "vl3-lb.",
        ".",
    ];
    const TYPES: [RecordType; 8] = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::PTR,
        RecordType::SOA,
        RecordType::NS,
        RecordType::ANY,
        RecordType::AXFR,
        RecordType::OPT,
    ];
    let mut message = question(
        NAMES[rng.random_range(0..NAMES.len())],
        TYPES[rng.random_range(0..TYPES.len())],
    );
    message.metadata.id = rng.random();
    if rng.random() {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(rng.random());
        edns.set_version(rng.random_range(0..2));
        edns.set_dnssec_ok(rng.random());
        message.set_edns(edns);
    }
    for _ in 0..rng.random_range(0..4) {
        let name = Name::from_ascii("a.vl3-lb.").unwrap();
        let record = Record::from_rdata(name, 60, RData::A(A([192, 0, 2, 1].into())));
        match rng.random_range(0..9) {
            0 => message.answers.push(record),
            1 => message.authorities.push(record),
            2 => message.additionals.push(record),
            _ => {}
        }
    }
    let mut bytes = message.to_vec().unwrap();
    for _ in 0..rng.random_range(0..6) {
        change_bytes(rng, &mut bytes);
    }
    // The header says how many there are: more often than by chance it is as before.
    if rng.random() && bytes.len() > 12 {
        bytes[4..6].copy_from_slice(&[0, 1]);
    }
    bytes
}

/// An upstream server whose first answer to a datagram is a changed one, and whose second one is good. Over TCP there is
/// only the changed one.
async fn hostile_upstream(rng: StdRng) -> SocketAddr {
    // A port that is free for both.
    let (udp, tcp, address) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(address).await {
            break (udp, tcp, address);
        }
    };
    let rng = Arc::new(Mutex::new(rng));
    let shared = Arc::clone(&rng);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            let (changed, good) = answers(&mut shared.lock().unwrap(), &buffer[..length]);
            udp.send_to(&changed, client).await.ok();
            udp.send_to(&good, client).await.ok();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut client, _) = tcp.accept().await.unwrap();
            let rng = Arc::clone(&rng);
            tokio::spawn(async move {
                let Ok(length) = client.read_u16().await else {
                    return;
                };
                let mut query = vec![0; length.into()];
                client.read_exact(&mut query).await.ok();
                let (changed, _) = answers(&mut rng.lock().unwrap(), &query);
                client.write_u16(u16::try_from(changed.len()).unwrap()).await.ok();
                client.write_all(&changed).await.ok();
            });
        }
    });
    address
}

/// A changed answer to `query`, and a good one.
fn answers(rng: &mut StdRng, query: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let id = query.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
    let mut message = Message::new(id, MessageType::Response, OpCode::Query);
    if let Ok(read) = Message::from_vec(query) {
        message.queries.clone_from(&read.queries);
    }
    let name = Name::from_ascii("www.example.com.").unwrap();
    for host in 0..rng.random_range(0..6) {
        let address = RData::A(A([192, 0, 2, host].into()));
        message
            .answers
            .push(Record::from_rdata(name.clone(), 60, address));
    }
    let good = message.to_vec().unwrap();
    let mut changed = good.clone();
    for _ in 0..rng.random_range(0..5) {
        change_bytes(rng, &mut changed);
    }
    changed.truncate(4096);
    (changed, good)
}
