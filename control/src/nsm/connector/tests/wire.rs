//! What a manager sees of our calls.

use super::request;
use crate::nsm::connector::NetworkNamespace;
use crate::nsm::proto::connection::{Connection, ConnectionEvent, MonitorScopeSelector, Path, PathSegment};
use crate::nsm::proto::registry::{
    NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
};
use crate::nsm::testing::{CLIENT, MANAGER, Node};

#[tokio::test]
async fn a_request_and_its_close_pass_the_rules_of_a_manager() {
    let node = Node::start();
    let target = node.manager.url().parse().unwrap();
    let namespace = NetworkNamespace::own().unwrap();
    let connector = node.connector();
    let session = connector.connect_with_netns(&target, &namespace).await.unwrap();
    assert_eq!(session.peer().to_string(), MANAGER);
    let connection = session
        .network_service()
        .request(request(&namespace))
        .await
        .unwrap()
        .into_inner();
    let path = connection.path.clone().unwrap();
    assert_eq!(path.index, 0);
    assert_eq!(path.path_segments.len(), 2);
    let session = connector.connect_with_netns(&target, &namespace).await.unwrap();
    session.network_service().close(connection).await.unwrap();

    let received = node.manager.received();
    let [request, close] = &received[..] else {
        panic!("{received:?}");
    };
    assert_eq!(request.method, "/networkservice.NetworkService/Request");
    assert_eq!(close.method, "/networkservice.NetworkService/Close");
    for received in [request, close] {
        assert_eq!(received.authority, "localhost");
        assert_eq!(received.connection.alpn.as_deref(), Some(&b"h2"[..]));
        assert_eq!(received.connection.client(), CLIENT);
        assert!(received.connection.descriptors.contains(namespace.inode_url()));
    }
    assert_ne!(request.connection.number, close.connection.number);
    // The client leaves its own token to the manager.
    let sent = request.request.clone().unwrap().connection.unwrap().path.unwrap();
    assert_eq!(sent.path_segments[0].token, "");
}

#[tokio::test]
async fn streams_outlive_their_session() {
    let node = Node::start();
    node.manager.shared.answers.lock().unwrap().events = vec![ConnectionEvent::default(); 2];
    let target = node.manager.url().parse().unwrap();
    let session = node.connector().connect(&target).await.unwrap();
    let selector = MonitorScopeSelector::default();
    let mut events = session
        .monitor()
        .monitor_connections(selector)
        .await
        .unwrap()
        .into_inner();
    drop(session);
    for _ in 0..2 {
        assert!(events.message().await.unwrap().is_some());
    }
    assert_eq!(
        node.manager.received()[0].method,
        "/connection.MonitorConnection/MonitorConnections"
    );
}

#[tokio::test]
async fn a_snapshot_may_be_larger_than_four_megabytes() {
    let node = Node::start();
    let connection = |id: usize| Connection {
        id: id.to_string(),
        path: Some(Path {
            index: 1,
            path_segments: vec![
                PathSegment {
                    token: "t".repeat(400),
                    ..PathSegment::default()
                };
                4
            ],
        }),
        ..Connection::default()
    };
    let snapshot = ConnectionEvent {
        connections: (0..4000).map(|id| (id.to_string(), connection(id))).collect(),
        ..ConnectionEvent::default()
    };
    assert!(prost::Message::encoded_len(&snapshot) > 6 << 20);
    node.manager.shared.answers.lock().unwrap().events = vec![snapshot.clone()];
    let target = node.manager.url().parse().unwrap();
    let session = node.connector().connect(&target).await.unwrap();
    let selector = MonitorScopeSelector::default();
    let mut events = session
        .monitor()
        .monitor_connections(selector)
        .await
        .unwrap()
        .into_inner();
    assert!(events.message().await.unwrap() == Some(snapshot));
}

#[tokio::test]
async fn find_over_tcp() {
    let mut node = Node::start();
    let endpoint = NetworkServiceEndpointResponse {
        network_service_endpoint: Some(NetworkServiceEndpoint {
            name: "nse-vl3-0".to_owned(),
            ..NetworkServiceEndpoint::default()
        }),
        deleted: false,
    };
    node.manager.shared.answers.lock().unwrap().endpoints = vec![endpoint.clone()];
    let url = node.manager.listen_on_tcp().await;
    let session = node.connector().connect(&url.parse().unwrap()).await.unwrap();
    let query = NetworkServiceEndpointQuery::default();
    let mut found = session.registry().find(query).await.unwrap().into_inner();
    assert_eq!(found.message().await.unwrap(), Some(endpoint));
    assert_eq!(found.message().await.unwrap(), None);
    let received = &node.manager.received()[0];
    assert_eq!(received.method, "/registry.NetworkServiceEndpointRegistry/Find");
    assert_eq!(received.authority, url.trim_start_matches("tcp://"));
}

#[tokio::test]
async fn a_session_shows_no_token() {
    let node = Node::start();
    let target = node.manager.url().parse().unwrap();
    let session = node.connector().connect(&target).await.unwrap();
    let query = NetworkServiceEndpointQuery::default();
    session.registry().find(query).await.unwrap();
    let token = node.manager.received()[0].token.clone();
    assert!(token.len() > 200);
    let text = format!("{session:?} {:?} {:?}", session.registry(), node.connector());
    for part in token.split('.') {
        assert!(!text.contains(part), "{text}");
    }
}
