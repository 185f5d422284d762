//! An API server on loopback that accepts writes of any kind in namespaces, and rejects what a test says.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{OriginalUri, Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The code of [`ApiServer::refuse`] for requests that are never answered.
pub(super) const SILENT: u16 = 1;

/// Resource, namespace and name.
type Key = (String, String, String);

pub(super) struct ApiServer {
    world: Arc<World>,
    address: SocketAddr,
    listening: JoinHandle<()>,
}

#[derive(Default)]
struct World {
    state: Mutex<Inner>,
    /// Notified of each change of the state.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, Value>,
    version: u64,
    history: Vec<Change>,
    /// By verb, resource and namespace (empty: all).
    refused: HashMap<(String, String, String), u16>,
    /// Verb, resource and name.
    requests: Vec<(String, String, String)>,
}

/// One change of an object, which had version `at` afterwards.
struct Change {
    at: u64,
    key: Key,
    before: Option<Value>,
    after: Option<Value>,
}

impl ApiServer {
    pub(super) async fn start() -> Self {
        let world = Arc::new(World::default());
        world.state.lock().unwrap().version = 100;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().fallback(respond).with_state(Arc::clone(&world));
        let listening = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            world,
            address,
            listening,
        }
    }

    pub(super) fn config(&self) -> kube::Config {
        kube::Config::new(format!("http://{}", self.address).parse().unwrap())
    }

    /// Rejects `verb` of `resource` with `code` from now on; [`SILENT`] for no response at all, 0 to accept again.
    pub(super) fn refuse(&self, verb: &str, resource: &str, code: u16) {
        self.refuse_in("", verb, resource, code);
    }

    /// As [`Self::refuse`], in one namespace.
    pub(super) fn refuse_in(&self, namespace: &str, verb: &str, resource: &str, code: u16) {
        let mut state = self.world.state.lock().unwrap();
        let key = [verb, resource, namespace].map(str::to_owned).into();
        state.refused.insert(key, code);
    }

    pub(super) fn object(&self, resource: &str, name: &str) -> Option<Value> {
        let state = self.world.state.lock().unwrap();
        let mut objects = state.objects.iter();
        objects
            .find(|((of, _, called), _)| of == resource && called == name)
            .map(|(_, object)| object.clone())
    }

    pub(super) fn objects(&self, resource: &str) -> Vec<Value> {
        let state = self.world.state.lock().unwrap();
        let objects = state.objects.iter().filter(|((of, ..), _)| of == resource);
        objects.map(|(_, object)| object.clone()).collect()
    }

    /// ApiCalls as somebody else.
    pub(super) fn put(&self, resource: &str, object: Value) {
        let text = |key: &str| object["metadata"][key].as_str().unwrap().to_owned();
        let key = (resource.to_owned(), text("namespace"), text("name"));
        self.world.state.lock().unwrap().set(key, Some(object));
        self.world.changed.send_replace(());
    }

    /// Deletes as another client.
    pub(super) fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.world.state.lock().unwrap().set(key, None);
        self.world.changed.send_replace(());
    }

    /// Requests of `verb` for `resource` so far, by name.
    pub(super) fn requests(&self, verb: &str, resource: &str) -> Vec<String> {
        let state = self.world.state.lock().unwrap();
        let requests = state.requests.iter();
        requests
            .filter(|(of, what, _)| of == verb && what == resource)
            .map(|(.., name)| name.clone())
            .collect()
    }

    /// Waits until `found` returns something, checked after each change.
    pub(super) async fn wait<T>(&self, what: &str, found: impl Fn(&Self) -> Option<T>) -> T {
        let mut changed = self.world.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = found(self) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, waiting)
            .await
            .unwrap_or_else(|_| panic!("timed out waiting for {what}"))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Inner {
    /// ApiCalls an object, or deletes it.
    fn set(&mut self, key: Key, object: Option<Value>) -> Value {
        self.version += 1;
        let before = self.objects.remove(&key);
        let after = object.map(|mut object| {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            object
        });
        if let Some(after) = &after {
            self.objects.insert(key.clone(), after.clone());
        }
        let written = after.clone().or_else(|| before.clone()).unwrap_or_default();
        self.history.push(Change {
            at: self.version,
            key,
            before,
            after,
        });
        written
    }
}

impl Change {
    /// As a watch event of those that `matches`.
    fn event(&self, matches: impl Fn(&Value) -> bool) -> Option<Value> {
        let was = self.before.as_ref().filter(|object| matches(object));
        let is = self.after.as_ref().filter(|object| matches(object));
        let (kind, object) = match (was, is) {
            (None, None) => return None,
            (None, Some(object)) => ("ADDED", object),
            (Some(_), Some(object)) => ("MODIFIED", object),
            (Some(object), None) => ("DELETED", object),
        };
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = json!(self.at.to_string());
        Some(json!({"type": kind, "object": object}))
    }
}

/// The target of a request: `/api/v1/namespaces/web/services/finance/status`.
struct Target {
    api_version: String,
    resource: String,
    namespace: String,
    name: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Self {
        let (api_version, rest) = path
            .trim_start_matches("/apis/")
            .trim_start_matches("/api/")
            .split_once("/namespaces/")
            .unwrap_or_else(|| panic!("{path} is not in a namespace"));
        let mut parts = rest.split('/').map(str::to_owned);
        let namespace = parts.next().unwrap();
        let resource = parts.next().unwrap();
        let name = parts.next();
        let resource = match parts.next() {
            Some(part) => format!("{resource}/{part}"),
            None => resource,
        };
        Self {
            api_version: api_version.to_owned(),
            resource,
            namespace,
            name,
        }
    }

    /// Of an object, or of what its status belongs to.
    fn key(&self, name: &str) -> Key {
        let resource = self.resource.split('/').next().unwrap();
        (resource.to_owned(), self.namespace.clone(), name.to_owned())
    }
}

async fn respond(
    State(world): State<Arc<World>>,
    method: Method,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    let target = Target::parse(uri.path());
    let is_watch = query.contains_key("watch");
    let verb = match method {
        Method::GET if is_watch => "watch",
        Method::GET => "list",
        Method::POST => "create",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        other => panic!("unexpected method {other}"),
    };
    let object: Value = serde_json::from_slice(&body).unwrap_or_default();
    let name = target.name.clone().unwrap_or_else(|| {
        let name = object["metadata"]["name"].as_str();
        name.unwrap_or_default().to_owned()
    });
    let refused = {
        let mut state = world.state.lock().unwrap();
        let code = |namespace: &str| {
            let key = [verb, &target.resource, namespace].map(str::to_owned).into();
            state.refused.get(&key).copied().filter(|code| *code != 0)
        };
        let code = code(&target.namespace).or_else(|| code("")).unwrap_or(0);
        let request = [verb, &target.resource, &name].map(str::to_owned).into();
        state.requests.push(request);
        code
    };
    world.changed.send_replace(());
    if refused == SILENT {
        return std::future::pending().await;
    }
    if refused != 0 {
        return refusal(refused);
    }
    let selector = query.get("labelSelector").cloned().unwrap_or_default();
    match verb {
        "list" => list(&world, &target, &selector),
        "watch" => {
            let version = query["resourceVersion"].parse().unwrap();
            follow(world, target, selector, version)
        }
        _ => {
            let merge = headers["content-type"]
                .to_str()
                .unwrap_or_default()
                .contains("merge-patch");
            let done = write(
                &mut world.state.lock().unwrap(),
                &target,
                &name,
                verb,
                merge,
                object,
            );
            world.changed.send_replace(());
            match done {
                Ok(object) => axum::Json(object).into_response(),
                Err(code) => refusal(code),
            }
        }
    }
}

fn matches(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| {
        let (key, value) = part.split_once('=').unwrap();
        object["metadata"]["labels"][key] == value
    })
}

fn list(world: &World, target: &Target, selector: &str) -> Response {
    let state = world.state.lock().unwrap();
    let objects = state.objects.iter();
    let items: Vec<_> = objects
        .filter(|((resource, namespace, _), object)| {
            *resource == target.resource && *namespace == target.namespace && matches(object, selector)
        })
        .map(|(_, object)| object)
        .collect();
    axum::Json(json!({
        "apiVersion": target.api_version,
        "kind": "List",
        "metadata": {"resourceVersion": state.version.to_string()},
        "items": items,
    }))
    .into_response()
}

fn follow(world: Arc<World>, target: Target, selector: String, version: u64) -> Response {
    let changed = world.changed.subscribe();
    let start = (world, target, selector, version, changed);
    let lines = stream::unfold(
        start,
        |(world, target, selector, mut version, mut changed)| async move {
            loop {
                changed.mark_unchanged();
                let next = {
                    let state = world.state.lock().unwrap();
                    let known = version;
                    let mut changes = state.history.iter().filter(|change| change.at > known);
                    changes.find_map(|change| {
                        version = change.at;
                        let here = change.key.0 == target.resource && change.key.1 == target.namespace;
                        change.event(|object| here && matches(object, &selector))
                    })
                };
                if let Some(event) = next {
                    let line = Ok::<_, std::io::Error>(format!("{event}\n"));
                    return Some((line, (world, target, selector, version, changed)));
                }
                changed.changed().await.ok()?;
            }
        },
    );
    Body::from_stream(lines).into_response()
}

/// Performs a write. Errors: the code to reject it with.
fn write(
    state: &mut Inner,
    target: &Target,
    name: &str,
    verb: &str,
    merge: bool,
    object: Value,
) -> Result<Value, u16> {
    let key = target.key(name);
    let before = state.objects.get(&key).cloned();
    match verb {
        "create" if before.is_some() => Err(409),
        "create" => Ok(state.set(key, Some(object))),
        "delete" => {
            before.ok_or(404_u16)?;
            Ok(state.set(key, None))
        }
        _ => {
            // Apply creates; a merge, and a status, needs the object to exist.
            let may_create = !merge && !target.resource.contains('/');
            let mut after = match before {
                Some(before) => before,
                None if may_create => json!({}),
                None => return Err(404),
            };
            let version = object["metadata"]["resourceVersion"].as_str();
            if version.is_some_and(|version| after["metadata"]["resourceVersion"] != version) {
                return Err(409);
            }
            put_over(&mut after, &object);
            Ok(state.set(key, Some(after)))
        }
    }
}

/// JSON merge patch (RFC 7396): null removes, lists are replaced.
fn put_over(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            put_over(&mut target[key.as_str()], value);
        }
    }
}

fn refusal(code: u16) -> Response {
    let status = json!({
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": format!("it is {code}"),
        "reason": "Because",
        "code": code,
    });
    (StatusCode::from_u16(code).unwrap(), axum::Json(status)).into_response()
}
