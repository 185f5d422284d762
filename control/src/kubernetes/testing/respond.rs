//! Requests and their responses.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{OriginalUri, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};

use super::store::{Key, Store};
use super::{Cut, Inner, Reply, Request, World};
use crate::config::Selector;

pub(super) fn routes(world: Arc<World>) -> Router {
    Router::new().fallback(respond).with_state(world)
}

/// The objects of a request: `/api/v1/namespaces/web/services/finance/status`.
struct Target {
    api_version: String,
    /// With a subresource: `services/status`.
    resource: String,
    /// `None`: all namespaces, or objects of the cluster.
    namespace: Option<String>,
    name: Option<String>,
    selector: Option<Selector>,
}

impl Target {
    fn parse(path: &str, query: &HashMap<String, String>) -> Self {
        let mut parts: Vec<&str> = path.split('/').skip(1).collect();
        let group = if parts.remove(0) == "apis" { 2 } else { 1 };
        let api_version = parts.drain(..group).collect::<Vec<_>>().join("/");
        let namespace = (parts[0] == "namespaces").then(|| parts.drain(..2).nth(1).unwrap().to_owned());
        let resource = match parts.get(2) {
            Some(subresource) => format!("{}/{subresource}", parts[0]),
            None => parts[0].to_owned(),
        };
        let selector = query.get("labelSelector").filter(|text| !text.is_empty());
        Self {
            api_version,
            resource,
            namespace,
            name: parts.get(1).map(|&name| name.to_owned()),
            selector: selector.map(|text| Selector::parse(text).unwrap()),
        }
    }

    fn covers(&self, key: &Key) -> bool {
        let namespace = self.namespace.as_ref();
        key.resource == self.resource && namespace.is_none_or(|namespace| *namespace == key.namespace)
    }

    fn selects(&self, object: &Value) -> bool {
        self.selector.as_ref().is_none_or(|selector| {
            let labels: Option<BTreeMap<String, String>> =
                serde_json::from_value(object["metadata"]["labels"].clone()).unwrap();
            selector.matches(&labels.unwrap_or_default())
        })
    }

    /// The key of the object called `name`, which may be that of a subresource.
    fn key(&self, name: &str) -> Key {
        let resource = self.resource.split('/').next().unwrap();
        Key::new(resource, self.namespace.as_deref().unwrap_or_default(), name)
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
    let target = Target::parse(uri.path(), &query);
    let verb = match method {
        Method::GET if query.contains_key("watch") => "watch",
        Method::GET => "list",
        Method::POST => "create",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        other => panic!("unexpected method {other}"),
    };
    let header = |name| headers.get(name).map(|value| value.to_str().unwrap());
    let object: Value = serde_json::from_slice(&body).unwrap_or_default();
    let name = target.name.clone().unwrap_or_else(|| {
        let name = object["metadata"]["name"].as_str();
        name.unwrap_or_default().to_owned()
    });
    let uri = uri.to_string();
    let token = header(header::AUTHORIZATION).map(|token| token.trim_start_matches("Bearer "));
    let authorized = world.change(|state| {
        state.requests.push(Request {
            verb,
            resource: target.resource.clone(),
            name: name.clone(),
            uri: uri.clone(),
        });
        state.token.is_none() || state.token.as_deref() == token
    });
    if !authorized {
        return refused(401);
    }
    if let Reply::Refused(code) = world.reply(verb, &uri).await {
        return refused(code);
    }
    match verb {
        "list" => list(&world.state.lock().unwrap(), &target, &query),
        "watch" => follow(world, target, query["resourceVersion"].parse().unwrap()),
        _ => {
            let merge = header(header::CONTENT_TYPE).is_some_and(|kind| kind.contains("merge-patch"));
            let written = world.change(|state| write(&mut state.store, &target, &name, verb, merge, object));
            match written {
                Ok(object) => axum::Json(object).into_response(),
                Err(code) => refused(code),
            }
        }
    }
}

fn list(state: &Inner, target: &Target, query: &HashMap<String, String>) -> Response {
    let first: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
    let objects: Vec<_> = state
        .store
        .objects()
        .filter(|(key, object)| target.covers(key) && target.selects(object))
        .map(|(_, object)| object)
        .collect();
    let last = objects.len().min(first.saturating_add(state.page));
    let more = if last < objects.len() {
        last.to_string()
    } else {
        String::new()
    };
    axum::Json(json!({
        "apiVersion": target.api_version,
        "kind": "List",
        "metadata": {"resourceVersion": state.store.version().to_string(), "continue": more},
        "items": objects[first..last],
    }))
    .into_response()
}

fn follow(world: Arc<World>, target: Target, version: u64) -> Response {
    let begun = world.change(|state| {
        state.watches += 1;
        (!state.gone_at_once || state.store.remembers(version)).then_some(state.cuts)
    });
    let Some(cuts) = begun else {
        return refused(410);
    };
    let changed = world.changed.subscribe();
    let lines = stream::unfold(
        (world, target, Some(version), changed),
        move |(world, target, version, mut changed)| async move {
            // Ended by an error.
            let version = version?;
            loop {
                changed.mark_unchanged();
                let next = {
                    let state = world.state.lock().unwrap();
                    next_line(&state, &target, version, cuts)
                };
                match next {
                    Next::Line(line, version) => return Some((line, (world, target, version, changed))),
                    Next::End => return None,
                    Next::Wait => changed.changed().await.unwrap(),
                }
            }
        },
    );
    Body::from_stream(lines).into_response()
}

/// The next step of a watch.
enum Next {
    /// A line, and the version after it; `None`: the watch ends.
    Line(io::Result<String>, Option<u64>),
    End,
    Wait,
}

/// The next step of a watch that is at `version` and was begun after `cuts` cuts.
fn next_line(state: &Inner, target: &Target, version: u64, cuts: u64) -> Next {
    let cut = (state.cuts > cuts).then_some(state.cut);
    if cut == Some(Cut::Broken) {
        return Next::Line(Err(io::Error::other("cut")), None);
    }
    if !state.store.remembers(version) {
        let event = json!({"type": "ERROR", "object": status(410)});
        return Next::Line(Ok(format!("{event}\n")), None);
    }
    let covers = |key: &Key| target.covers(key);
    match state
        .store
        .after(version, covers, |object| target.selects(object))
    {
        Some((version, event)) => Next::Line(Ok(format!("{event}\n")), Some(version)),
        None if cut == Some(Cut::Orderly) => Next::End,
        None => Next::Wait,
    }
}

/// Performs a write. Errors: the code to reject it with.
fn write(
    store: &mut Store,
    target: &Target,
    name: &str,
    verb: &str,
    merge: bool,
    object: Value,
) -> Result<Value, u16> {
    let key = target.key(name);
    let before = store.get(&key).cloned();
    match verb {
        "create" if before.is_some() => Err(409),
        "create" => Ok(store.set(key, Some(object))),
        "delete" => {
            before.ok_or(404_u16)?;
            Ok(store.set(key, None))
        }
        _ => {
            // Apply creates the object; a merge and a status need an existing one.
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
            merge_patch(&mut after, &object);
            Ok(store.set(key, Some(after)))
        }
    }
}

/// JSON merge patch (RFC 7396): null removes, lists are replaced.
fn merge_patch(target: &mut Value, patch: &Value) {
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
            merge_patch(&mut target[key.as_str()], value);
        }
    }
}

fn refused(code: u16) -> Response {
    (StatusCode::from_u16(code).unwrap(), axum::Json(status(code))).into_response()
}

fn status(code: u16) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
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
