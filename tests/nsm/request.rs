//! What a real manager makes of Requests that differ from ours: the rules that the client keeps, and those that nobody
//! enforces.

use std::time::Duration;

use tonic::Code;

use vl3lb_control::nsm::connector::{Connector, NetworkNamespace};
use vl3lb_control::nsm::proto::connection::{Connection, State};
use vl3lb_control::nsm::proto::connectioncontext::{DnsConfig, DnsContext, IpContext};
use vl3lb_control::nsm::proto::networkservice::NetworkServiceRequest;
use vl3lb_testbed::{Netns, OrPanic};
use vl3lb_tests::mesh::Mesh;

use crate::connector::{NAME, first_request, preferences, request_within, target, with_connector};

/// Limit of a Request that the manager would let wait for ever.
const SHORT: Duration = Duration::from_secs(2);

/// The result of a Request: the code of a refusal, or a property of the connection that it makes.
enum Wanted {
    Refusal(&'static [Code]),
    Connection(fn(&Connection) -> bool),
}

struct Row {
    rule: &'static str,
    bend: fn(&mut NetworkServiceRequest),
    wanted: Wanted,
}

const fn refused(rule: &'static str, codes: &'static [Code], bend: fn(&mut NetworkServiceRequest)) -> Row {
    Row {
        rule,
        bend,
        wanted: Wanted::Refusal(codes),
    }
}

const fn accepted(
    rule: &'static str,
    wanted: fn(&Connection) -> bool,
    bend: fn(&mut NetworkServiceRequest),
) -> Row {
    Row {
        rule,
        bend,
        wanted: Wanted::Connection(wanted),
    }
}

fn connection(request: &mut NetworkServiceRequest) -> &mut Connection {
    request.connection.as_mut().expect("a connection")
}

fn ip_context(request: &mut NetworkServiceRequest) -> &mut IpContext {
    let context = connection(request).context.as_mut().expect("a context");
    context.ip_context.as_mut().expect("an IP context")
}

fn sources(connection: &Connection) -> &[String] {
    let context = connection.context.as_ref().expect("a context");
    &context.ip_context.as_ref().expect("an IP context").src_ip_addrs
}

fn is_given(connection: &Connection) -> bool {
    matches!(sources(connection), [address] if address.starts_with("172.16."))
}

const DENIED: &[Code] = &[Code::PermissionDenied];
const UNKNOWN: &[Code] = &[Code::Unknown];

const ROWS: &[Row] = &[
    refused("no connection", DENIED, |request| request.connection = None),
    refused("no path", DENIED, |request| connection(request).path = None),
    refused("the manager's own name", DENIED, |request| {
        connection(request).path.as_mut().expect("a path").path_segments[0].name = "nsmgr-0".to_owned();
    }),
    refused("another id in the path", UNKNOWN, |request| {
        connection(request).path.as_mut().expect("a path").path_segments[0].id = "other".to_owned();
    }),
    refused("an index past the path", UNKNOWN, |request| {
        connection(request).path.as_mut().expect("a path").index = 1;
    }),
    // The manager looks for an endpoint until the Request ends.
    refused(
        "an unknown network service",
        &[Code::DeadlineExceeded, Code::NotFound, Code::Unknown],
        |request| {
            connection(request).network_service = "nowhere".to_owned();
        },
    ),
    refused(
        "payload ETHERNET",
        &[Code::DeadlineExceeded, Code::NotFound, Code::Unknown],
        |request| {
            connection(request).payload = "ETHERNET".to_owned();
        },
    ),
    refused("no mechanism", UNKNOWN, |request| {
        request.mechanism_preferences.clear()
    }),
    refused("an unknown mechanism", UNKNOWN, |request| {
        request.mechanism_preferences[0].r#type = "CARRIER_PIGEON".to_owned();
    }),
    refused("no namespace", UNKNOWN, |request| {
        request.mechanism_preferences[0].parameters.remove("inodeURL");
    }),
    refused("an interface name of 20 bytes", UNKNOWN, |request| {
        let name = "nsm-1234567890123456".to_owned();
        request.mechanism_preferences[0]
            .parameters
            .insert("name".to_owned(), name);
    }),
    accepted("an empty id", is_given, |request| {
        connection(request).id.clear();
        connection(request).path.as_mut().expect("a path").path_segments[0]
            .id
            .clear();
    }),
    accepted("an empty name", is_given, |request| {
        connection(request).path.as_mut().expect("a path").path_segments[0]
            .name
            .clear();
    }),
    accepted("no context", is_given, |request| {
        connection(request).context = None
    }),
    accepted("RESELECT_REQUESTED at first", is_given, |request| {
        connection(request).state = State::ReselectRequested.into();
    }),
    accepted("own DNS configurations", is_given, |request| {
        let config = DnsConfig {
            dns_server_ips: vec!["10.9.9.9".to_owned()],
            search_domains: Vec::new(),
        };
        let context = connection(request).context.as_mut().expect("a context");
        context.dns_context = Some(DnsContext {
            configs: vec![config],
        });
    }),
    accepted("own excluded prefixes", is_given, |request| {
        ip_context(request).excluded_prefixes = vec!["10.9.0.0/16".to_owned()];
    }),
    // A way to a stable address, and why two clients may have one.
    accepted(
        "an own address",
        |connection| sources(connection) == ["10.9.9.9/32"],
        |request| {
            ip_context(request).src_ip_addrs = vec!["10.9.9.9/32".to_owned()];
        },
    ),
];

#[test]
fn a_real_manager_refuses_and_accepts_what_the_client_relies_on() {
    let mesh = Mesh::start(&[]);
    let pod = Netns::new(NAME).or_panic();
    let namespace = NetworkNamespace::open(&pod.path()).expect("open the namespace of the pod");
    let manager = target(&mesh.connect_to(0));
    with_connector(&mesh, async |connector| {
        for row in ROWS {
            let mut request = first_request(&namespace);
            (row.bend)(&mut request);
            let result = send(&connector, &manager, Some(&namespace), request).await;
            match (&row.wanted, result) {
                (Wanted::Refusal(codes), Err(status)) => {
                    assert!(codes.contains(&status.code()), "{}: {status:?}", row.rule);
                }
                (Wanted::Connection(fits), Ok(connection)) => {
                    assert!(fits(&connection), "{}: {connection:?}", row.rule);
                    close(&connector, &manager, connection).await;
                }
                (_, result) => panic!("{}: {result:?}", row.rule),
            }
        }
    });
}

/// The descriptor of the namespace is needed for the first Request, and again after a restart of the manager.
#[test]
fn a_real_manager_waits_for_the_namespaces_descriptor_and_keeps_it() {
    let mesh = Mesh::start(&[]);
    let pod = Netns::new(NAME).or_panic();
    let namespace = NetworkNamespace::open(&pod.path()).expect("open the namespace of the pod");
    let manager = target(&mesh.connect_to(0));
    with_connector(&mesh, async |connector| {
        let without = send(&connector, &manager, None, first_request(&namespace)).await;
        let code = without.expect_err("nothing to wait for").code();
        assert!(
            [Code::DeadlineExceeded, Code::Unknown, Code::Cancelled].contains(&code),
            "{code:?}"
        );
        let first = send(&connector, &manager, Some(&namespace), first_request(&namespace)).await;
        let connection = first.expect("a connection");
        let refresh = |connection: &Connection| NetworkServiceRequest {
            connection: Some(connection.clone()),
            mechanism_preferences: preferences(&namespace),
        };
        let refreshed = send(&connector, &manager, None, refresh(&connection)).await;
        assert_eq!(refreshed.expect("a refresh").context, connection.context);
        close(&connector, &manager, connection).await;
    });
}

type Target = vl3lb_control::nsm::Target;

async fn send(
    connector: &Connector,
    manager: &Target,
    namespace: Option<&NetworkNamespace>,
    request: NetworkServiceRequest,
) -> Result<Connection, tonic::Status> {
    let session = match namespace {
        Some(namespace) => connector.connect_with_netns(manager, namespace).await,
        None => connector.connect(manager).await,
    };
    request_within(&session.expect("a connection"), request, SHORT).await
}

async fn close(connector: &Connector, manager: &Target, connection: Connection) {
    let session = connector.connect(manager).await.expect("a connection");
    session.network_service().close(connection).await.expect("Close");
}
