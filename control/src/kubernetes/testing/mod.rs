//! A scripted API server on loopback. It lists, watches and writes objects of any kind, and fails in the ways of a real
//! one.

mod respond;
mod store;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use store::{Key, Store};

/// Limit of each wait for a state of the server.
const LIMIT: Duration = Duration::from_secs(30);

/// The reply to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Good,
    /// A status with this code.
    Refused(u16),
    /// None until the reply changes.
    Silent,
}

/// The end of running watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// As at their time limit.
    Orderly,
    /// In the middle of a response.
    Broken,
}

/// The server. Dropping it closes all connections.
pub(crate) struct ApiServer {
    world: Arc<World>,
    address: SocketAddr,
    listening: Option<JoinHandle<()>>,
}

struct World {
    state: Mutex<Inner>,
    /// Notified of each change of the state.
    changed: watch::Sender<()>,
}

struct Inner {
    store: Store,
    /// Forgotten versions are refused by the status of the response instead of an event.
    gone_at_once: bool,
    /// Objects per page of a list.
    page: usize,
    /// Verb (empty: all), part of the URI, and reply. The last rule that matches a request applies.
    rules: Vec<(String, String, Reply)>,
    /// The bearer token that requests need; `None`: none.
    token: Option<String>,
    /// Number of watches that were answered.
    watches: usize,
    cuts: u64,
    cut: Cut,
    requests: Vec<Request>,
}

/// A received request.
struct Request {
    verb: &'static str,
    /// With a subresource: `services/status`.
    resource: String,
    name: String,
    uri: String,
}

impl ApiServer {
    /// A server without objects on a free port.
    pub(crate) async fn start() -> Self {
        let state = Inner {
            store: Store::new(),
            gone_at_once: false,
            page: usize::MAX,
            rules: Vec::new(),
            token: None,
            watches: 0,
            cuts: 0,
            cut: Cut::Orderly,
            requests: Vec::new(),
        };
        let world = World {
            state: Mutex::new(state),
            changed: watch::channel(()).0,
        };
        let mut server = Self {
            world: Arc::new(world),
            address: ([127, 0, 0, 1], 0).into(),
            listening: None,
        };
        server.listen().await;
        server
    }

    /// Accepts connections, after the first time at the same port.
    pub(crate) async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let routes = respond::routes(Arc::clone(&self.world));
        self.listening = Some(tokio::spawn(async move {
            axum::serve(listener, routes).await.unwrap();
        }));
    }

    /// Refuses new connections and breaks open watches.
    pub(crate) async fn disappear(&mut self) {
        let listening = self.listening.take().unwrap();
        listening.abort();
        listening.await.ok();
        self.cut(Cut::Broken);
    }

    /// The configuration of a client in namespace `web`.
    pub(crate) fn config(&self) -> kube::Config {
        let mut config = kube::Config::new(format!("http://{}", self.address).parse().unwrap());
        config.default_namespace = "web".to_owned();
        config
    }

    /// Creates or replaces an object, which has `kind` and `metadata.name`, as another client.
    pub(crate) fn apply(&self, object: &Value) {
        self.change(|state| state.store.set(Key::of(object), Some(object.clone())));
    }

    /// Deletes an object as another client.
    pub(crate) fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let key = Key::new(resource, namespace, name);
        self.change(|state| {
            assert!(state.store.get(&key).is_some(), "{key:?} is there");
            state.store.set(key, None)
        });
    }

    /// The first object of `resource` called `name`, in any namespace.
    pub(crate) fn object(&self, resource: &str, name: &str) -> Option<Value> {
        let state = self.world.state.lock().unwrap();
        let mut objects = state.store.objects();
        let found = objects.find(|(key, _)| key.resource == resource && key.name == name);
        found.map(|(_, object)| object.clone())
    }

    /// All objects of `resource`.
    pub(crate) fn objects(&self, resource: &str) -> Vec<Value> {
        let state = self.world.state.lock().unwrap();
        let objects = state.store.objects();
        let objects = objects.filter(|(key, _)| key.resource == resource);
        objects.map(|(_, object)| object.clone()).collect()
    }

    /// Sends watches of `resource` in `namespace` a bookmark with the newest version.
    pub(crate) fn bookmark(&self, resource: &str, namespace: &str) {
        self.change(|state| state.store.bookmark(resource, namespace));
    }

    /// Rejects requests without this bearer token.
    pub(crate) fn demand(&self, token: &str) {
        self.change(|state| state.token = Some(token.to_owned()));
    }

    /// Forgets the changes until now, so that watches from an earlier version have to list again.
    pub(crate) fn compact(&self, gone_at_once: bool) {
        self.change(|state| {
            state.store.compact();
            state.gone_at_once = gone_at_once;
        });
    }

    /// Ends all running watches, once all their events are sent.
    pub(crate) fn cut(&self, cut: Cut) {
        self.change(|state| {
            state.cuts += 1;
            state.cut = cut;
        });
    }

    /// Sets the reply to requests with `verb` (`list`, `watch`, `create`, `patch` or `delete`) whose URI contains `part`.
    pub(crate) fn reply(&self, verb: &str, part: &str, reply: Reply) {
        self.change(|state| state.rules.push((verb.to_owned(), part.to_owned(), reply)));
    }

    /// Divides lists into pages of `size` objects.
    pub(crate) fn page(&self, size: usize) {
        self.change(|state| state.page = size);
    }

    /// The URIs of all requests that contain `part`.
    pub(crate) fn requests(&self, part: &str) -> Vec<String> {
        let state = self.world.state.lock().unwrap();
        let uris = state.requests.iter().map(|request| &request.uri);
        uris.filter(|uri| uri.contains(part)).cloned().collect()
    }

    /// The names in all requests with `verb` for `resource`.
    pub(crate) fn names(&self, verb: &str, resource: &str) -> Vec<String> {
        let state = self.world.state.lock().unwrap();
        let requests = state.requests.iter();
        requests
            .filter(|request| request.verb == verb && request.resource == resource)
            .map(|request| request.name.clone())
            .collect()
    }

    /// Waits until `count` requests contain `part`, and returns the URI of the last one.
    pub(crate) async fn requested(&self, part: &str, count: usize) -> String {
        let found = |server: &Self| server.requests(part).into_iter().nth(count - 1);
        self.wait(&format!("{count} requests with {part}"), found).await
    }

    /// Waits until `count` watches were answered, so that they can be cut.
    pub(crate) async fn watching(&self, count: usize) {
        let found = |server: &Self| (server.world.state.lock().unwrap().watches >= count).then_some(());
        self.wait(&format!("{count} watches"), found).await;
    }

    /// Waits until `found` returns a value; it is called after each change.
    pub(crate) async fn wait<T>(&self, what: &str, found: impl Fn(&Self) -> Option<T>) -> T {
        let mut changed = self.world.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = found(self) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(LIMIT, waiting).await;
        waited.unwrap_or_else(|_| panic!("no {what}; requests so far: {:?}", self.requests("")))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        self.world.change(change)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

impl World {
    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let changed = change(&mut self.state.lock().unwrap());
        self.changed.send_replace(());
        changed
    }

    /// The reply to a request, as soon as it is not silent.
    async fn reply(&self, verb: &str, uri: &str) -> Reply {
        let mut changed = self.changed.subscribe();
        loop {
            let reply = {
                let state = self.state.lock().unwrap();
                let mut rules = state.rules.iter().rev();
                let found = rules.find(|(of, part, _)| (of.is_empty() || of == verb) && uri.contains(part));
                found.map_or(Reply::Good, |(.., reply)| *reply)
            };
            if reply != Reply::Silent {
                return reply;
            }
            changed.changed().await.unwrap();
        }
    }
}
