//! The connector by itself: calls of our own code to the real manager, endpoint and registry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::timeout;

use vl3lb_control::nsm::Target;
use vl3lb_control::nsm::connector::{Connector, Limits, NetworkNamespace, Session};
use vl3lb_control::nsm::identity::{Identity, X509Context};
use vl3lb_control::nsm::proto::connection::{
    Connection, ConnectionEvent, ConnectionEventType, Mechanism, MonitorScopeSelector, Path, PathSegment,
};
use vl3lb_control::nsm::proto::connectioncontext::{ConnectionContext, IpContext};
use vl3lb_control::nsm::proto::networkservice::NetworkServiceRequest;
use vl3lb_control::nsm::proto::registry::{NetworkServiceEndpoint, NetworkServiceEndpointQuery};
use vl3lb_testbed::process::run;
use vl3lb_testbed::{Netns, OrPanic};
use vl3lb_tests::mesh::{ENDPOINT, Mesh, SERVICE, Sdk};
use vl3lb_tests::wait;

pub(super) const NAME: &str = "connector";

/// Runs `test` with a connector that has an identity of the mesh.
pub(super) fn with_connector<F: Future<Output = ()>>(mesh: &Mesh, test: impl FnOnce(Connector) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("start a runtime");
    runtime.block_on(async {
        let (identity, workload_api) = Identity::new(&mesh.identity(NAME)).expect("a URL");
        tokio::spawn(workload_api.run());
        let limits = Limits {
            dial_timeout: Duration::from_secs(5),
            max_token_lifetime: Duration::from_secs(600),
        };
        test(Connector::new(identity, limits)).await;
    });
}

pub(super) fn target(url: &str) -> Target {
    url.parse().expect("the URL of a manager")
}

pub(super) fn first_request(namespace: &NetworkNamespace) -> NetworkServiceRequest {
    NetworkServiceRequest {
        connection: Some(Connection {
            id: format!("{NAME}-0"),
            network_service: SERVICE.to_owned(),
            context: Some(ConnectionContext {
                ip_context: Some(IpContext::default()),
                ..ConnectionContext::default()
            }),
            labels: HashMap::from([("podName".to_owned(), NAME.to_owned())]),
            path: Some(Path {
                index: 0,
                path_segments: vec![PathSegment {
                    name: NAME.to_owned(),
                    id: format!("{NAME}-0"),
                    ..PathSegment::default()
                }],
            }),
            ..Connection::default()
        }),
        mechanism_preferences: preferences(namespace),
    }
}

pub(super) fn preferences(namespace: &NetworkNamespace) -> Vec<Mechanism> {
    vec![Mechanism {
        cls: "LOCAL".to_owned(),
        r#type: "KERNEL".to_owned(),
        parameters: HashMap::from([
            ("inodeURL".to_owned(), namespace.inode_url().to_owned()),
            ("name".to_owned(), "nsm-1".to_owned()),
        ]),
    }]
}

async fn request(session: &Session, request: NetworkServiceRequest) -> Connection {
    let reply = request_within(session, request, wait::STEP).await;
    reply.expect("a connection")
}

/// Sends a Request, whose result comes within `limit`.
pub(super) async fn request_within(
    session: &Session,
    request: NetworkServiceRequest,
    limit: Duration,
) -> Result<Connection, tonic::Status> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(limit);
    let reply = session.network_service().request(request).await?;
    Ok(reply.into_inner())
}

/// Waits until the endpoint answers a ping: the interface may take some milliseconds after the reply to the Request.
fn wait_for_ping(pod: &Netns) {
    wait::until("a ping of the endpoint", wait::STEP, || {
        let mut ping = pod.command("ping");
        run(ping.args(["-n", "-c", "1", "-W", "1", ENDPOINT]))
    });
}

async fn endpoints(session: &Session) -> Vec<NetworkServiceEndpoint> {
    let query = NetworkServiceEndpointQuery {
        network_service_endpoint: Some(NetworkServiceEndpoint {
            network_service_names: vec![SERVICE.to_owned()],
            ..NetworkServiceEndpoint::default()
        }),
        watch: false,
    };
    let mut found = session.registry().find(query).await.expect("Find").into_inner();
    let mut endpoints = Vec::new();
    while let Some(answer) = found.message().await.expect("an answer or the end") {
        endpoints.extend(answer.network_service_endpoint);
    }
    endpoints
}

async fn monitor(session: &Session, name: &str) -> tonic::Streaming<ConnectionEvent> {
    let selector = MonitorScopeSelector {
        path_segments: vec![PathSegment {
            name: name.to_owned(),
            ..PathSegment::default()
        }],
        ..MonitorScopeSelector::default()
    };
    let events = session.monitor().monitor_connections(selector).await;
    events.expect("a stream").into_inner()
}

async fn event(events: &mut tonic::Streaming<ConnectionEvent>) -> ConnectionEvent {
    let event = timeout(wait::STEP, events.message())
        .await
        .expect("an event in time");
    event.expect("an open stream").expect("an event")
}

/// Find, Monitor, Request, its refresh and Close, each as a real manager with its policies wants them.
fn a_real_manager_accepts_all_calls(sdk: Sdk) {
    let mesh = Mesh::start_with(sdk, &[]);
    let pod = Netns::new(NAME).or_panic();
    let namespace = NetworkNamespace::open(&pod.path()).expect("open the namespace of the pod");
    let manager = target(&mesh.connect_to(0));
    with_connector(&mesh, async |connector| {
        let session = connector.connect(&manager).await.expect("a connection");
        assert!(session.peer().path().contains("nsmgr-0"), "{}", session.peer());
        let endpoints = endpoints(&session).await;
        let names: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
        assert_eq!(names, ["nse-vl3-0"]);
        let mut events = monitor(&session, NAME).await;
        let snapshot = event(&mut events).await;
        assert_eq!(snapshot.r#type(), ConnectionEventType::InitialStateTransfer);
        assert!(snapshot.connections.is_empty());

        let session = connector
            .connect_with_netns(&manager, &namespace)
            .await
            .expect("a connection");
        let connection = request(&session, first_request(&namespace)).await;
        let path = connection.path.as_ref().expect("a path");
        assert_eq!((path.index, path.path_segments.len()), (0, 4));
        let shown = format!("{connection:?}");
        assert!(
            shown.contains("token: redacted") && !shown.contains("eyJ"),
            "{shown}"
        );
        wait_for_ping(&pod);
        let update = event(&mut events).await;
        assert_eq!(update.r#type(), ConnectionEventType::Update);

        let session = connector
            .connect_with_netns(&manager, &namespace)
            .await
            .expect("a connection");
        let refresh = NetworkServiceRequest {
            connection: Some(connection.clone()),
            mechanism_preferences: preferences(&namespace),
        };
        let refreshed = request(&session, refresh).await;
        assert_eq!(refreshed.context, connection.context);
        wait_for_ping(&pod);

        let session = connector
            .connect_with_netns(&manager, &namespace)
            .await
            .expect("a connection");
        let close = timeout(wait::STEP, session.network_service().close(refreshed.clone())).await;
        close.expect("Close in time").expect("Close");
        loop {
            let event = event(&mut events).await;
            if event.r#type() == ConnectionEventType::Delete {
                break;
            }
        }
        let interface = pod.run(|| std::fs::exists("/proc/thread-self/net/dev_snmp6/nsm-1"));
        assert!(!interface.expect("look for the interface"));
    });
}

#[test]
fn a_real_manager_accepts_all_calls_of_the_connector() {
    a_real_manager_accepts_all_calls(Sdk::V1_13);
}

#[test]
fn a_manager_of_the_next_sdk_accepts_all_calls_of_the_connector() {
    a_real_manager_accepts_all_calls(Sdk::V1_14);
}

/// Waits for another SVID or bundle.
async fn changed(connector: &Connector, before: &Arc<X509Context>) -> Arc<X509Context> {
    let mut identity = connector.identity().clone();
    loop {
        let now = identity.context().await;
        if !Arc::ptr_eq(before, &now) {
            return now;
        }
        timeout(wait::STEP, identity.changed()).await.expect("a rotation");
    }
}

/// One attempt among several: the manager waits as long as it may for a peer that refuses it.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Repeats `attempt` until it works, for a bounded time. With another root, one side may have an SVID of that root before
/// another side trusts it: the manager, its registry and its forwarder, too. And the manager gives a connection to these
/// 750 ms, TLS included, which a busy machine may not keep.
async fn settled(rotation: &str, attempt: impl AsyncFn() -> Result<Connection, String>) -> Connection {
    let begin = Instant::now();
    loop {
        match attempt().await {
            Ok(reply) => return reply,
            Err(error) => assert!(begin.elapsed() < wait::STEP, "{rotation}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Connections that were opened before a rotation go on, and new ones work: with new SVIDs, with a second authority,
/// and with the second alone.
#[test]
fn connections_work_across_rotations() {
    let mesh = Mesh::start(&[]);
    let pod = Netns::new(NAME).or_panic();
    let namespace = NetworkNamespace::open(&pod.path()).expect("open the namespace of the pod");
    let manager = target(&mesh.connect_to(0));
    with_connector(&mesh, async |connector| {
        let old = connector
            .connect_with_netns(&manager, &namespace)
            .await
            .expect("a connection");
        let mut connection = request(&old, first_request(&namespace)).await;
        for rotation in ["/svid/rotate", "/ca/rotate", "/ca/rotate?retire"] {
            let before = connector.identity().context().await;
            mesh.post(rotation, &Value::Null);
            changed(&connector, &before).await;
            let refresh = |connection: &Connection| NetworkServiceRequest {
                connection: Some(connection.clone()),
                mechanism_preferences: preferences(&namespace),
            };
            connection = settled(rotation, async || {
                let reply = request_within(&old, refresh(&connection), ATTEMPT).await;
                reply.map_err(|error| format!("{error:?}"))
            })
            .await;
            connection = settled(rotation, async || {
                let new = connector.connect_with_netns(&manager, &namespace).await;
                let new = new.map_err(|error| format!("{error:?}"))?;
                let reply = request_within(&new, refresh(&connection), ATTEMPT).await;
                reply.map_err(|error| format!("{error:?}"))
            })
            .await;
        }
        wait_for_ping(&pod);
    });
}
