//! Fuzz target: changed messages of managers and registries, from the wire to the report. See `vl3lb_testbed::fuzz`.

use std::time::Instant as RealTime;

use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use vl3lb_common::snapshot::NatPorts;
use vl3lb_testbed::mutation::{change_bytes, change_text};

use super::super::subject::Subject;
use super::*;
use crate::journey::Journey;
use crate::nsm::proto::connection::{ConnectionEvent, ConnectionEventType};
use crate::nsm::proto::registry::NetworkServiceEndpoint;

/// Seeds that have failed.
const CORPUS: &[u64] = &[];
/// Messages of one seed.
const MESSAGES: u64 = 120;
/// Far above what the slowest message takes.
const LONGEST: Duration = Duration::from_secs(5);
const ENDPOINTS: [&str; 3] = ["nse-0", "nse-1", "finance-lb"];

#[test]
fn any_message_is_a_client_or_left_out_for_a_reason() {
    vl3lb_testbed::fuzz::run("NSM", 8, CORPUS, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World {
            scene: Scene::new(),
            journey: Journey::new(NatPorts::new(10_240, 32_767).unwrap()),
        };
        for _ in 0..MESSAGES {
            let begin = RealTime::now();
            world.step(&mut rng);
            assert!(begin.elapsed() < LONGEST, "{:?}", begin.elapsed());
        }
        MESSAGES
    });
}

struct World {
    scene: Scene,
    journey: Journey,
}

impl World {
    fn step(&mut self, rng: &mut StdRng) {
        match rng.random_range(0..10) {
            0 => self.register(rng),
            1 => {
                let endpoint = ENDPOINTS[rng.random_range(0..ENDPOINTS.len())];
                match rng.random_range(0..3) {
                    0 => self.scene.lose(endpoint),
                    1 => self.scene.inventory.unregister(endpoint, self.scene.now),
                    _ => self.scene.advance(Duration::from_secs(rng.random_range(0..100))),
                }
            }
            2 => token_is_read(rng),
            _ => self.event(rng),
        }
        let set = self.scene.desired();
        self.journey.take(&set);
        if rng.random_range(0..8) == 0 {
            self.journey.wait(100);
        }
    }

    /// An answer of the registry, or a list of one.
    fn register(&mut self, rng: &mut StdRng) {
        const URLS: [&str; 5] = [
            "tcp://10.0.0.1:5001",
            "inode://4/44",
            "unix:///var/lib/networkservicemesh/x.sock",
            "tcp://[2001:db8::1]:5001",
            "https://a",
        ];
        let mut endpoint = NetworkServiceEndpoint {
            name: ENDPOINTS[rng.random_range(0..ENDPOINTS.len())].to_owned(),
            network_service_names: vec![SERVICE.to_owned()],
            url: URLS[rng.random_range(0..URLS.len())].to_owned(),
            ..NetworkServiceEndpoint::default()
        };
        if rng.random() {
            change_text(rng, &mut endpoint.url);
        }
        let Ok(endpoint) = NetworkServiceEndpoint::decode(&*changed(rng, endpoint.encode_to_vec())) else {
            return;
        };
        match Registration::read(endpoint) {
            Ok(registration) if rng.random() => self.scene.list(vec![registration, local("nse-0")]),
            Ok(registration) => self.scene.inventory.register(registration, self.scene.now),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }

    /// An event of a manager, read as its monitor does.
    fn event(&mut self, rng: &mut StdRng) {
        let endpoint = ENDPOINTS[rng.random_range(0..ENDPOINTS.len())];
        let kinds = [
            ConnectionEventType::InitialStateTransfer,
            ConnectionEventType::Update,
            ConnectionEventType::Update,
            ConnectionEventType::Delete,
        ];
        let connections = (0..rng.random_range(0..4)).map(|_| {
            let connection = connection(rng, endpoint);
            (connection.id.clone(), connection)
        });
        let event = ConnectionEvent {
            connections: connections.collect(),
            r#type: kinds[rng.random_range(0..kinds.len())].into(),
        };
        let good = event.encode_to_vec();
        let bytes = changed(rng, good.clone());
        let is_good = bytes == good;
        let Ok(event) = ConnectionEvent::decode(&*bytes) else {
            return;
        };
        let now = self.scene.now;
        let inventory = &mut self.scene.inventory;
        match ConnectionEventType::try_from(event.r#type) {
            Ok(ConnectionEventType::Delete) => {
                inventory.delete(endpoint, event.connections.keys().map(String::as_str), now);
            }
            Ok(kind) => {
                let read = |(id, connection)| {
                    let connection = Connection::read(connection, endpoint, SERVICE).ok()?;
                    assert!(!connection.addresses.is_empty() && !connection.client.id.is_empty());
                    // A changed message may have a part of the token elsewhere.
                    assert!(
                        !is_good || !format!("{connection:?}").contains("c2ln"),
                        "a token is kept"
                    );
                    Some((id, connection))
                };
                let connections = event.connections.into_iter().filter_map(read).collect();
                if kind == ConnectionEventType::Update {
                    inventory.update(endpoint, connections, now);
                } else {
                    inventory.replace(endpoint, connections, now);
                }
            }
            Err(_) => {}
        }
    }
}

/// A connection with up to three changed texts.
fn connection(rng: &mut StdRng, endpoint: &str) -> proto::Connection {
    let name = format!("server-{}", rng.random_range(0..4));
    let address = format!("172.16.1.{}/32", rng.random_range(1..6));
    let mut wire = Wire::new(&name, endpoint, &[&address, "2001:db8::2/128"])
        .label("nodeName", "node-1")
        .0;
    wire.state = rng.random_range(0..4);
    for _ in 0..rng.random_range(0..4) {
        let segments = wire.path.as_mut().map(|path| &mut path.path_segments[..]);
        let client = segments.and_then(<[_]>::first_mut);
        let addresses = wire
            .context
            .as_mut()
            .and_then(|context| context.ip_context.as_mut());
        match (rng.random_range(0..7), client, addresses) {
            (0, Some(client), _) => change_text(rng, &mut client.token),
            (1, Some(client), _) => change_text(rng, &mut client.name),
            (2, Some(client), _) => change_text(rng, &mut client.id),
            (3 | 4, _, Some(addresses)) => change_text(rng, &mut addresses.src_ip_addrs[0]),
            (5, ..) => wire.labels.values_mut().for_each(|value| change_text(rng, value)),
            _ => change_text(rng, &mut wire.network_service_endpoint_name),
        }
    }
    wire
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

/// The payload of a token, changed before it is encoded, and the token itself.
fn token_is_read(rng: &mut StdRng) {
    let mut payload = br#"{"sub":"spiffe://k8s.nsm/ns/web/pod/a","aud":["x"],"exp":1795502364}"#.to_vec();
    for _ in 0..rng.random_range(0..6) {
        change_bytes(rng, &mut payload);
    }
    let mut token = format!("eyJhbGciOiJFUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
    if rng.random() {
        change_text(rng, &mut token);
    }
    if let Some(subject) = Subject::read(&token) {
        let parts = [subject.namespace(), subject.pod()];
        assert!(
            parts.iter().flatten().all(|part| !part.contains('/')),
            "{subject}"
        );
    }
}
