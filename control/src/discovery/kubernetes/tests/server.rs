//! An API server on loopback that knows pods only and does what a test tells it, also what a real one
//! does only on a bad day.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, Path, Query, State};
use axum::http::StatusCode;
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
    /// Not at all, until that changes.
    Silent,
}

/// How running watches end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// As at their time limit.
    Orderly,
    /// In the middle of what was said.
    Broken,
}

pub(super) struct ApiServer {
    world: Arc<World>,
    address: SocketAddr,
    listening: Option<JoinHandle<()>>,
}

struct World {
    state: Mutex<Inner>,
    /// Told of each change of the state.
    changed: watch::Sender<()>,
}

struct Inner {
    pods: BTreeMap<(String, String), Value>,
    version: u64,
    /// What watches are told: namespace, version, event.
    history: Vec<(String, u64, Value)>,
    /// Versions before this one are forgotten.
    oldest: u64,
    /// Forgotten versions are refused by the answer's status, not by an event.
    gone_at_once: bool,
    page: usize,
    lists: HashMap<String, Reply>,
    watches: Reply,
    /// Watches so far that were answered.
    begun: usize,
    cuts: u64,
    cut: Cut,
    requests: Vec<String>,
}

impl ApiServer {
    pub(super) async fn start() -> Self {
        let state = Inner {
            pods: BTreeMap::new(),
            version: 100,
            history: Vec::new(),
            oldest: 0,
            gone_at_once: false,
            page: usize::MAX,
            lists: HashMap::new(),
            watches: Reply::Good,
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
            .route("/api/v1/pods", get(all_pods))
            .route("/api/v1/namespaces/{namespace}/pods", get(namespaced_pods))
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

    pub(super) fn apply(&self, pod: &Value) {
        self.change(|state| state.apply(pod.clone()));
    }

    pub(super) fn delete(&self, namespace: &str, name: &str) {
        self.change(|state| {
            let pod = state
                .pods
                .remove(&(namespace.to_owned(), name.to_owned()))
                .unwrap();
            state.tell(namespace, "DELETED", pod);
        });
    }

    /// Tells watches the newest version and nothing else.
    pub(super) fn bookmark(&self, namespace: &str) {
        self.change(|state| {
            state.tell(namespace, "BOOKMARK", json!({"metadata": {}}));
        });
    }

    /// Forgets what happened before now, so that watches of then have to list again.
    pub(super) fn compact(&self, gone_at_once: bool) {
        self.change(|state| {
            state.oldest = state.version;
            state.gone_at_once = gone_at_once;
        });
    }

    /// Ends all running watches once they have told everything.
    pub(super) fn cut(&self, cut: Cut) {
        self.change(|state| {
            state.cuts += 1;
            state.cut = cut;
        });
    }

    /// How lists of `namespace` are answered from now on.
    pub(super) fn lists(&self, namespace: &str, reply: Reply) {
        self.change(|state| {
            state.lists.insert(namespace.to_owned(), reply);
        });
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
    pub(super) async fn asked(&self, part: &str, count: usize) -> String {
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
        waited.unwrap_or_else(|_| panic!("only these were asked: {:?}", self.requests("")))
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
    fn apply(&mut self, pod: Value) {
        let text = |key: &str| pod["metadata"][key].as_str().unwrap().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let kind = if self.pods.contains_key(&(namespace.clone(), name.clone())) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let pod = self.tell(&namespace, kind, pod);
        self.pods.insert((namespace, name), pod);
    }

    fn tell(&mut self, namespace: &str, kind: &str, mut object: Value) -> Value {
        self.version += 1;
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Pod");
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let event = json!({"type": kind, "object": object});
        self.history.push((namespace.to_owned(), self.version, event));
        object
    }

    /// What a watch of `namespace` that knows `version` is to be told next.
    fn after(&self, namespace: Option<&str>, version: u64) -> Option<(u64, Value)> {
        if version < self.oldest {
            return Some((u64::MAX, json!({"type": "ERROR", "object": status(410)})));
        }
        let mut events = self.history.iter();
        let (_, version, event) =
            events.find(|(of, at, _)| *at > version && namespace.is_none_or(|name| name == of))?;
        Some((*version, event.clone()))
    }
}

async fn all_pods(
    world: State<Arc<World>>,
    uri: OriginalUri,
    query: Query<HashMap<String, String>>,
) -> Response {
    answer(world.0, None, uri, query.0).await
}

async fn namespaced_pods(
    world: State<Arc<World>>,
    Path(namespace): Path<String>,
    uri: OriginalUri,
    query: Query<HashMap<String, String>>,
) -> Response {
    answer(world.0, Some(namespace), uri, query.0).await
}

async fn answer(
    world: Arc<World>,
    namespace: Option<String>,
    OriginalUri(uri): OriginalUri,
    query: HashMap<String, String>,
) -> Response {
    world.change(|state| state.requests.push(uri.to_string()));
    if query.contains_key("watch") {
        watch_pods(world, namespace, &query).await
    } else {
        list_pods(world, namespace, &query).await
    }
}

async fn list_pods(
    world: Arc<World>,
    namespace: Option<String>,
    query: &HashMap<String, String>,
) -> Response {
    let reply = |state: &Inner| {
        let reply = state.lists.get(namespace.as_deref().unwrap_or_default());
        reply.copied().unwrap_or(Reply::Good)
    };
    if let Reply::Refused(code) = world.reply(reply).await {
        return refused(code);
    }
    let first: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
    let state = world.state.lock().unwrap();
    let pods: Vec<_> = state
        .pods
        .iter()
        .filter(|((of, _), _)| namespace.as_ref().is_none_or(|name| name == of))
        .map(|(_, pod)| pod)
        .collect();
    let last = pods.len().min(first.saturating_add(state.page));
    let more = if last < pods.len() {
        last.to_string()
    } else {
        String::new()
    };
    axum::Json(json!({
        "apiVersion": "v1",
        "kind": "PodList",
        "metadata": {"resourceVersion": state.version.to_string(), "continue": more},
        "items": pods[first..last],
    }))
    .into_response()
}

async fn watch_pods(
    world: Arc<World>,
    namespace: Option<String>,
    query: &HashMap<String, String>,
) -> Response {
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
        (world, namespace, version, changed),
        move |(world, namespace, version, mut changed)| async move {
            loop {
                changed.mark_unchanged();
                {
                    let state = world.state.lock().unwrap();
                    let cut = (state.cuts > cuts).then_some(state.cut);
                    if version == u64::MAX
                        || (cut == Some(Cut::Orderly) && state.after(namespace.as_deref(), version).is_none())
                    {
                        return None;
                    }
                    if cut == Some(Cut::Broken) {
                        drop(state);
                        return Some((
                            Err(io::Error::other("cut")),
                            (world, namespace, u64::MAX, changed),
                        ));
                    }
                    if let Some((version, event)) = state.after(namespace.as_deref(), version) {
                        drop(state);
                        return Some((Ok(format!("{event}\n")), (world, namespace, version, changed)));
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
