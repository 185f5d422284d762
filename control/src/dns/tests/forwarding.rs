//! Queries for other zones.

use super::*;

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
pub(super) async fn upstream(
    code: ResponseCode,
    answers: usize,
    truncated: bool,
) -> (SocketAddr, Arc<AtomicUsize>) {
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
