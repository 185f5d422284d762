//! Fuzz target: changed replies and events of the manager, from the wire to calls, status and metrics. See
//! `vl3lb_testbed::fuzz`.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant as RealTime;

use prost::Message;
use prost_types::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tonic::{Code, Status};
use vl3lb_testbed::mutation::{change_bytes, change_text};

use super::*;
use crate::api::{NsmConnection, NsmState};
use crate::config::{Metrics, NetworkService, is_unicast};
use crate::metrics;
use crate::network::NetworkView;
use crate::nsm::connector::{Connector, NetworkNamespace};
use crate::nsm::proto::connection::{ConnectionEvent, ConnectionEventType, PathSegment};
use crate::nsm::proto::connectioncontext::IpContext;
use crate::nsm::testing::LIMITS;
use crate::observe::events::Events;
use crate::observe::report::fixture;

/// Seeds that have failed.
const CORPUS: &[u64] = &[];
/// Messages and ends of calls of one seed.
const STEPS: u64 = 150;
/// Far above what the slowest step takes.
const LONGEST: Duration = Duration::from_secs(5);
/// Half seconds until a client with a good manager is connected by a new reply: a refresh may be two minutes away.
const RECOVERY: usize = 600;

#[test]
fn any_reply_of_a_manager_leaves_a_client_that_goes_on() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    vl3lb_testbed::fuzz::run("NSM client", 6, CORPUS, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        runtime.block_on(async {
            let mut world = World::new();
            for _ in 0..STEPS {
                let begin = RealTime::now();
                world.step(&mut rng).await;
                assert!(begin.elapsed() < LONGEST, "{:?}", begin.elapsed());
            }
            world.recovers(&mut rng).await;
        });
        STEPS
    });
}

/// A client whose calls end as the test wants, on a virtual clock.
struct World {
    driver: Driver,
    terms: Terms,
    status: watch::Receiver<NsmConnection>,
    network: watch::Sender<Option<Arc<NetworkView>>>,
    events: Arc<Events>,
    view: Arc<NetworkView>,
}

impl World {
    fn new() -> Self {
        let service = NetworkService {
            name: "vl3-lb".to_owned(),
            interface: "nsm-1".to_owned(),
            labels: BTreeMap::from([("podName".to_owned(), "c1".to_owned())]),
        };
        let namespace = NetworkNamespace::own().unwrap();
        let terms = Terms::new("c1", service, namespace.inode_url().to_owned());
        let events: Arc<Events> = Arc::default();
        let (record, status) = Record::new(&terms, Arc::clone(&events));
        let (network, receiver) = watch::channel(None);
        // Nothing is there, so no call ends by itself.
        let (identity, _) = Identity::new("unix:///nonexistent/agent.sock").unwrap();
        let manager = "unix:///nonexistent/nsm.io.sock".parse().unwrap();
        let connector = Connector::new(identity.clone(), LIMITS);
        let driver = Driver::new(Parts {
            caller: Caller::new(connector, manager, namespace),
            terms: terms.clone(),
            request_timeout: Duration::from_secs(15),
            max_token_lifetime: LIMITS.max_token_lifetime,
            network: receiver,
            identity,
            record,
        });
        Self {
            driver,
            terms,
            status,
            network,
            events,
            view: Arc::new(fixture::network()),
        }
    }

    async fn step(&mut self, rng: &mut StdRng) {
        match rng.random_range(0..12) {
            0 => tokio::time::advance(Duration::from_millis(rng.random_range(1..200_000))).await,
            1 => tokio::time::advance(Duration::from_millis(rng.random_range(1..1_000))).await,
            2 => {
                let view = (rng.random_range(0..3) > 0).then(|| Arc::clone(&self.view));
                self.network.send_replace(view);
            }
            3 => self.probed(rng),
            4..7 => self.observed(rng),
            _ => {
                if let Some(ended) = self.end(rng) {
                    self.driver.ended(ended);
                }
            }
        }
        self.advance();
        self.check();
    }

    /// Carries out steps, as the client's loop does.
    fn advance(&mut self) {
        let now = Instant::now();
        let wake = self.driver.advance(now).expect("nobody ordered it to leave");
        // As far as a refresh is put off.
        let latest = now + LIMITS.max_token_lifetime;
        assert!(wake.is_none_or(|wake| wake <= latest), "{wake:?}");
        let probes = self.driver.probes.len();
        assert!(probes <= 16, "{probes} echo requests at once");
        self.driver.probes.clear();
        self.driver.show(now);
    }

    fn probed(&mut self, rng: &mut StdRng) {
        let answer = if rng.random() {
            Ok(Duration::from_millis(1))
        } else {
            Err(EchoError::Timeout {
                target: [10, 0, 0, 1].into(),
                interface: "nsm-1".to_owned(),
            })
        };
        self.driver.probed(Instant::now(), answer);
    }

    /// An event of the manager's stream, or its end.
    fn observed(&mut self, rng: &mut StdRng) {
        if self.driver.monitor.is_none() {
            return;
        }
        if rng.random_range(0..6) == 0 {
            let error = rng.random::<bool>().then(|| failure(rng));
            self.driver.observed(Item::Ended(error));
            return;
        }
        if let Some(event) = self.event(rng) {
            let item = match rng.random_range(0..4) {
                0 => Item::Opened(event),
                _ => Item::Changed(event),
            };
            self.driver.observed(item);
        }
    }

    fn event(&self, rng: &mut StdRng) -> Option<ConnectionEvent> {
        let kinds = [
            ConnectionEventType::InitialStateTransfer,
            ConnectionEventType::Update,
            ConnectionEventType::Delete,
        ];
        let connections = (0..rng.random_range(0..3)).map(|number: u32| {
            let mut connection = self.reply(rng, &self.request(Content::Keep));
            if let Some(path) = &mut connection.path {
                path.index = 1;
            }
            "m-1".clone_into(&mut connection.id);
            connection.state = rng.random_range(0..4);
            change_connection(rng, &mut connection);
            (number.to_string(), connection)
        });
        let event = ConnectionEvent {
            connections: connections.collect(),
            r#type: kinds[rng.random_range(0..kinds.len())].into(),
        };
        ConnectionEvent::decode(&*changed(rng, event.encode_to_vec())).ok()
    }

    /// The end of the call in flight.
    fn end(&self, rng: &mut StdRng) -> Option<Ended> {
        let call = self.driver.stepper.calling()?;
        let fails = rng.random_range(0..4) == 0;
        Some(match call {
            Call::Restore if fails => Ended::Restored(Err(failure(rng))),
            Call::Restore => {
                let event = self.event(rng)?;
                Ended::Restored(Ok(self.terms.restorable(&event, SystemTime::now())))
            }
            Call::Request(content) if fails => Ended::Requested(content, Err(failure(rng))),
            Call::Request(content) => {
                let mut reply = self.reply(rng, &self.request(content));
                change_connection(rng, &mut reply);
                let reply = Connection::decode(&*changed(rng, reply.encode_to_vec())).ok()?;
                Ended::Requested(content, Ok(reply))
            }
            Call::Close if fails => Ended::Closed(Err(failure(rng))),
            Call::Close => Ended::Closed(Ok(())),
        })
    }

    /// What the client sends in a Request.
    fn request(&self, content: Content) -> Connection {
        let request = self.terms.request(content, self.driver.connection.as_ref());
        request.connection.unwrap()
    }

    /// As a real manager replies to `request`.
    fn reply(&self, rng: &mut StdRng, request: &Connection) -> Connection {
        let mut reply = request.clone();
        let now = SystemTime::now();
        let segment = |name: &str, id: &str| PathSegment {
            name: name.to_owned(),
            id: id.to_owned(),
            token: "eyJ.secret.x".to_owned(),
            expires: Some((now + Duration::from_secs(600)).into()),
            ..PathSegment::default()
        };
        let path = reply.path.get_or_insert_default();
        path.path_segments.truncate(1);
        path.path_segments
            .extend([segment("nsmgr-0", "m-1"), segment("nse-vl3-0", "e-1")]);
        reply.mechanism = self
            .terms
            .request(Content::First, None)
            .mechanism_preferences
            .pop();
        "nse-vl3-0".clone_into(&mut reply.network_service_endpoint_name);
        let context = reply.context.get_or_insert_default();
        context.mtu = 1446;
        context.ip_context = Some(IpContext {
            src_ip_addrs: vec![format!("172.16.0.{}/32", rng.random_range(2..5))],
            dst_ip_addrs: vec!["172.16.0.1/32".to_owned(), "fd00::1/128".to_owned()],
            ..IpContext::default()
        });
        reply
    }

    fn check(&self) {
        let mut contents = vec![Content::First];
        if self.driver.connection.is_some() {
            contents.extend([Content::Keep, Content::Reselect]);
        }
        for content in contents {
            let request = self.request(content);
            assert_eq!(
                (&request.id[..], &request.network_service[..]),
                ("c1-0", "vl3-lb")
            );
            let path = request.path.as_ref().unwrap();
            let first = &path.path_segments[0];
            assert_eq!(
                (path.index, &first.name[..], &first.id[..]),
                (0, "c1", "c1-0"),
                "{content:?}"
            );
            assert_eq!(request.labels.get("podName").map(String::as_str), Some("c1"));
            if let Some(mechanism) = &request.mechanism {
                assert_eq!(mechanism.parameters["name"], "nsm-1");
            }
            assert!(!format!("{request:?}").contains("secret"), "a token is shown");
        }
        assert!(self.driver.targets.iter().all(|&target| is_unicast(target)));
        let status = self.status.borrow().clone();
        let texts = [
            &status.endpoint,
            &status.reason,
            &status.last_error,
            &status.identity_error,
        ];
        let texts = texts.into_iter().flatten().chain(&status.path);
        for text in texts {
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(text.len() < 2_000, "{} bytes", text.len());
        }
        assert!(status.path.len() <= 16 && status.addresses.len() <= 16);
        serde_json::to_string(&status).expect("the status in JSON");
        let newest = self.events.kept().pop();
        assert!(newest.is_none_or(|event| !event.text.contains(char::is_control)));
    }

    /// With a good manager and endpoint the client is connected, whatever came before.
    async fn recovers(&mut self, rng: &mut StdRng) {
        self.network.send_replace(Some(Arc::clone(&self.view)));
        let mut expected = Vec::new();
        for _ in 0..RECOVERY {
            let ended = match self.driver.stepper.calling() {
                Some(Call::Restore) => Some(Ended::Restored(Ok(None))),
                Some(Call::Request(content)) => {
                    let reply = self.reply(rng, &self.request(content));
                    expected = message::addresses(&reply);
                    Some(Ended::Requested(content, Ok(reply)))
                }
                Some(Call::Close) => Some(Ended::Closed(Ok(()))),
                None => None,
            };
            if let Some(ended) = ended {
                self.driver.ended(ended);
            }
            self.driver.probed(Instant::now(), Ok(Duration::from_millis(1)));
            if self.driver.monitor.is_some() {
                // About other connections.
                let event = ConnectionEvent {
                    r#type: ConnectionEventType::Update.into(),
                    ..ConnectionEvent::default()
                };
                self.driver.observed(Item::Opened(event));
            }
            self.advance();
            self.check();
            tokio::time::advance(Duration::from_millis(500)).await;
            let status = self.status.borrow().clone();
            if status.state == NsmState::Connected && !expected.is_empty() {
                assert_eq!(status.addresses, expected);
                self.is_shown();
                return;
            }
        }
        panic!("not connected: {:?}", self.status.borrow());
    }

    /// In JSON and as metrics.
    fn is_shown(&self) {
        let mut report = fixture::live(1).reporter.report();
        report.status.nsm = Some(self.status.borrow().clone());
        serde_json::to_string(&report.status).expect("the status in JSON");
        let text = metrics::render(Arc::new(report), Metrics::default()).expect("the metrics");
        let is_sample =
            |line: &str| line.starts_with("# ") || line.starts_with("vl3lb_") || line.starts_with("process_");
        assert_eq!(text.lines().find(|line| !is_sample(line)), None);
    }
}

/// A failed call, with any message.
fn failure(rng: &mut StdRng) -> CallError {
    let codes = [Code::Internal, Code::PermissionDenied, Code::Unavailable];
    match rng.random_range(0..4) {
        0 => CallError::Timeout(Duration::from_secs(15)),
        1 => CallError::Ended,
        _ => {
            let mut text = "no sufficient\nprivileges: token=eyJhbGciOiJFUzI1NiJ9.e30.c2ln".to_owned();
            for _ in 0..rng.random_range(0..4) {
                change_text(rng, &mut text);
            }
            let code = codes[rng.random_range(0..codes.len())];
            Status::new(code, text.repeat(rng.random_range(1..40))).into()
        }
    }
}

/// Up to three changes that the wire format allows.
fn change_connection(rng: &mut StdRng, connection: &mut Connection) {
    for _ in 0..rng.random_range(0..4) {
        let segments = connection.path.as_mut().map(|path| &mut path.path_segments);
        let context = connection.context.as_mut();
        match (rng.random_range(0..9), segments, context) {
            (0, Some(segments), _) if !segments.is_empty() => {
                let segment = rng.random_range(0..segments.len());
                segments[segment].expires = Some(any_time(rng));
            }
            (1, Some(segments), _) if !segments.is_empty() => {
                let segment = rng.random_range(0..segments.len());
                change_text(rng, &mut segments[segment].name);
            }
            (2, Some(segments), _) => {
                let more = segments.first().cloned().unwrap_or_default();
                let count = rng.random_range(0..40);
                segments.truncate(1);
                segments.extend(std::iter::repeat_n(more, count));
            }
            (3, _, Some(context)) => {
                let ip = context.ip_context.get_or_insert_default();
                let addresses = [
                    "224.0.0.1",
                    "0.0.0.0/0",
                    "::",
                    "255.255.255.255",
                    "10.0.0.1/33",
                    "?",
                ];
                let address = addresses[rng.random_range(0..addresses.len())];
                let count = rng.random_range(0..60);
                let hosts = (0..count).map(|number: u32| format!("10.1.0.{number}"));
                ip.dst_ip_addrs = hosts.chain([address.to_owned()]).collect();
                ip.src_ip_addrs.clone_from(&ip.dst_ip_addrs);
            }
            (4, _, Some(context)) => context.mtu = rng.random(),
            (5, ..) => change_text(rng, &mut connection.network_service),
            (6, ..) => connection.mechanism = None,
            (7, ..) => connection.path = None,
            _ => change_text(rng, &mut connection.network_service_endpoint_name),
        }
    }
    if rng.random_range(0..8) == 0 {
        connection.labels = HashMap::from([("podName".to_owned(), "other".to_owned())]);
    }
}

fn any_time(rng: &mut StdRng) -> Timestamp {
    let now = i64::try_from(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap();
    let seconds = [
        0,
        -1,
        i64::MIN,
        i64::MAX,
        253_402_300_800,
        now,
        now + 5,
        now + 1_000_000,
        rng.random(),
    ];
    let nanos = [0, -1, 999_999_999, i32::MIN, i32::MAX];
    Timestamp {
        seconds: seconds[rng.random_range(0..seconds.len())],
        nanos: nanos[rng.random_range(0..nanos.len())],
    }
}

/// Half of the messages as they are, the others with up to five changes.
fn changed(rng: &mut StdRng, mut bytes: Vec<u8>) -> Vec<u8> {
    if rng.random() {
        for _ in 0..rng.random_range(1..6) {
            change_bytes(rng, &mut bytes);
        }
    }
    bytes
}
