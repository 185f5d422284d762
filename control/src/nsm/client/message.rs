//! The messages of the client: what it requests, and what a reply says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use vl3lb_common::Duration;

use crate::config::{NetworkService, is_unicast};
use crate::nsm::proto::connection::{
    Connection, ConnectionEvent, Mechanism, MonitorScopeSelector, Path, PathSegment, State,
};
use crate::nsm::proto::connectioncontext::{ConnectionContext, IpContext};
use crate::nsm::proto::networkservice::NetworkServiceRequest;
use crate::one_line::one_line;

use super::stepper::Content;

/// A mechanism within one node.
const LOCAL: &str = "LOCAL";
/// An interface of the kernel.
const KERNEL: &str = "KERNEL";
const NETWORK_NAMESPACE: &str = "inodeURL";
const INTERFACE_NAME: &str = "name";
/// Addresses that are taken of a reply: an endpoint gives one of each family.
const MOST_ADDRESSES: usize = 16;
/// What is shown of a path: its segments, and the characters of a name, which Kubernetes limits to as many.
const MOST_SEGMENTS: usize = 16;
const LONGEST_NAME: usize = 253;

/// What this client asks for, always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    /// The name of this client's path segment.
    pub(super) name: String,
    /// The identifier of the connection, which is the same after a restart of the process.
    pub(super) id: String,
    pub(super) service: NetworkService,
    /// The network namespace, as `inode://DEVICE/INODE`.
    pub(super) namespace: String,
}

impl Terms {
    /// The terms of the client `name`.
    pub(super) fn new(name: &str, service: NetworkService, namespace: String) -> Self {
        Self {
            name: name.to_owned(),
            // The predecessor numbers its network services; here there is one.
            id: format!("{name}-0"),
            service,
            namespace,
        }
    }

    /// A Request with this content. `last` is the last reply, if there was one.
    pub(super) fn request(&self, content: Content, last: Option<&Connection>) -> NetworkServiceRequest {
        let connection = match (content, last) {
            (Content::First, _) | (_, None) => self.first(),
            (Content::Keep, Some(last)) => self.kept(last),
            (Content::Reselect, Some(last)) => Connection {
                mechanism: None,
                // With the old context an endpoint gives the old address again, even if another client has it now.
                context: Some(empty_context()),
                network_service_endpoint_name: String::new(),
                state: State::ReselectRequested.into(),
                ..self.kept(last)
            },
        };
        NetworkServiceRequest {
            connection: Some(connection),
            mechanism_preferences: vec![self.mechanism()],
        }
    }

    /// What Close ends.
    pub(super) fn close(&self, last: Option<&Connection>) -> Connection {
        last.map_or_else(|| self.first(), |last| self.kept(last))
    }

    /// Selects this client's connection at the manager.
    pub(super) fn selector(&self) -> MonitorScopeSelector {
        MonitorScopeSelector {
            path_segments: vec![PathSegment {
                name: self.name.clone(),
                id: self.id.clone(),
                ..PathSegment::default()
            }],
            network_services: Vec::new(),
        }
    }

    /// This client's connections in an event of the manager, as the manager sees them.
    pub(super) fn own<'a>(&'a self, event: &'a ConnectionEvent) -> impl Iterator<Item = &'a Connection> {
        event
            .connections
            .values()
            .filter(|connection| self.is_own(connection))
    }

    /// The manager's view of this client's connection, to continue with; of several the one that lasts longest.
    pub(super) fn restorable(&self, event: &ConnectionEvent, now: SystemTime) -> Option<Connection> {
        let mechanism = |connection: &&Connection| {
            let mechanism = connection.mechanism.as_ref();
            mechanism.is_some_and(|mechanism| mechanism.r#type == KERNEL)
        };
        self.own(event)
            .filter(mechanism)
            .max_by_key(|connection| life(connection, now))
            .map(|connection| self.kept(connection))
    }

    /// Whether `connection` leads to the interface and the network service that this client wants.
    pub(super) fn fits(&self, connection: &Connection) -> bool {
        let parameter = |key| {
            let mechanism = connection.mechanism.as_ref();
            mechanism.and_then(|mechanism| mechanism.parameters.get(key))
        };
        // The manager may have put a path of its own in place of the URL.
        let namespace = parameter(NETWORK_NAMESPACE)
            .is_none_or(|url| !url.starts_with("inode://") || *url == self.namespace);
        connection.network_service == self.service.name
            && parameter(INTERFACE_NAME) == Some(&self.service.interface)
            && namespace
    }

    fn is_own(&self, connection: &Connection) -> bool {
        let Some(path) = &connection.path else {
            return false;
        };
        path.index == 1 && self.begins(path)
    }

    /// Whether the path begins at this client.
    fn begins(&self, path: &Path) -> bool {
        let first = path.path_segments.first();
        first.is_some_and(|segment| segment.id == self.id && segment.name == self.name)
    }

    fn first(&self) -> Connection {
        let interface = format!("{KERNEL}/{}", self.service.interface);
        Connection {
            id: self.id.clone(),
            network_service: self.service.name.clone(),
            context: Some(empty_context()),
            labels: self.labels(),
            path: Some(Path {
                index: 0,
                path_segments: vec![PathSegment {
                    name: self.name.clone(),
                    id: self.id.clone(),
                    metrics: HashMap::from([("client_interface".to_owned(), interface)]),
                    ..PathSegment::default()
                }],
            }),
            ..Connection::default()
        }
    }

    /// A reply, or the manager's view of it, as the client's own connection: the whole path with it, since a server
    /// that misses its segment takes the Request for a second connection. What is this client's stays, whatever the
    /// reply says.
    fn kept(&self, last: &Connection) -> Connection {
        let mut connection = last.clone();
        connection.id.clone_from(&self.id);
        connection.network_service.clone_from(&self.service.name);
        connection.path = match connection.path {
            Some(path) if self.begins(&path) => Some(Path { index: 0, ..path }),
            _ => self.first().path,
        };
        connection.state = State::Up.into();
        connection.labels.extend(self.labels());
        if let Some(mechanism) = &mut connection.mechanism {
            mechanism.parameters.extend(self.mechanism().parameters);
        }
        connection
    }

    fn labels(&self) -> HashMap<String, String> {
        self.service.labels.clone().into_iter().collect()
    }

    fn mechanism(&self) -> Mechanism {
        Mechanism {
            cls: LOCAL.to_owned(),
            r#type: KERNEL.to_owned(),
            parameters: HashMap::from([
                (NETWORK_NAMESPACE.to_owned(), self.namespace.clone()),
                (INTERFACE_NAME.to_owned(), self.service.interface.clone()),
            ]),
        }
    }
}

fn empty_context() -> ConnectionContext {
    ConnectionContext {
        ip_context: Some(IpContext::default()),
        ..ConnectionContext::default()
    }
}

/// The remaining life of the shortest-lived token of the path; `None` if no segment has one.
pub(super) fn life(connection: &Connection, now: SystemTime) -> Option<Duration> {
    expiry(connection).map(|expiry| expiry.duration_since(now).unwrap_or_default())
}

/// When the first token of the path expires.
pub(super) fn expiry(connection: &Connection) -> Option<SystemTime> {
    let path = connection.path.as_ref()?;
    path.path_segments
        .iter()
        .filter_map(|segment| SystemTime::try_from(segment.expires?).ok())
        .min()
}

/// The identifier that the manager has for the connection.
pub(super) fn manager_id(connection: &Connection) -> Option<&str> {
    let path = connection.path.as_ref()?;
    path.path_segments.get(1).map(|segment| segment.id.as_str())
}

/// The name of the endpoint, to be shown.
pub(super) fn endpoint(connection: &Connection) -> Option<String> {
    let name = &connection.network_service_endpoint_name;
    (!name.is_empty()).then(|| shown(name))
}

/// The names of the path's segments, to be shown.
pub(super) fn path_names(connection: &Connection) -> Vec<String> {
    let path = connection.path.iter();
    path.flat_map(|path| &path.path_segments)
        .take(MOST_SEGMENTS)
        .map(|segment| shown(&segment.name))
        .collect()
}

fn shown(name: &str) -> String {
    one_line(name.chars().take(LONGEST_NAME).collect())
}

/// The client's addresses.
pub(super) fn addresses(connection: &Connection) -> Vec<IpAddr> {
    ip_context(connection).map_or_else(Vec::new, |context| parse(&context.src_ip_addrs))
}

/// The endpoint's addresses.
pub(super) fn endpoint_addresses(connection: &Connection) -> Vec<IpAddr> {
    ip_context(connection).map_or_else(Vec::new, |context| parse(&context.dst_ip_addrs))
}

/// The MTU of the connection; 0 stands for none.
pub(super) fn mtu(connection: &Connection) -> Option<u32> {
    let context = connection.context.as_ref()?;
    Some(context.mtu).filter(|&mtu| mtu > 0)
}

fn ip_context(connection: &Connection) -> Option<&IpContext> {
    connection.context.as_ref()?.ip_context.as_ref()
}

/// Addresses with or without a prefix length. What is malformed or no host's is left out: each of the endpoint's gets
/// echo requests.
fn parse(addresses: &[String]) -> Vec<IpAddr> {
    addresses
        .iter()
        .filter_map(|text| {
            let prefixed = text.parse().map(|net: IpNet| net.addr());
            prefixed.or_else(|_| text.parse()).ok()
        })
        .filter(|&address| is_unicast(address))
        .take(MOST_ADDRESSES)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn terms() -> Terms {
        let service = NetworkService {
            name: "vl3-lb".to_owned(),
            interface: "nsm-1".to_owned(),
            labels: BTreeMap::from([("podName".to_owned(), "c1".to_owned())]),
        };
        Terms::new("c1", service, "inode://4/4026532247".to_owned())
    }

    fn map(entries: &[(&str, &str)]) -> HashMap<String, String> {
        let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        entries.iter().map(owned).collect()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// As the real manager replies.
    fn reply() -> Connection {
        let segment = |name: &str, id: &str, expires: u64| PathSegment {
            name: name.to_owned(),
            id: id.to_owned(),
            token: "eyJ.secret.x".to_owned(),
            expires: Some(at(expires).into()),
            ..PathSegment::default()
        };
        let mut reply = terms().first();
        reply.mechanism = Some(terms().mechanism());
        reply.labels.insert("nodeName".to_owned(), "node-1".to_owned());
        "nse-vl3-0".clone_into(&mut reply.network_service_endpoint_name);
        "IP".clone_into(&mut reply.payload);
        reply.path.as_mut().unwrap().path_segments = vec![
            segment("c1", "c1-0", 1600),
            segment("nsmgr-0", "m-1", 1590),
            segment("forwarder-0", "f-1", 1610),
            segment("nse-vl3-0", "e-1", 1620),
        ];
        reply.context = Some(ConnectionContext {
            ip_context: Some(IpContext {
                src_ip_addrs: vec![
                    "172.16.0.2/32".to_owned(),
                    "fd00::2/128".to_owned(),
                    "?".to_owned(),
                ],
                dst_ip_addrs: vec!["172.16.0.0/32".to_owned(), "fd00::".to_owned()],
                ..IpContext::default()
            }),
            mtu: 9000,
            ..ConnectionContext::default()
        });
        reply
    }

    #[test]
    fn the_first_request_is_that_of_the_sdks_client() {
        let request = terms().request(Content::First, None);
        let connection = request.connection.unwrap();
        assert_eq!(connection.id, "c1-0");
        assert_eq!(connection.network_service, "vl3-lb");
        assert_eq!(connection.context, Some(empty_context()));
        assert_eq!(connection.labels, map(&[("podName", "c1")]));
        assert_eq!(connection.mechanism, None);
        assert_eq!(connection.network_service_endpoint_name, "");
        let path = connection.path.unwrap();
        assert_eq!(path.index, 0);
        let [segment] = path.path_segments.as_slice() else {
            panic!("one segment");
        };
        assert_eq!((segment.name.as_str(), segment.id.as_str()), ("c1", "c1-0"));
        assert_eq!(
            (segment.token.as_str(), segment.expires),
            ("", None),
            "servers fill them in"
        );
        assert_eq!(segment.metrics, map(&[("client_interface", "KERNEL/nsm-1")]));
        let [mechanism] = request.mechanism_preferences.as_slice() else {
            panic!("one mechanism");
        };
        assert_eq!(
            (mechanism.cls.as_str(), mechanism.r#type.as_str()),
            ("LOCAL", "KERNEL")
        );
        assert_eq!(
            mechanism.parameters,
            map(&[("inodeURL", "inode://4/4026532247"), ("name", "nsm-1")])
        );
    }

    #[test]
    fn a_refresh_sends_the_whole_reply_back() {
        let request = terms().request(Content::Keep, Some(&reply()));
        assert_eq!(request.connection, Some(reply()));
        let mut down = reply();
        down.state = State::Down.into();
        let request = terms().request(Content::Keep, Some(&down));
        assert_eq!(request.connection, Some(reply()), "it is up for the client");
    }

    #[test]
    fn a_reselect_keeps_the_path_and_nothing_that_names_the_endpoint() {
        let request = terms().request(Content::Reselect, Some(&reply()));
        let connection = request.connection.unwrap();
        assert_eq!(connection.state(), State::ReselectRequested);
        assert_eq!(connection.context, Some(empty_context()));
        assert_eq!(connection.mechanism, None);
        assert_eq!(connection.network_service_endpoint_name, "");
        assert_eq!(connection.path, reply().path);
        assert_eq!(request.mechanism_preferences.len(), 1);
    }

    #[test]
    fn a_connection_that_the_manager_still_has_is_continued() {
        let terms = terms();
        let mut theirs = reply();
        "m-1".clone_into(&mut theirs.id);
        theirs.path.as_mut().unwrap().index = 1;
        theirs.state = State::Down.into();
        let mut older = theirs.clone();
        older.path.as_mut().unwrap().path_segments[2].expires = Some(at(1100).into());
        let mut foreign = theirs.clone();
        foreign.path.as_mut().unwrap().path_segments[0].id = "c2-0".to_owned();
        let mut other_place = theirs.clone();
        other_place.path.as_mut().unwrap().index = 3;
        let mut memif = theirs.clone();
        memif.mechanism.as_mut().unwrap().r#type = "MEMIF".to_owned();
        let event = |connections: &[&Connection]| ConnectionEvent {
            r#type: 0,
            connections: connections
                .iter()
                .enumerate()
                .map(|(number, &connection)| (number.to_string(), connection.clone()))
                .collect(),
        };
        let found = terms.restorable(&event(&[&older, &theirs, &foreign]), at(1000));
        assert_eq!(found, Some(reply()));
        assert!(terms.fits(&reply()));
        for other in [&foreign, &other_place, &memif] {
            assert_eq!(terms.restorable(&event(&[other]), at(1000)), None);
        }
        assert_eq!(terms.restorable(&event(&[]), at(1000)), None);
    }

    #[test]
    fn a_connection_of_another_interface_or_namespace_does_not_fit() {
        let terms = terms();
        for (key, value, fits) in [
            (INTERFACE_NAME, "nsm-2", false),
            (NETWORK_NAMESPACE, "inode://4/1", false),
            (NETWORK_NAMESPACE, "file:///proc/7/fd/9", true),
        ] {
            let mut other = reply();
            let mechanism = other.mechanism.as_mut().unwrap();
            mechanism.parameters.insert(key.to_owned(), value.to_owned());
            assert_eq!(terms.fits(&other), fits, "{key} {value}");
        }
        let mut other = reply();
        "other".clone_into(&mut other.network_service);
        assert!(!terms.fits(&other));
    }

    #[test]
    fn what_is_the_clients_own_is_not_the_managers_to_change() {
        let mut strange = reply();
        "c2-0".clone_into(&mut strange.id);
        "other".clone_into(&mut strange.network_service);
        strange.labels.insert("podName".to_owned(), "c2".to_owned());
        let mut foreign = strange.clone();
        foreign.path.as_mut().unwrap().path_segments.remove(0);
        let mut without = strange.clone();
        without.path = None;
        for (strange, path) in [
            (strange, reply().path),
            (foreign, terms().first().path),
            (without, terms().first().path),
        ] {
            let expected = Connection { path, ..reply() };
            let request = terms().request(Content::Keep, Some(&strange));
            assert_eq!(request.connection, Some(expected));
        }
    }

    /// Each address of the endpoint gets echo requests.
    #[test]
    fn addresses_are_those_of_hosts_and_few() {
        let mut strange = reply();
        let context = strange.context.as_mut().unwrap().ip_context.as_mut().unwrap();
        let others = [
            "224.0.0.1",
            "0.0.0.0/0",
            "255.255.255.255",
            "::",
            "ff02::1",
            "127.0.0.1",
        ];
        let many = (0..60).map(|last| format!("10.1.0.{last}/32"));
        context.dst_ip_addrs = others.into_iter().map(str::to_owned).chain(many).collect();
        let addresses = endpoint_addresses(&strange);
        assert_eq!(addresses.len(), MOST_ADDRESSES);
        assert_eq!(addresses[0], IpAddr::from([10, 1, 0, 0]));
    }

    #[test]
    fn names_are_shown_on_one_line_and_not_in_full_length() {
        let mut strange = reply();
        strange.network_service_endpoint_name = format!("\u{1b}[2J{}", "x".repeat(1_000));
        strange.path.as_mut().unwrap().path_segments = vec![PathSegment::default(); 100];
        let name = endpoint(&strange).unwrap();
        assert!(name.starts_with("\\u{1b}[2Jxx") && name.len() < 300, "{name}");
        assert_eq!(path_names(&strange).len(), MOST_SEGMENTS);
    }

    #[test]
    fn close_ends_the_last_reply_or_what_was_first_requested() {
        assert_eq!(terms().close(Some(&reply())), reply());
        assert_eq!(terms().close(None), terms().first());
    }

    #[test]
    fn a_reply_is_read_with_care() {
        let reply = reply();
        assert_eq!(life(&reply, at(1000)), Some(Duration::from_secs(590)));
        assert_eq!(life(&reply, at(2000)), Some(Duration::ZERO));
        let show = |addresses: Vec<IpAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(show(addresses(&reply)), ["172.16.0.2", "fd00::2"]);
        assert_eq!(show(endpoint_addresses(&reply)), ["172.16.0.0", "fd00::"]);
        assert_eq!(mtu(&reply), Some(9000));
        assert_eq!(manager_id(&reply), Some("m-1"));
        assert_eq!(path_names(&reply), ["c1", "nsmgr-0", "forwarder-0", "nse-vl3-0"]);
        let empty = Connection::default();
        assert_eq!(
            (life(&empty, at(0)), mtu(&empty), manager_id(&empty)),
            (None, None, None)
        );
        assert!(addresses(&empty).is_empty() && path_names(&empty).is_empty());
    }

    #[test]
    fn no_token_is_in_the_debug_form() {
        assert!(!format!("{:?}", reply()).contains("secret"));
    }
}
