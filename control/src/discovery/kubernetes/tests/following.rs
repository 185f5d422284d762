//! The whole source against a scripted API server.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::{Accepted, Kubernetes, Refused};
use super::*;
use crate::discovery::{Desired, DesiredReceiver, Origin, Source, SourceStatus, StaticFile};
use crate::kubernetes::testing::{ApiServer, Cut, Reply};

const LIMIT: Duration = Duration::from_secs(30);

fn no_env(_: &str) -> Option<String> {
    None
}

/// Waits for a value for which `reached` holds; panics after `LIMIT`.
pub(super) async fn seen<T: Clone + std::fmt::Debug>(
    receiver: &mut watch::Receiver<T>,
    reached: impl FnMut(&T) -> bool,
) -> T {
    let waited = tokio::time::timeout(LIMIT, receiver.wait_for(reached)).await;
    let found = waited.map(|found| found.expect("the source runs").clone());
    found.unwrap_or_else(|_| panic!("not reached, the last is {:?}", receiver.borrow()))
}

pub(super) struct Following {
    pub(super) server: ApiServer,
    pub(super) desired: DesiredReceiver,
    pub(super) status: watch::Receiver<SourceStatus>,
    pub(super) file: watch::Receiver<SourceStatus>,
    pub(super) accepted: watch::Receiver<Arc<Vec<Accepted>>>,
    pub(super) refused: watch::Receiver<Arc<Vec<Refused>>>,
    task: JoinHandle<()>,
}

impl Following {
    pub(super) fn start(server: ApiServer, config: Config, path: Option<PathBuf>) -> Self {
        let client = server.config();
        Self::start_with(server, client, config, path, |source| source)
    }

    /// With credentials of its own, and a source that is `made` ready.
    pub(super) fn start_with(
        server: ApiServer,
        client: kube::Config,
        config: Config,
        path: Option<PathBuf>,
        made: impl FnOnce(Kubernetes<fn(&str) -> Option<String>>) -> Kubernetes<fn(&str) -> Option<String>>,
    ) -> Self {
        let (desired, desired_receiver) = watch::channel(None);
        let (status, status_receiver) = watch::channel(SourceStatus::new(Origin::Kubernetes));
        let (file, file_receiver) = watch::channel(SourceStatus::new(Origin::Static));
        let env: fn(&str) -> Option<String> = no_env;
        let static_file = StaticFile::new(path, env, Arc::new(config), Arc::default());
        let source = made(Kubernetes::new(static_file, file).with_server(client));
        Self {
            accepted: source.accepted(),
            refused: source.refused(),
            server,
            desired: desired_receiver,
            status: status_receiver,
            file: file_receiver,
            task: tokio::spawn(source.run(desired, status)),
        }
    }

    /// Follows pods for service finance in namespace `web`, which are these.
    async fn finance(pods: &[Value]) -> Self {
        let server = ApiServer::start().await;
        for pod in pods {
            server.apply(pod);
        }
        Self::start(server, config("{}", FINANCE), None)
    }

    /// Waits for a desired set for which `reached` holds.
    pub(super) async fn reached(&mut self, reached: impl Fn(&Option<Arc<Desired>>) -> bool) {
        let waited = tokio::time::timeout(LIMIT, self.desired.wait_for(reached)).await;
        let reached = matches!(waited, Ok(Ok(_)));
        drop(waited);
        assert!(
            reached,
            "last {:?}, {:?}",
            self.desired.borrow(),
            self.status.borrow()
        );
    }

    /// Waits until these are the backends of the first service.
    pub(super) async fn backends(&mut self, expected: &[&str]) {
        let reached = |desired: &Option<Arc<Desired>>| {
            desired
                .as_deref()
                .is_some_and(|desired| backends(desired) == expected)
        };
        let waited = tokio::time::timeout(LIMIT, self.desired.wait_for(reached)).await;
        let reached = matches!(waited, Ok(Ok(_)));
        drop(waited);
        if !reached {
            let last = self.desired.borrow().as_deref().map(backends);
            panic!("expected {expected:?}, last {last:?}, {:?}", self.status.borrow());
        }
    }

    pub(super) async fn status(&mut self, reached: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        seen(&mut self.status, |status| reached(status)).await
    }

    pub(super) async fn error(&mut self) -> String {
        self.status(|status| status.error.is_some()).await.error.unwrap()
    }

    pub(super) async fn synced(&mut self) -> SourceStatus {
        self.status(|status| status.synced && status.error.is_none())
            .await
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `host takes` of the backends of the first service, in order; `takes` only if it is not new flows.
fn backends(desired: &Desired) -> Vec<String> {
    let backends = desired.services.first().map(|service| &service.backends);
    let mut shown: Vec<_> = backends
        .into_iter()
        .flatten()
        .map(|backend| match backend.eligibility {
            crate::discovery::Eligibility::NewFlows => backend.address.to_string(),
            other => format!("{} {other:?}", backend.address),
        })
        .collect();
    shown.sort();
    shown
}

fn pods(count: u8) -> Vec<Value> {
    let pod = |number| ready(&format!("pod-{number}"), &format!("10.0.0.{number}"));
    (1..=count).map(pod).collect()
}

#[tokio::test]
async fn changes_of_pods_are_followed() {
    let mut following = Following::finance(&pods(2)).await;
    following.backends(&["10.0.0.1", "10.0.0.2"]).await;
    let [first, _, third] = &pods(3)[..] else {
        unreachable!()
    };

    following.server.apply(third);
    following.backends(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]).await;
    following.server.apply(&unready(first.clone()));
    following
        .backends(&["10.0.0.1 ExistingFlows", "10.0.0.2", "10.0.0.3"])
        .await;
    following.server.apply(first);
    following.server.delete("pods", "web", "pod-2");
    following.backends(&["10.0.0.1", "10.0.0.3"]).await;
    following
        .server
        .apply(&with(third.clone(), "/metadata/labels/app", json!("ledger")));
    following.backends(&["10.0.0.1"]).await;
    let status = following.synced().await;
    assert!(status.loaded.is_some() && status.errors.total() == 0 && status.events >= 6);
}

#[tokio::test]
async fn only_pods_are_requested_without_services_and_topology() {
    let server = ApiServer::start().await;
    let config = config("{namespaces: [api], labelSelector: '!canary'}", FINANCE);
    let mut following = Following::start(server, config, None);
    following.backends(&[]).await;
    let list = following.server.requested("/api/v1/namespaces/api/pods", 1).await;
    let selector = form_urlencoded::parse(list.split_once('?').unwrap().1.as_bytes())
        .find(|(key, _)| key == "labelSelector")
        .unwrap()
        .1
        .into_owned();
    assert_eq!(selector, "!canary");
    for kind in ["services", "endpointslices", "nodes"] {
        assert!(following.server.requests(kind).is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn all_namespaces_are_one_watch() {
    let server = ApiServer::start().await;
    server.apply(&with(
        ready("a", "10.0.0.1"),
        "/metadata/namespace",
        json!("other"),
    ));
    server.apply(&ready("b", "10.0.0.2"));
    let mut following = Following::start(server, config("{namespaces: all}", FINANCE_OF_ALL), None);
    following.backends(&["10.0.0.1", "10.0.0.2"]).await;
    assert_eq!(following.server.requests("/namespaces/").len(), 0);
}

#[tokio::test]
async fn pods_are_known_without_any_service() {
    let server = ApiServer::start().await;
    server.apply(&ready("a", "10.0.0.1"));
    let mut following = Following::start(server, config("{}", ""), None);
    following.synced().await;
    let known = |desired: &Option<Arc<Desired>>| {
        let desired = desired.as_deref();
        desired.is_some_and(|desired| desired.services.is_empty() && desired.instances.owners.len() == 1)
    };
    seen(&mut following.desired, known).await;
}

#[tokio::test]
async fn nothing_is_sent_before_every_namespace_is_listed() {
    let server = ApiServer::start().await;
    server.apply(&ready("a", "10.0.0.1"));
    server.reply("list", "/api/pods", Reply::Silent);
    let mut following = Following::start(server, config("{namespaces: [web, api]}", FINANCE_OF_ALL), None);
    // The list of one is complete when its watch begins.
    following.server.requested("/web/pods?&watch=true", 1).await;
    following.server.requested("/api/pods", 1).await;
    following.server.apply(&ready("b", "10.0.0.2"));
    following.status(|status| status.events >= 2).await;
    assert_eq!(*following.desired.borrow(), None);
    assert!(!following.status.borrow().synced);

    following.server.reply("list", "/api/pods", Reply::Good);
    following.backends(&["10.0.0.1", "10.0.0.2"]).await;
    following.synced().await;
}

#[tokio::test]
async fn nothing_is_sent_before_the_last_page() {
    let server = ApiServer::start().await;
    pods(5).iter().for_each(|pod| server.apply(pod));
    server.page(2);
    server.reply("list", "web", Reply::Silent);
    let mut following = Following::start(server, config("{}", FINANCE), None);
    following.server.requested("limit=500", 1).await;
    assert_eq!(*following.desired.borrow(), None);
    following.server.reply("list", "web", Reply::Good);
    following
        .backends(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"])
        .await;
    assert_eq!(following.server.requests("continue=").len(), 2);
}

#[tokio::test]
async fn the_last_set_stays_while_the_server_is_away() {
    let mut following = Following::finance(&pods(2)).await;
    following.backends(&["10.0.0.1", "10.0.0.2"]).await;
    let before = following.synced().await;
    following.server.watching(1).await;
    following.desired.mark_unchanged();
    following.server.disappear().await;
    let error = following.error().await;
    assert!(error.contains("watch pods in namespace web: "), "{error}");
    following.server.delete("pods", "web", "pod-1");
    let away = following.status(|status| status.errors.total() >= 2).await;
    assert!(!away.synced && away.loaded >= before.loaded);
    assert!(!following.desired.has_changed().unwrap());

    following.server.listen().await;
    following.backends(&["10.0.0.2"]).await;
    following.synced().await;
}

#[tokio::test]
async fn an_accepted_watch_clears_the_error_without_a_change() {
    let mut following = Following::finance(&pods(1)).await;
    following.backends(&["10.0.0.1"]).await;
    following.server.watching(1).await;
    following.server.reply("watch", "", Reply::Refused(500));
    following.server.cut(Cut::Orderly);
    assert_eq!(
        following.error().await,
        "watch pods in namespace web: 500 it is InternalError"
    );
    following.server.reply("watch", "", Reply::Good);
    following.synced().await;
    assert_eq!(following.server.requests("limit=").len(), 1, "one list");
}

#[tokio::test]
async fn a_broken_watch_resumes_at_its_version() {
    let mut following = Following::finance(&pods(1)).await;
    following.backends(&["10.0.0.1"]).await;
    following.server.watching(1).await;
    following.server.reply("watch", "", Reply::Silent);
    following.server.cut(Cut::Broken);
    following.server.requested("watch=true", 2).await;
    following.server.apply(&pods(2)[1]);
    following.server.reply("watch", "", Reply::Good);
    following.backends(&["10.0.0.1", "10.0.0.2"]).await;
    following.synced().await;
    assert_eq!(following.server.requests("limit=").len(), 1, "one list");
}

#[tokio::test]
async fn an_expired_version_causes_a_new_list() {
    for at_once in [false, true] {
        let mut following = Following::finance(&pods(2)).await;
        following.backends(&["10.0.0.1", "10.0.0.2"]).await;
        following.server.watching(1).await;
        following.server.reply("watch", "", Reply::Silent);
        following.server.cut(Cut::Orderly);
        following.server.requested("watch=true", 2).await;
        following.server.delete("pods", "web", "pod-1");
        following.server.compact(at_once);
        following.server.reply("watch", "", Reply::Good);
        following.backends(&["10.0.0.2"]).await;
        assert_eq!(following.server.requests("limit=").len(), 2, "two lists");
        let status = following.synced().await;
        assert_eq!(status.errors.total(), 0, "that is no fault");
    }
}

#[tokio::test]
async fn a_bookmark_avoids_a_new_list() {
    let mut following = Following::finance(&pods(1)).await;
    following.backends(&["10.0.0.1"]).await;
    following.server.watching(1).await;
    following.server.bookmark("pods", "web");
    following.server.cut(Cut::Orderly);
    following.server.watching(2).await;
    // What the watch goes on from is the bookmark, which is not forgotten.
    following.server.compact(false);
    following.server.cut(Cut::Orderly);
    following.server.watching(3).await;
    following.server.apply(&pods(2)[1]);
    following.backends(&["10.0.0.1", "10.0.0.2"]).await;
    assert_eq!(following.server.requests("limit=").len(), 1, "one list");
}

#[tokio::test]
async fn a_burst_of_changes_in_a_large_namespace_converges() {
    const COUNT: u16 = 2000;
    let server = ApiServer::start().await;
    let pod = |number: u16| {
        ready(
            &format!("pod-{number}"),
            &format!("10.0.{}.{}", number / 250, number % 250 + 1),
        )
    };
    (0..COUNT).for_each(|number| server.apply(&pod(number)));
    server.page(500);
    let mut following = Following::start(server, config("{}", FINANCE), None);
    let total = |count: usize| {
        move |desired: &Option<Arc<Desired>>| {
            let backends = desired.iter().flat_map(|desired| &desired.services[0].backends);
            backends
                .filter(|backend| backend.eligibility == crate::discovery::Eligibility::NewFlows)
                .count()
                == count
        }
    };
    seen(&mut following.desired, total(usize::from(COUNT))).await;
    for number in 0..500 {
        following.server.apply(&unready(pod(number)));
        following
            .server
            .delete("pods", "web", &format!("pod-{}", number + 1000));
    }
    seen(&mut following.desired, total(1000)).await;
}

#[tokio::test]
async fn the_address_of_a_removed_pod_has_no_owner_until_another_pod_has_it() {
    let mut following = Following::finance(&pods(2)).await;
    following.backends(&["10.0.0.1", "10.0.0.2"]).await;
    let is_replaced = |following: &Following| {
        let desired = following.desired.borrow().clone().unwrap();
        let address = [10, 0, 0, 2].into();
        desired
            .instances
            .is_replaced(address, Some(&Arc::from("uid-pod-2")))
    };
    following.server.delete("pods", "web", "pod-2");
    following.backends(&["10.0.0.1"]).await;
    assert!(!is_replaced(&following));
    let next = with(ready("next", "10.0.0.2"), "/metadata/labels", json!({}));
    following.server.apply(&next);
    let replaced = |desired: &Option<Arc<Desired>>| desired.as_ref().unwrap().instances.owners.len() == 2;
    seen(&mut following.desired, replaced).await;
    assert!(is_replaced(&following), "though no service selects it");
}

#[tokio::test]
async fn missing_credentials_are_reported_and_retried() {
    let mut server = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    server.auth_info.token_file = Some("/nonexistent/token".to_owned());
    let (desired, desired_receiver) = watch::channel(None);
    let (status, mut status_receiver) = watch::channel(SourceStatus::new(Origin::Kubernetes));
    let (file, _file_receiver) = watch::channel(SourceStatus::new(Origin::Static));
    let static_file = StaticFile::new(None, no_env, Arc::new(config("{}", FINANCE)), Arc::default());
    let task = tokio::spawn(
        Kubernetes::new(static_file, file)
            .with_server(server)
            .run(desired, status),
    );
    let error = seen(&mut status_receiver, |status| status.error.is_some())
        .await
        .error;
    assert!(
        error.as_ref().unwrap().contains("/nonexistent/token"),
        "{error:?}"
    );
    assert_eq!(*desired_receiver.borrow(), None);
    assert!(!task.is_finished());
    task.abort();
}
