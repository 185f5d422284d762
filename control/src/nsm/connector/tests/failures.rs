//! Why there is no connection, in the words of the error.

use std::time::{Duration, SystemTime};

use tokio::net::UnixListener;

use crate::error_chain::chain;
use crate::nsm::connector::{ConnectError, Connector, Limits, NetworkNamespace, Step};
use crate::nsm::identity::Identity;
use crate::nsm::proto::connection::{ConnectionEvent, MonitorScopeSelector};
use crate::nsm::proto::registry::NetworkServiceEndpointQuery;
use crate::nsm::testing::{CLIENT, LIMITS, Leaf, Node, message};

const SHORT: Limits = Limits {
    dial_timeout: Duration::from_millis(50),
    ..LIMITS
};

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let node = Node::start();
    node.identity.context().await;
    let path = node.socket("silent.sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let connector = Connector::new(node.identity.clone(), SHORT);
    let target = format!("unix://{}", path.display()).parse().unwrap();
    let error = connector.connect(&target).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Timeout { step: Step::Tls, .. }),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        format!("TLS with {target} took longer than 50ms")
    );
}

#[tokio::test]
async fn a_missing_server_is_named() {
    let node = Node::start();
    let path = node.socket("missing.sock");
    let target = format!("unix://{}", path.display()).parse().unwrap();
    let error = node.connector().connect(&target).await.unwrap_err();
    assert_eq!(
        chain(&error),
        format!("connect to {target}: No such file or directory (os error 2)")
    );
}

#[tokio::test]
async fn without_an_identity_there_is_no_connection() {
    let node = Node::start();
    let target = node.manager.url().parse().unwrap();
    let socket = node.socket("no-agent.sock");
    let (mut identity, client) = Identity::new(&format!("unix://{}", socket.display())).unwrap();
    tokio::spawn(client.run());
    identity.changed().await;
    let error = Connector::new(identity, SHORT)
        .connect(&target)
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::NoIdentity { .. }), "{error}");
    let text = chain(&error);
    assert!(text.contains("there was no SVID within 50ms"), "{text}");
    assert!(text.contains(&socket.display().to_string()), "{text}");
    assert!(node.manager.received().is_empty());
}

#[tokio::test]
async fn an_expired_identity_is_not_shown() {
    let node = Node::start();
    node.identity.context().await;
    let now = SystemTime::now();
    let expired = node.authority.issue_leaf(&Leaf {
        uris: &[CLIENT],
        not_before: now - Duration::from_secs(120),
        not_after: now - Duration::from_secs(60),
        ..Leaf::default()
    });
    let mut identity = node.identity.clone();
    node.workload_api.send(message(&expired, &[&node.authority]));
    while identity.status().expires.is_none_or(|expires| expires > now) {
        identity.changed().await;
    }
    let target = node.manager.url().parse().unwrap();
    let error = node.connector().connect(&target).await.unwrap_err();
    assert!(matches!(error, ConnectError::ExpiredIdentity { .. }), "{error}");
    assert!(error.to_string().contains(CLIENT), "{error}");
}

#[tokio::test]
async fn tcp_carries_no_descriptor() {
    let mut node = Node::start();
    let target = node.manager.listen_on_tcp().await.parse().unwrap();
    let namespace = NetworkNamespace::own().unwrap();
    let error = node
        .connector()
        .connect_with_netns(&target, &namespace)
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::DescriptorOverTcp { .. }), "{error}");
}

/// A connection is not replaced behind the caller's back: its token would be for another peer.
#[tokio::test]
async fn a_lost_connection_stays_lost() {
    let mut node = Node::start();
    node.manager.shared.answers.lock().unwrap().events = vec![ConnectionEvent::default()];
    let url = node.manager.url();
    let target = url.parse().unwrap();
    let session = node.connector().connect(&target).await.unwrap();
    let selector = MonitorScopeSelector::default();
    let mut events = session
        .monitor()
        .monitor_connections(selector)
        .await
        .unwrap()
        .into_inner();
    assert!(events.message().await.unwrap().is_some());
    // The manager restarts.
    let path = node.socket("nsm.io.sock");
    let svid = node.authority.issue(crate::nsm::testing::MANAGER);
    let next = crate::nsm::testing::Manager::start(&path, &svid, &[&node.authority]);
    node.manager = next;
    let status = events.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(
        status.message().contains(&format!("connection to {url} lost")),
        "{status}"
    );
    let query = || NetworkServiceEndpointQuery::default();
    let status = session.registry().find(query()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(node.manager.received().is_empty());
    let session = node.connector().connect(&target).await.unwrap();
    session.registry().find(query()).await.unwrap();
}
