//! A scripted API server on loopback for a few kinds of objects. It can fail in the ways of a real one.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How lists or watches are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Good,
    /// With a status of this code.
    Refused(u16),
    /// Not at all, until the reply changes.
    Silent,
}

/// How running watches end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// As at their time limit.
    Orderly,
    /// In the middle of a response.
    Broken,
}

pub(super) struct ApiServer {
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
    objects: BTreeMap<Key, Value>,
    version: u64,
    /// Events for watches.
    history: Vec<(Scope, u64, Value)>,
    /// Versions before this one are forgotten.
    oldest: u64,
    /// Forgotten versions are refused by the answer's status, not by an event.
    gone_at_once: bool,
    page: usize,
    /// By what their path contains; the last that fits counts.
    lists: Vec<(String, Reply)>,
    watches: Reply,
    /// Without it every request is refused; none: all are taken.
    token: Option<String>,
    /// Watches so far that were answered.
    begun: usize,
    cuts: u64,
    cut: Cut,
    requests: Vec<String>,
}

/// Kind in the plural, and namespace; empty for objects of the cluster.
type Scope = (String, String);
/// And the name.
type Key = (Scope, String);

impl ApiServer {
    pub(super) async fn start() -> Self {
        let state = Inner {
            objects: BTreeMap::new(),
            version: 100,
            history: Vec::new(),
            oldest: 0,
            gone_at_once: false,
            page: usize::MAX,
            lists: Vec::new(),
            watches: Reply::Good,
            token: None,
            begun: 0,
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

    /// Takes connections, again at the same port.
    pub(super) async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/api/v1/{kind}", get(everywhere))
            .route("/api/v1/namespaces/{namespace}/{kind}", get(in_namespace))
            .route("/apis/{group}/v1/{kind}", get(everywhere_of_group))
            .route(
                "/apis/{group}/v1/namespaces/{namespace}/{kind}",
                get(in_namespace_of_group),
            )
            .with_state(Arc::clone(&self.world));
        self.listening = Some(tokio::spawn(async move {
            axum::serve(listener, routes).await.unwrap()
        }));
    }

    /// Refuses new connections and ends those there are.
    pub(super) async fn refuse(&mut self) {
        let listening = self.listening.take().unwrap();
        listening.abort();
        listening.await.ok();
        self.cut(Cut::Broken);
    }

    pub(super) fn config(&self) -> kube::Config {
        let mut config = kube::Config::new(format!("http://{}", self.address).parse().unwrap());
        config.default_namespace = "web".to_owned();
        config
    }

    pub(super) fn apply(&self, object: &Value) {
        self.change(|state| state.apply(object.clone()));
    }

    /// Deletes a pod.
    pub(super) fn delete(&self, namespace: &str, name: &str) {
        self.delete_object("pods", namespace, name);
    }

    pub(super) fn delete_object(&self, kind: &str, namespace: &str, name: &str) {
        let scope = (kind.to_owned(), namespace.to_owned());
        self.change(|state| {
            let object = state.objects.remove(&(scope.clone(), name.to_owned())).unwrap();
            state.emit(&scope, "DELETED", object);
        });
    }

    /// Sends watches of pods a bookmark with the newest version.
    pub(super) fn bookmark(&self, namespace: &str) {
        let scope = ("pods".to_owned(), namespace.to_owned());
        self.change(|state| {
            let nothing = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}});
            state.emit(&scope, "BOOKMARK", nothing);
        });
    }

    /// Takes requests with this bearer token only.
    pub(super) fn demand(&self, token: &str) {
        self.change(|state| state.token = Some(token.to_owned()));
    }

    /// Forgets what happened before now, so that watches of then have to list again.
    pub(super) fn compact(&self, gone_at_once: bool) {
        self.change(|state| {
            state.oldest = state.version;
            state.gone_at_once = gone_at_once;
        });
    }

    /// Ends all running watches once all their events are sent.
    pub(super) fn cut(&self, cut: Cut) {
        self.change(|state| {
            state.cuts += 1;
            state.cut = cut;
        });
    }

    /// How lists whose path contains `part` are answered from now on.
    pub(super) fn lists(&self, part: &str, reply: Reply) {
        self.change(|state| state.lists.push((part.to_owned(), reply)));
    }

    /// How watches are answered from now on.
    pub(super) fn watches(&self, reply: Reply) {
        self.change(|state| state.watches = reply);
    }

    /// Lists are answered in pages of `size` pods.
    pub(super) fn page(&self, size: usize) {
        self.change(|state| state.page = size);
    }

    /// Waits until `count` requests contain `part`, and returns the last one of them.
    pub(super) async fn requested(&self, part: &str, count: usize) -> String {
        self.wait(|| self.requests(part).into_iter().nth(count - 1)).await
    }

    /// Waits until `count` watches were answered, so that the last of them can be cut.
    pub(super) async fn watching(&self, count: usize) {
        let begun = || self.world.state.lock().unwrap().begun;
        self.wait(|| (begun() >= count).then_some(())).await;
    }

    /// Waits until `found` finds something.
    async fn wait<T>(&self, found: impl Fn() -> Option<T>) -> T {
        let mut changed = self.world.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = found() {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        let limit = std::time::Duration::from_secs(20);
        let waited = tokio::time::timeout(limit, waiting).await;
        waited.unwrap_or_else(|_| panic!("requests so far: {:?}", self.requests("")))
    }

    /// Requests so far that contain `part`.
    pub(super) fn requests(&self, part: &str) -> Vec<String> {
        let state = self.world.state.lock().unwrap();
        let requests = state.requests.iter();
        requests
            .filter(|request| request.contains(part))
            .cloned()
            .collect()
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        self.world.change(change);
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

    /// Waits until `reply` is not silent, and returns it.
    async fn reply(&self, reply: impl Fn(&Inner) -> Reply) -> Reply {
        let mut changed = self.changed.subscribe();
        loop {
            let now = reply(&self.state.lock().unwrap());
            if now != Reply::Silent {
                return now;
            }
            changed.changed().await.unwrap();
        }
    }
}

impl Inner {
    fn apply(&mut self, object: Value) {
        let scope = scope(&object);
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (scope.clone(), name);
        let kind = if self.objects.contains_key(&key) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let object = self.emit(&scope, kind, object);
        self.objects.insert(key, object);
    }

    fn emit(&mut self, scope: &Scope, kind: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let event = json!({"type": kind, "object": object});
        self.history.push((scope.clone(), self.version, event));
        object
    }

    /// The next event for a watch at `version`.
    fn after(&self, target: &Target, version: u64) -> Option<(u64, Value)> {
        if version < self.oldest {
            return Some((u64::MAX, json!({"type": "ERROR", "object": status(410)})));
        }
        let seen = self.history.partition_point(|(_, at, _)| *at <= version);
        let mut events = self.history[seen..].iter();
        let (_, version, event) = events.find(|(scope, ..)| target.covers(scope))?;
        Some((*version, event.clone()))
    }
}

/// Where an object is, by its kind and namespace.
fn scope(object: &Value) -> Scope {
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    (format!("{kind}s"), namespace.to_owned())
}

/// The collection that a request names.
struct Target {
    kind: String,
    /// `None`: everywhere.
    namespace: Option<String>,
    path: String,
}

impl Target {
    fn covers(&self, (kind, namespace): &Scope) -> bool {
        *kind == self.kind && self.namespace.as_ref().is_none_or(|target| target == namespace)
    }
}

type Questions = Query<HashMap<String, String>>;

async fn everywhere(world: State<Arc<World>>, Path(kind): Path<String>, request: Request) -> Response {
    answer(world.0, kind, None, request).await
}

async fn in_namespace(
    world: State<Arc<World>>,
    Path((namespace, kind)): Path<(String, String)>,
    request: Request,
) -> Response {
    answer(world.0, kind, Some(namespace), request).await
}

async fn everywhere_of_group(
    world: State<Arc<World>>,
    Path((_, kind)): Path<(String, String)>,
    request: Request,
) -> Response {
    answer(world.0, kind, None, request).await
}

async fn in_namespace_of_group(
    world: State<Arc<World>>,
    Path((_, namespace, kind)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    answer(world.0, kind, Some(namespace), request).await
}

async fn answer(world: Arc<World>, kind: String, namespace: Option<String>, request: Request) -> Response {
    let path = request.uri().to_string();
    let Query(query) = Questions::try_from_uri(request.uri()).unwrap();
    let token = request.headers().get(header::AUTHORIZATION);
    let token = token.map(|token| token.to_str().unwrap().trim_start_matches("Bearer ").to_owned());
    let refuses = world.change(|state| {
        state.requests.push(path.clone());
        state.token.is_some() && state.token != token
    });
    if refuses {
        return refused(401);
    }
    let target = Target {
        kind,
        namespace,
        path,
    };
    if query.contains_key("watch") {
        watch_objects(world, target, &query).await
    } else {
        list_objects(world, target, &query).await
    }
}

async fn list_objects(world: Arc<World>, target: Target, query: &HashMap<String, String>) -> Response {
    let reply = |state: &Inner| {
        let mut lists = state.lists.iter().rev();
        let found = lists.find(|(part, _)| target.path.contains(part));
        found.map_or(Reply::Good, |(_, reply)| *reply)
    };
    if let Reply::Refused(code) = world.reply(reply).await {
        return refused(code);
    }
    let first: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
    let state = world.state.lock().unwrap();
    let objects = state.objects.iter();
    let objects: Vec<_> = objects
        .filter(|((scope, _), _)| target.covers(scope))
        .map(|(_, object)| object)
        .collect();
    let last = objects.len().min(first.saturating_add(state.page));
    let more = if last < objects.len() {
        last.to_string()
    } else {
        String::new()
    };
    axum::Json(json!({
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {"resourceVersion": state.version.to_string(), "continue": more},
        "items": objects[first..last],
    }))
    .into_response()
}

async fn watch_objects(world: Arc<World>, target: Target, query: &HashMap<String, String>) -> Response {
    if let Reply::Refused(code) = world.reply(|state| state.watches).await {
        return refused(code);
    }
    let version: u64 = query["resourceVersion"].parse().unwrap();
    let begun = world.change(|state| {
        state.begun += 1;
        (!state.gone_at_once || version >= state.oldest).then_some(state.cuts)
    });
    let Some(cuts) = begun else {
        return refused(410);
    };
    let changed = world.changed.subscribe();
    let lines = stream::unfold(
        (world, target, version, changed),
        move |(world, target, version, mut changed)| async move {
            loop {
                changed.mark_unchanged();
                {
                    let state = world.state.lock().unwrap();
                    let cut = (state.cuts > cuts).then_some(state.cut);
                    if version == u64::MAX
                        || (cut == Some(Cut::Orderly) && state.after(&target, version).is_none())
                    {
                        return None;
                    }
                    if cut == Some(Cut::Broken) {
                        drop(state);
                        return Some((Err(io::Error::other("cut")), (world, target, u64::MAX, changed)));
                    }
                    if let Some((version, event)) = state.after(&target, version) {
                        drop(state);
                        return Some((Ok(format!("{event}\n")), (world, target, version, changed)));
                    }
                }
                changed.changed().await.unwrap();
            }
        },
    );
    Body::from_stream(lines).into_response()
}

fn status(code: u16) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        410 => "Expired",
        _ => "InternalError",
    };
    json!({
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": format!("it is {reason}"),
        "reason": reason,
        "code": code,
    })
}

fn refused(code: u16) -> Response {
    (StatusCode::from_u16(code).unwrap(), axum::Json(status(code))).into_response()
}
