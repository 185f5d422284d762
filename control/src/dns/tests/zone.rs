//! Answers of the zone.

use super::*;

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
async fn services_of_one_name_answer_together() {
    let services = ["web@@172.16.1.103", "web@@2001:db8::67", "other"];
    let server = Server::start(Some(&services), &[], &["127.0.0.1"]).await;
    for (name, kind, want) in [
        ("web.vl3-lb.", RecordType::A, &["172.16.1.103"][..]),
        ("web.vl3-lb.", RecordType::AAAA, &["2001:db8::67"]),
    ] {
        assert_eq!(data(&server.ask(name, kind).await), want, "{name}");
    }
    let name = Name::from("172.16.1.103".parse::<IpAddr>().unwrap()).to_string();
    let answer = server.ask(&name, RecordType::PTR).await;
    assert_eq!(data(&answer), ["other.vl3-lb.", "web.vl3-lb."]);
}

#[tokio::test]
async fn a_service_of_kubernetes_has_its_name_and_that_with_its_namespace() {
    let services = ["web/shop", "web.bank/bank@2001:db8::67", "file"];
    let server = Server::start(Some(&services), &[], &["127.0.0.1"]).await;
    for (name, v4) in [
        ("web.vl3-lb.", 1),
        ("web.shop.vl3-lb.", 1),
        ("Web.Shop.VL3-LB.", 1),
        ("web.bank.vl3-lb.", 0),
        ("file.vl3-lb.", 1),
    ] {
        assert_eq!(server.ask(name, RecordType::A).await.answers.len(), v4, "{name}");
        assert_eq!(
            server.ask(name, RecordType::AAAA).await.answers.len(),
            1,
            "{name}"
        );
    }
    for name in [
        "web.other.vl3-lb.",
        "file.shop.vl3-lb.",
        "shop.vl3-lb.",
        "web\\.shop.vl3-lb.",
        "web.shop.svc.vl3-lb.",
    ] {
        let answer = server.ask(name, RecordType::A).await;
        assert!(is_negative(&answer, ResponseCode::NXDomain), "{name}: {answer}");
    }
    let name = Name::from("2001:db8::67".parse::<IpAddr>().unwrap()).to_string();
    let answer = server.ask(&name, RecordType::PTR).await;
    assert_eq!(data(&answer), ["file.vl3-lb.", "web.vl3-lb.", "web.bank.vl3-lb."]);
}

#[tokio::test]
async fn a_peer_that_gave_a_name_to_another_namespace_is_not_answered_with() {
    let server = Server::start(Some(&["web/shop"]), &[], &["127.0.0.1"]).await;
    let peer = |name: &str, service: &str, host: u8| Peer {
        service_addresses: BTreeMap::new(),
        name: name.to_owned(),
        ready: true,
        addresses: vec![[172, 16, 2, host].into()],
        services: [service.to_owned()].into(),
        since: SystemTime::UNIX_EPOCH,
    };
    server.peers.send_replace(Arc::new(PeerSet {
        peers: vec![peer("a", "web.shop", 1), peer("b", "web.bank", 2)],
        ..PeerSet::default()
    }));
    for name in ["web.vl3-lb.", "web.shop.vl3-lb."] {
        let mut answer = data(&udp(server.address, &question(name, RecordType::A)).await);
        answer.sort_unstable();
        assert_eq!(answer, ["172.16.1.103", "172.16.2.1"], "{name}");
    }
}

#[tokio::test]
async fn answers_have_every_balancer_of_a_service_in_rotation() {
    let server = Server::start(Some(&["finance"]), &[], &["127.0.0.1"]).await;
    let peer = |host: u8| Peer {
        service_addresses: BTreeMap::new(),
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
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (3, false));
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
async fn a_service_called_ns_is_answered_with_its_balancers() {
    let server = Server::start(Some(&["ns"]), &[], &["127.0.0.1"]).await;
    server.peers.send_replace(Arc::new(PeerSet {
        peers: vec![Peer {
            service_addresses: BTreeMap::new(),
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

#[tokio::test]
async fn a_name_has_the_addresses_at_which_its_service_listens() {
    let services = ["front@172.16.1.103", "back@2001:db8::67"];
    let server = Server::start(Some(&services), &[], &["127.0.0.1"]).await;
    let ask = async |name, kind| data(&server.ask(name, kind).await);
    assert_eq!(ask("front.vl3-lb.", RecordType::A).await, ["172.16.1.103"]);
    assert!(ask("front.vl3-lb.", RecordType::AAAA).await.is_empty());
    assert_eq!(ask("back.vl3-lb.", RecordType::AAAA).await, ["2001:db8::67"]);
    assert!(ask("back.vl3-lb.", RecordType::A).await.is_empty());
    for (address, name) in [
        ("172.16.1.103", "front.vl3-lb."),
        ("2001:db8::67", "back.vl3-lb."),
    ] {
        let reverse = Name::from(address.parse::<IpAddr>().unwrap()).to_string();
        assert_eq!(data(&server.ask(&reverse, RecordType::PTR).await), [name]);
    }
    let peer = Peer {
        name: "lb-b".to_owned(),
        ready: true,
        addresses: ["172.16.1.105", "172.16.1.106"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
        services: ["front".to_owned()].into(),
        service_addresses: [("front".to_owned(), vec!["172.16.1.106".parse().unwrap()])].into(),
        since: SystemTime::UNIX_EPOCH,
    };
    server.peers.send_replace(Arc::new(PeerSet {
        peers: vec![peer],
        ..PeerSet::default()
    }));
    let mut both = data(&udp(server.address, &question("front.vl3-lb.", RecordType::A)).await);
    both.sort_unstable();
    assert_eq!(
        both,
        ["172.16.1.103", "172.16.1.106"],
        "the peer's address of that service"
    );
}
