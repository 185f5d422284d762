//! Scripted registries and managers, without any network.

mod conflicts;
mod convergence;
mod faults;
mod following;
mod fuzz;
mod inventory;
mod manager;
mod source;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;
use vl3lb_common::Duration;

use super::clients::Clients;
use super::connection::{Connection, Skip};
use super::endpoint::{Manager, Registration};
use super::inventory::Inventory;
use super::owners::{Changes, Own, Owners};
use crate::config::{Config, HealthCheck, Selector, Service};
use crate::discovery::{BackendSpec, Desired};
use crate::nsm::proto::connection as proto;
use crate::nsm::proto::connection::State;
use crate::nsm::proto::connectioncontext::{ConnectionContext, IpContext};

/// The network service of all tests.
const SERVICE: &str = "vl3-lb";

/// A connection as it is on the wire.
#[derive(Debug, Clone)]
struct Wire(proto::Connection);

impl Wire {
    /// A connection of client `name`, whose id is `NAME-0` and which is pod `web/NAME`, to `endpoint`.
    fn new(name: &str, endpoint: &str, addresses: &[&str]) -> Self {
        let segment = |name: &str, id: &str| proto::PathSegment {
            name: name.to_owned(),
            id: id.to_owned(),
            token: token("spiffe://k8s.nsm/ns/nsm-system/pod/x"),
            ..proto::PathSegment::default()
        };
        let mut client = segment(name, &format!("{name}-0"));
        client.token = token(&format!("spiffe://k8s.nsm/ns/web/pod/{name}"));
        let ip_context = IpContext {
            src_ip_addrs: addresses.iter().map(|address| (*address).to_owned()).collect(),
            ..IpContext::default()
        };
        Self(proto::Connection {
            id: format!("at-manager-{name}"),
            network_service: SERVICE.to_owned(),
            network_service_endpoint_name: endpoint.to_owned(),
            path: Some(proto::Path {
                index: 1,
                path_segments: vec![
                    client,
                    segment("nsmgr-0", "m"),
                    segment("forwarder-0", "f"),
                    segment(endpoint, "e"),
                ],
            }),
            context: Some(ConnectionContext {
                ip_context: Some(ip_context),
                ..ConnectionContext::default()
            }),
            ..proto::Connection::default()
        })
        .label("app", "finance")
    }

    fn label(mut self, label: &str, value: &str) -> Self {
        self.0.labels.insert(label.to_owned(), value.to_owned());
        self
    }

    fn state(mut self, state: State) -> Self {
        self.0.state = state.into();
        self
    }

    /// Changes the client's own segment.
    fn client(mut self, change: impl FnOnce(&mut proto::PathSegment)) -> Self {
        change(&mut self.0.path.as_mut().unwrap().path_segments[0]);
        self
    }

    fn id(self, id: &str) -> Self {
        self.client(|segment| id.clone_into(&mut segment.id))
    }

    fn subject(self, subject: &str) -> Self {
        self.client(|segment| segment.token = token(subject))
    }

    fn read(self, endpoint: &str) -> Result<Connection, Skip> {
        Connection::read(self.0, endpoint, SERVICE)
    }
}

/// An unsigned token.
fn token(subject: &str) -> String {
    let payload = format!(r#"{{"sub":"{subject}","aud":["spiffe://k8s.nsm/x"],"exp":1795502364}}"#);
    format!("eyJhbGciOiJFUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
}

fn local(name: &str) -> Registration {
    Registration {
        name: name.into(),
        manager: Manager::Local,
    }
}

fn remote(name: &str, url: &str) -> Registration {
    Registration {
        name: name.into(),
        manager: Manager::Remote(url.parse().unwrap()),
    }
}

/// A service at port 80 of the clients that `selector` selects, without health checks.
fn service(selector: &str) -> Service {
    let text = "services: [{name: finance, port: 8080, targetPort: 80, backends: []}]";
    let loaded = Config::parse(Some(text), "lb.yaml", &|_| None, &(32768..=60999)).unwrap();
    let mut service = loaded.config.services[0].clone();
    service.selector = Selector::parse(selector).unwrap();
    service
}

/// An inventory, its owners, and a clock that stands still.
struct Scene {
    inventory: Inventory,
    owners: Owners,
    own: Own,
    now: Instant,
    service: Service,
}

impl Scene {
    /// One endpoint, `nse-0`, that the local manager knows, without clients.
    fn new() -> Self {
        let mut scene = Self {
            inventory: Inventory::default(),
            owners: Owners::default(),
            own: Own {
                name: "finance-lb".to_owned(),
                addresses: vec!["172.16.1.103".parse().unwrap()],
            },
            now: Instant::now(),
            service: service("app=finance"),
        };
        scene.list(vec![local("nse-0")]);
        scene.replace("nse-0", []);
        scene
    }

    fn list(&mut self, registrations: Vec<Registration>) {
        self.inventory.list(registrations, self.now);
    }

    fn read<const N: usize>(endpoint: &str, connections: [Wire; N]) -> BTreeMap<String, Connection> {
        let read = |wire: Wire| Some((wire.0.id.clone(), wire.read(endpoint).ok()?));
        connections.into_iter().filter_map(read).collect()
    }

    /// The list at the begin of a stream.
    fn replace<const N: usize>(&mut self, endpoint: &str, connections: [Wire; N]) {
        let connections = Self::read(endpoint, connections);
        self.inventory.replace(endpoint, connections, self.now);
    }

    fn update<const N: usize>(&mut self, endpoint: &str, connections: [Wire; N]) {
        let connections = Self::read(endpoint, connections);
        self.inventory.update(endpoint, connections, self.now);
    }

    fn delete(&mut self, endpoint: &str, name: &str) {
        let id = format!("at-manager-{name}");
        self.inventory.delete(endpoint, [id.as_str()], self.now);
    }

    fn lose(&mut self, endpoint: &str) {
        self.inventory.lose(endpoint, self.now);
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        self.inventory.expire(self.now);
    }

    fn resolve(&mut self) -> (Clients, Changes) {
        self.owners.resolve(&self.inventory, &self.own, self.now)
    }

    fn desired(&mut self) -> Desired {
        let (clients, _) = self.resolve();
        clients.desired(std::slice::from_ref(&self.service), &[])
    }

    fn specs(&mut self) -> Vec<BackendSpec> {
        self.desired().services[0].backends.clone()
    }

    /// The backends of the service, as `ADDRESS` or, with weight 0, `(ADDRESS)`.
    fn backends(&mut self) -> Vec<String> {
        let shown = |backend: &BackendSpec| match backend.weight {
            0 => format!("({})", backend.address),
            _ => backend.address.to_string(),
        };
        self.specs().iter().map(shown).collect()
    }

    /// The events of conflicts that began or ended.
    fn events(&mut self) -> Vec<String> {
        let (_, changes) = self.resolve();
        let begun = changes.begun.iter().map(|conflict| conflict.begun());
        let events = begun.chain(changes.ended.iter().map(|conflict| conflict.ended()));
        events
            .map(|event| format!("{}: {}", event.severity.name(), event.text))
            .collect()
    }

    /// The instance of the flows of the only backend.
    fn instance(&mut self) -> Arc<str> {
        let specs = self.specs();
        assert_eq!(specs.len(), 1, "{specs:?}");
        specs[0].instance.clone().unwrap()
    }

    fn is_dead(&mut self, instance: &Arc<str>) -> bool {
        self.desired().instances.is_dead(Some(instance))
    }
}
