//! Which servers are accepted, and what a server does that does not accept us.

use std::time::{Duration, SystemTime};

use crate::error_chain::chain;
use crate::nsm::proto::registry::NetworkServiceEndpointQuery;
use crate::nsm::testing::{Authority, CLIENT, Key, Leaf, MANAGER, Manager, Node, message};

/// Why a connection to a manager with this SVID fails, or who it is.
async fn peer(node: &Node, svid: &crate::nsm::testing::Issued) -> Result<String, String> {
    let manager = Manager::start(&node.socket("peer.sock"), svid, &[&node.authority]);
    let target = manager.url().parse().unwrap();
    match node.connector().connect(&target).await {
        Ok(session) => Ok(session.peer().to_string()),
        Err(error) => Err(chain(&error)),
    }
}

#[tokio::test]
async fn any_spiffe_id_of_a_trusted_domain_is_accepted() {
    let node = Node::start();
    let east = Authority::new("east.nsm");
    let bundles = message(&node.authority.issue(CLIENT), &[&node.authority, &east]);
    node.workload_api.send(bundles);
    let mut identity = node.identity.clone();
    while identity.status().authorities != 2 {
        identity.changed().await;
    }
    for (authority, id) in [
        (&node.authority, "spiffe://k8s.nsm/ns/other/pod/anything"),
        (&node.authority, MANAGER),
        (&east, "spiffe://east.nsm/nsmgr"),
    ] {
        assert_eq!(peer(&node, &authority.issue(id)).await, Ok(id.to_owned()));
    }
    // Each bundle is for its own trust domain.
    let refused = peer(&node, &east.issue(MANAGER)).await.unwrap_err();
    assert!(
        refused.contains("does not vouch for the peer spiffe://k8s.nsm/"),
        "{refused}"
    );
}

#[tokio::test]
async fn other_servers_are_refused_with_the_reason() {
    let node = Node::start();
    let now = SystemTime::now();
    let stranger = Authority::new("k8s.nsm");
    let leaf = |leaf: Leaf<'_>| node.authority.issue_leaf(&leaf);
    for (case, svid, reason) in [
        (
            "another authority",
            stranger.issue(MANAGER),
            "does not vouch for the peer spiffe://k8s.nsm/ns/nsm-system/pod/nsmgr-0",
        ),
        (
            "an unknown trust domain",
            node.authority.issue("spiffe://west.nsm/nsmgr"),
            "no trust bundle for the trust domain of the peer spiffe://west.nsm/nsmgr",
        ),
        (
            "no SPIFFE ID",
            leaf(Leaf::default()),
            "the peer has no X.509-SVID",
        ),
        (
            "two IDs",
            leaf(Leaf {
                uris: &[MANAGER, CLIENT],
                ..Leaf::default()
            }),
            "2 URI names",
        ),
        (
            "expired",
            leaf(Leaf {
                uris: &[MANAGER],
                not_before: now - Duration::from_secs(120),
                not_after: now - Duration::from_secs(60),
                ..Leaf::default()
            }),
            "expired",
        ),
        (
            "not yet valid",
            leaf(Leaf {
                uris: &[MANAGER],
                not_before: now + Duration::from_secs(60),
                ..Leaf::default()
            }),
            "not valid yet",
        ),
        (
            "an authority",
            leaf(Leaf {
                uris: &[MANAGER],
                is_authority: true,
                ..Leaf::default()
            }),
            "may sign others",
        ),
    ] {
        let refused = peer(&node, &svid).await.unwrap_err();
        assert!(refused.starts_with("TLS with unix://"), "{case}: {refused}");
        assert!(refused.contains(reason), "{case}: {refused}");
    }
    // The kind of the server's key is its own affair.
    let rsa = leaf(Leaf {
        uris: &[MANAGER],
        key: Key::Rsa,
        ..Leaf::default()
    });
    assert_eq!(peer(&node, &rsa).await, Ok(MANAGER.to_owned()));
}

#[tokio::test]
async fn a_server_that_does_not_trust_us_says_so_in_the_call() {
    let node = Node::start();
    let stranger = Authority::new("k8s.nsm");
    let manager = Manager::start(
        &node.socket("other.sock"),
        &node.authority.issue(MANAGER),
        &[&stranger],
    );
    let target = manager.url().parse().unwrap();
    let connector = node.connector();
    let status = match connector.connect(&target).await {
        Ok(session) => session
            .registry()
            .find(NetworkServiceEndpointQuery::default())
            .await
            .unwrap_err()
            .to_string(),
        Err(error) => chain(&error),
    };
    assert!(status.contains("received fatal alert"), "{status}");
    assert!(manager.received().is_empty());
}

/// Servers may agree without ALPN, as older grpc-go does, but not to another protocol.
#[tokio::test]
async fn h2_is_offered_and_no_other_protocol_accepted() {
    let node = Node::start();
    let target = node.manager.url().parse().unwrap();
    node.manager.offer(&[&node.authority], &[]);
    node.connector().connect(&target).await.unwrap();
    node.manager.offer(&[&node.authority], &[b"http/1.1"]);
    node.connector().connect(&target).await.unwrap_err();
}
