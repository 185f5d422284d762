//! Rotation of SVIDs and authorities.

use std::sync::Arc;
use std::time::Duration;

use super::request;
use crate::nsm::connector::NetworkNamespace;
use crate::nsm::proto::registry::NetworkServiceEndpointQuery;
use crate::nsm::testing::{Authority, CLIENT, Node, is_signed_by, message};

/// Sends another SVID and waits until it is the identity.
async fn rotate(node: &Node) {
    let mut identity = node.identity.clone();
    let before = identity.context().await;
    node.workload_api
        .send(message(&node.authority.issue(CLIENT), &[&node.authority]));
    while Arc::ptr_eq(&before, &identity.context().await) {
        identity.changed().await;
    }
}

#[tokio::test]
async fn certificate_and_tokens_of_a_connection_are_of_one_svid() {
    let node = Node::start();
    let target = node.manager.url().parse().unwrap();
    let namespace = NetworkNamespace::own().unwrap();
    let connector = node.connector();
    let old = connector.connect_with_netns(&target, &namespace).await.unwrap();
    old.network_service().request(request(&namespace)).await.unwrap();
    rotate(&node).await;
    let new = connector.connect_with_netns(&target, &namespace).await.unwrap();
    // The old connection goes on with the old key, which belongs to the certificate that it has shown.
    for session in [&old, &new] {
        session
            .network_service()
            .request(request(&namespace))
            .await
            .unwrap();
    }
    let received = node.manager.received();
    assert_eq!(received.len(), 3);
    for received in &received {
        assert!(is_signed_by(&received.token, &received.connection.certificate));
    }
    assert_eq!(
        received[0].connection.certificate,
        received[1].connection.certificate
    );
    assert_ne!(
        received[0].connection.certificate,
        received[2].connection.certificate
    );
}

/// A server takes the certificate of a resumed session from the ticket. So a session that was resumed after a rotation
/// would be refused.
#[tokio::test]
async fn tls_sessions_are_not_resumed() {
    let node = Node::start();
    let target = node.manager.url().parse().unwrap();
    let connector = node.connector();
    for _ in 0..3 {
        let session = connector.connect(&target).await.unwrap();
        // Tickets follow the handshake: with an answer they have arrived.
        session
            .registry()
            .find(NetworkServiceEndpointQuery::default())
            .await
            .unwrap();
    }
    let received = node.manager.received();
    assert_eq!(received.len(), 3);
    assert!(received.iter().all(|received| !received.connection.resumed));
}

#[tokio::test]
async fn each_call_has_a_new_token() {
    let node = Node::start();
    let target = node.manager.url().parse().unwrap();
    let session = node.connector().connect(&target).await.unwrap();
    for _ in 0..2 {
        let query = NetworkServiceEndpointQuery::default();
        session.registry().find(query).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let received = node.manager.received();
    assert_ne!(received[0].expires, received[1].expires);
}

#[tokio::test]
async fn a_new_authority_is_trusted_once_the_bundle_has_it() {
    let node = Node::start();
    let next = Authority::new("k8s.nsm");
    let manager = crate::nsm::testing::Manager::start(
        &node.socket("next.sock"),
        &next.issue(crate::nsm::testing::MANAGER),
        &[&node.authority],
    );
    let target = manager.url().parse().unwrap();
    let connector = node.connector();
    connector.connect(&target).await.unwrap_err();
    let mut identity = node.identity.clone();
    node.workload_api
        .send(message(&node.authority.issue(CLIENT), &[&node.authority, &next]));
    while identity.status().authorities != 2 {
        identity.changed().await;
    }
    connector.connect(&target).await.unwrap();
}
