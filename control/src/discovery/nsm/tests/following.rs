//! The whole source, with scripted managers at unix sockets.

use tokio::sync::watch;
use tonic::Status;

use super::manager::{Manager, PlainDial};
use super::*;
use crate::api::NsmDiscovery;
use crate::config::join_errors;
use crate::discovery::nsm::follower::Scope;
use crate::discovery::nsm::{Nsm, NsmClients};
use crate::discovery::{DesiredReceiver, Origin, Source, SourceStatus, StaticFile};
use crate::network::NetworkView;
use crate::observe::events::Events;

const LOCAL: &str = "inode://65024/9994788";

/// A source that follows a manager.
struct Following {
    desired: DesiredReceiver,
    status: watch::Receiver<SourceStatus>,
    events: Arc<Events>,
    network: watch::Sender<Option<Arc<NetworkView>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    fn start(manager: &Manager) -> Self {
        Self::start_with(manager, PlainDial::default())
    }

    fn start_with(manager: &Manager, dial: PlainDial) -> Self {
        let text = "{discovery: nsm, networkService: vl3-lb, services: [{name: finance, port: 8080, targetPort: 80, \
                    selector: {app: finance}}]}";
        let loaded = Config::parse(Some(text), "lb.yaml", &|_| None, &(32768..=60999));
        let config = Arc::new(loaded.map_err(|errors| join_errors(&errors)).unwrap().config);
        let events: Arc<Events> = Arc::default();
        let (network, view) = watch::channel(None);
        let clients = NsmClients {
            dial,
            scope: Scope {
                service: SERVICE.to_owned(),
                manager: manager.target.clone(),
                limit: Duration::from_millis(300),
                own_name: "finance-lb".to_owned(),
            },
            network: view,
            events: Arc::clone(&events),
        };
        let file = StaticFile::new(None, |_: &str| None, config, Arc::clone(&events));
        let (file_status, _) = watch::channel(SourceStatus::new(Origin::Static));
        let source = Nsm::new(file, file_status, clients);
        let (send_desired, desired) = watch::channel(None);
        let (send_status, status) = watch::channel(SourceStatus::new(Origin::Nsm));
        Self {
            desired,
            status,
            events,
            network,
            task: tokio::spawn(source.run(send_desired, send_status)),
        }
    }

    /// Waits for a set with exactly these backends.
    async fn backends(&mut self, expected: &[&str]) {
        let shown = |desired: &Option<Arc<Desired>>| -> Option<Vec<String>> {
            let backends = &desired.as_ref()?.services[0].backends;
            Some(
                backends
                    .iter()
                    .map(|backend| backend.address.to_string())
                    .collect(),
            )
        };
        let found = self
            .desired
            .wait_for(|desired| shown(desired).is_some_and(|shown| shown == expected));
        let is_found = tokio::time::timeout(Duration::from_secs(20), found).await.is_ok();
        let last = shown(&self.desired.borrow());
        assert!(
            is_found,
            "expected {expected:?}, the last set is {last:?}: {:?}",
            self.status.borrow()
        );
    }

    async fn status(&mut self, expected: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        let found = self.status.wait_for(|status| expected(status));
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        let found = found.ok().and_then(Result::ok).map(|status| status.clone());
        found.unwrap_or_else(|| panic!("the last status is {:?}", self.status.borrow()))
    }

    async fn synced(&mut self) -> NsmDiscovery {
        let status = self
            .status(|status| status.synced && status.error.is_none())
            .await;
        (*status.nsm.unwrap()).clone()
    }

    /// Whether a set was sent since the last call.
    fn has_changed(&mut self) -> bool {
        let changed = self.desired.has_changed().unwrap();
        self.desired.mark_unchanged();
        changed
    }

    fn event_texts(&self) -> Vec<String> {
        self.events.kept().into_iter().map(|event| event.text).collect()
    }
}

/// A manager with one endpoint of its own.
fn manager() -> Manager {
    let manager = Manager::start();
    manager.register("nse-0", LOCAL);
    manager
}

fn server(number: u8) -> Wire {
    Wire::new(
        &format!("server-{number}"),
        "nse-0",
        &[&format!("172.16.1.{number}/32")],
    )
}

#[tokio::test]
async fn clients_become_backends_and_leave() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    let spec = following.desired.borrow().clone().unwrap().services[0].clone();
    assert_eq!(spec.backends[0].port, 80);
    assert_eq!(
        spec.health_check,
        Some(HealthCheck::tcp()),
        "checks are on by default"
    );
    assert_eq!(spec.backends[0].pod.as_ref().unwrap().pod, "web/server-1");
    manager.request("nse-0", [server(2)]);
    following.backends(&["172.16.1.1", "172.16.1.2"]).await;
    manager.close("nse-0", "at-manager-server-1");
    following.backends(&["172.16.1.2"]).await;
    // An endpoint that appears later.
    manager.register("nse-1", LOCAL);
    manager.request("nse-1", [Wire::new("server-3", "nse-1", &["172.16.2.1/32"])]);
    following.backends(&["172.16.1.2", "172.16.2.1"]).await;
    let discovery = following.synced().await;
    let names: Vec<_> = discovery
        .endpoints
        .iter()
        .map(|endpoint| endpoint.name.clone())
        .collect();
    assert_eq!(names, ["nse-0", "nse-1"]);
}

#[tokio::test]
async fn a_network_service_without_endpoints_is_a_complete_set() {
    let manager = Manager::start();
    let mut following = Following::start(&manager);
    following.backends(&[]).await;
    following.synced().await;
    manager.register("nse-0", LOCAL);
    manager.request("nse-0", [server(1)]);
    following.backends(&["172.16.1.1"]).await;
}

#[tokio::test]
async fn lost_streams_keep_backends_and_are_opened_again() {
    let manager = manager();
    manager.request("nse-0", [server(1), server(2)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1", "172.16.1.2"]).await;
    for (round, end) in [None, Some(Status::unavailable("shutting down"))]
        .into_iter()
        .enumerate()
    {
        following.synced().await;
        following.has_changed();
        let (_, opened) = manager.monitors("nse-0");
        manager.end_streams(end);
        following.status(|status| status.error.is_some()).await;
        following.synced().await;
        assert!(!following.has_changed(), "no set in round {round}");
        assert_eq!(manager.monitors("nse-0"), (1, opened + 1));
        let number = 3 + u8::try_from(round).unwrap();
        manager.request("nse-0", [server(number)]);
        let all = ["172.16.1.1", "172.16.1.2", "172.16.1.3", "172.16.1.4"];
        following.backends(&all[..usize::from(number)]).await;
    }
    let events = following.event_texts();
    let count = |text: &str| events.iter().filter(|event| event.contains(text)).count();
    assert_eq!(
        count("the server ended the stream; keeping what is known, retrying"),
        2,
        "{events:?}"
    );
    assert_eq!(
        count("monitor connections: Unavailable: shutting down"),
        1,
        "{events:?}"
    );
    assert_eq!(count("answers again"), 4, "{events:?}");
}

#[tokio::test]
async fn a_restarted_manager_that_knows_no_client_takes_no_backend_away() {
    let manager = manager();
    manager.request("nse-0", [server(1), server(2)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1", "172.16.1.2"]).await;
    following.synced().await;
    following.has_changed();
    let before = manager.monitors("nse-0").1;
    manager.restart();
    following.status(|status| status.error.is_some()).await;
    following.synced().await;
    assert_eq!(manager.monitors("nse-0"), (1, before + 1));
    manager.request("nse-0", [server(1), server(2)]);
    following.synced().await;
    assert!(!following.has_changed(), "no set");
}

#[tokio::test]
async fn a_registry_that_ends_its_stream_is_asked_again() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    // What happened meanwhile is in the next list.
    manager.forget("nse-0");
    manager.register("nse-1", LOCAL);
    manager.end_streams(None);
    manager.request("nse-1", [Wire::new("server-9", "nse-1", &["172.16.2.9/32"])]);
    following.backends(&["172.16.1.1", "172.16.2.9"]).await;
    let discovery = following
        .status(|status| status.nsm.as_ref().is_some_and(|nsm| !nsm.endpoints[0].listed))
        .await;
    assert!(discovery.nsm.unwrap().endpoints[1].listed);
}

#[tokio::test]
async fn an_endpoint_that_is_deleted_and_registered_has_one_monitor() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    for _ in 0..5 {
        manager.unregister("nse-0");
        manager.register("nse-0", "inode://65024/7");
    }
    manager.request("nse-0", [server(2)]);
    following.backends(&["172.16.1.1", "172.16.1.2"]).await;
    assert_eq!(manager.monitors("nse-0"), (1, 1));
    assert_eq!(
        manager.open_connections(),
        2,
        "one for the registry, one for the monitor"
    );
}

#[tokio::test]
async fn an_endpoint_elsewhere_is_monitored_at_its_own_manager() {
    let (local, remote) = (manager(), Manager::start());
    let url = "tcp://10.0.0.2:5001";
    local.register("nse-1", url);
    local.request("nse-0", [server(1)]);
    remote.request("nse-1", [Wire::new("server-2", "nse-1", &["172.16.2.2/32"])]);
    let dial = PlainDial {
        remotes: [(url.parse().unwrap(), remote.target.clone())].into(),
    };
    let mut following = Following::start_with(&local, dial);
    following.backends(&["172.16.1.1", "172.16.2.2"]).await;
    assert_eq!(remote.monitors("nse-1"), (1, 1));
    assert_eq!(local.monitors("nse-1"), (0, 0));
    // It moves here: the connection to the other manager is closed.
    local.request("nse-1", [Wire::new("server-2", "nse-1", &["172.16.2.2/32"])]);
    local.register("nse-1", LOCAL);
    following.status(|_| local.monitors("nse-1").0 == 1).await;
    while remote.open_connections() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    following.backends(&["172.16.1.1", "172.16.2.2"]).await;
}

#[tokio::test]
async fn a_manager_that_cannot_be_reached_does_not_hold_up_the_others() {
    let manager = manager();
    manager.register("nse-1", "tcp://10.0.0.2:5001");
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    let status = following.status(|status| status.error.is_some()).await;
    assert!(!status.synced);
    let error = status.error.unwrap();
    assert!(
        error
            .starts_with("monitor of endpoint nse-1 at tcp://10.0.0.2:5001: connect to tcp://10.0.0.2:5001:"),
        "{error}"
    );
}

#[tokio::test]
async fn calls_without_an_answer_end_and_are_made_again() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    manager.hang(true, true);
    let mut following = Following::start(&manager);
    let status = following.status(|status| status.error.is_some()).await;
    let error = status.error.unwrap();
    assert!(
        error.ends_with("find endpoints: no answer within 300ms"),
        "{error}"
    );
    manager.hang(false, true);
    let monitored = |status: &SourceStatus| {
        let error = status.error.as_deref().unwrap_or_default();
        error.contains("monitor connections: no answer within 300ms")
    };
    following.status(monitored).await;
    assert!(following.desired.borrow().is_none(), "nothing is known");
    manager.hang(false, false);
    following.backends(&["172.16.1.1"]).await;
    following.synced().await;
}

#[tokio::test]
async fn a_refusal_is_shown_and_counted() {
    let manager = manager();
    manager.refuse(Some(Status::permission_denied(
        "no sufficient privileges: eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
    )));
    let mut following = Following::start(&manager);
    let status = following.status(|status| status.error.is_some()).await;
    let error = status.error.unwrap();
    assert!(
        error.ends_with("find endpoints: PermissionDenied: no sufficient privileges: TOKEN"),
        "{error}"
    );
    let forbidden = status
        .errors
        .by_reason()
        .find(|(reason, _)| reason.name() == "forbidden");
    assert!(forbidden.is_some_and(|(_, count)| count > 0));
    manager.refuse(None);
    following.backends(&[]).await;
}

#[tokio::test]
async fn a_list_larger_than_the_usual_limit_is_read() {
    let manager = manager();
    let padding = "x".repeat(450);
    let client = |number: u32| {
        let address = format!("172.16.{}.{}/32", number / 250, number % 250 + 1);
        let mut wire = Wire::new(&format!("server-{number}"), "nse-0", &[&address]);
        for segment in &mut wire.0.path.as_mut().unwrap().path_segments {
            segment.token.push_str(&padding);
        }
        wire
    };
    manager.request("nse-0", (0..3000).map(client));
    let mut following = Following::start(&manager);
    let count = |desired: &Option<Arc<Desired>>| {
        desired
            .as_ref()
            .map_or(0, |desired| desired.services[0].backends.len())
    };
    let all = following.desired.wait_for(|desired| count(desired) == 3000);
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn malformed_events_are_counted_and_harm_nothing() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    manager.register("", LOCAL);
    manager.register("nse-2", "ftp://somewhere");
    let mut pathless = server(2);
    pathless.0.path = None;
    manager.request(
        "nse-0",
        [
            pathless,
            Wire::new("server-3", "nse-0", &[]),
            Wire::new("x", "nse-9", &["10.0.0.1"]),
        ],
    );
    manager.send("nse-0", 7, [("x".to_owned(), server(4).0)].into());
    manager.send(
        "nse-0",
        2,
        [("unknown".to_owned(), proto::Connection::default())].into(),
    );
    manager.request("nse-0", [server(5)]);
    following.backends(&["172.16.1.1", "172.16.1.5"]).await;
    let discovery = following.synced().await;
    let counts: Vec<_> = discovery
        .skipped_connections_total
        .iter()
        .map(|count| format!("{} {}", count.reason, count.total))
        .collect();
    assert_eq!(
        counts,
        ["no_path 1", "other_endpoint 1", "other_service 0", "no_address 1"]
    );
    assert_eq!(discovery.unknown_events_total, 1);
    // A connection that is known, and has no address any more.
    manager.request("nse-0", [Wire::new("server-5", "nse-0", &[])]);
    following.backends(&["172.16.1.1"]).await;
}

#[tokio::test]
async fn conflicts_are_events_counted_and_shown() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    let mut view = crate::observe::report::fixture::network();
    view.addresses = vec!["172.16.1.103".parse().unwrap()];
    following.network.send_replace(Some(Arc::new(view)));
    manager.request("nse-0", [Wire::new("thief", "nse-0", &["172.16.1.1/32"])]);
    let conflicts = |status: &SourceStatus, count: usize| {
        status
            .nsm
            .as_ref()
            .is_some_and(|nsm| nsm.conflicts.len() == count)
    };
    let status = following.status(|status| conflicts(status, 1)).await;
    let nsm = status.nsm.unwrap();
    let text =
        "address 172.16.1.1 is claimed by client thief (thief-0) and belongs to client server-1 (server-1-0)";
    assert_eq!(nsm.conflicts[0].text, text);
    assert_eq!(nsm.conflicts_total[0].total, 1);
    manager.close("nse-0", "at-manager-thief");
    let status = following.status(|status| conflicts(status, 0)).await;
    assert_eq!(
        status.nsm.unwrap().conflicts_total[0].total,
        1,
        "counters only grow"
    );
    let events = following.event_texts();
    assert!(events.contains(&text.to_owned()), "{events:?}");
    assert!(
        events.contains(&"address 172.16.1.1: the conflict is over".to_owned()),
        "{events:?}"
    );
    // The balancer's own address.
    manager.request("nse-0", [server(103)]);
    following
        .status(|status| {
            status
                .nsm
                .as_ref()
                .is_some_and(|nsm| nsm.endpoints[0].connections == 2)
        })
        .await;
    following.backends(&["172.16.1.1"]).await;
}

#[tokio::test]
async fn tokens_of_clients_are_nowhere_to_be_seen() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let mut following = Following::start(&manager);
    following.backends(&["172.16.1.1"]).await;
    manager.request("nse-0", [Wire::new("thief", "nse-0", &["172.16.1.1/32"])]);
    let status = following
        .status(|status| status.nsm.as_ref().is_some_and(|nsm| !nsm.conflicts.is_empty()))
        .await;
    let shown = format!(
        "{status:?} {:?} {:?} {}",
        following.events.kept(),
        following.desired.borrow(),
        serde_json::to_string(&*status.nsm.clone().unwrap()).unwrap()
    );
    assert!(shown.contains("server-1"), "{shown}");
    assert!(!shown.contains("eyJ"), "{shown}");
}

#[tokio::test]
async fn changes_of_many_endpoints_at_once_end_in_the_last_state_of_each() {
    let manager = Manager::start();
    let mut following = Following::start(&manager);
    following.backends(&[]).await;
    let endpoint = |number: u8| format!("nse-{number}");
    let client = |endpoint: u8, name: u8, address: u8| {
        let name = format!("server-{endpoint}-{name}");
        Wire::new(
            &name,
            &format!("nse-{endpoint}"),
            &[&format!("172.16.{endpoint}.{address}/32")],
        )
    };
    for number in 0..8 {
        manager.register(&endpoint(number), LOCAL);
    }
    for address in 1..50 {
        for number in 0..8 {
            manager.request(
                &endpoint(number),
                [client(number, 1, address), client(number, 2, 100 + address)],
            );
            manager.close(&endpoint(number), &format!("at-manager-server-{number}-2"));
        }
    }
    let expected: Vec<String> = (0..8).map(|number| format!("172.16.{number}.49")).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    following.backends(&expected).await;
}

#[tokio::test]
async fn pods_get_the_addresses_of_their_connections() {
    let manager = manager();
    manager.request("nse-0", [server(1)]);
    let following = Following::start(&manager);
    let clients = NsmClients {
        dial: PlainDial::default(),
        scope: Scope {
            service: SERVICE.to_owned(),
            manager: manager.target.clone(),
            limit: Duration::from_secs(5),
            own_name: "finance-lb".to_owned(),
        },
        network: following.network.subscribe(),
        events: Arc::default(),
    };
    let (status, _kept) = watch::channel(SourceStatus::new(Origin::Nsm));
    let (mut connections, task) = clients.connections(status);
    let task = tokio::spawn(task);
    let place = crate::discovery::PodPlace {
        pod: "web/server-1".to_owned(),
        node: None,
    };
    let mut expect = async |address: &str| {
        let address: std::net::IpAddr = address.parse().unwrap();
        let found = connections.wait_for(|connections| {
            let connections = connections.as_ref();
            connections.is_some_and(|connections| connections.addresses(&place) == [address])
        });
        tokio::time::timeout(Duration::from_secs(20), found)
            .await
            .unwrap()
            .unwrap();
    };
    expect("172.16.1.1").await;
    manager.request("nse-0", [Wire::new("server-1", "nse-0", &["172.16.1.9/32"])]);
    expect("172.16.1.9").await;
    task.abort();
}
