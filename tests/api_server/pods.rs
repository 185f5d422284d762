//! Pods on an API server without nodes: the tests write their status.

use futures_util::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use vl3lb_tests::api_server::ApiServer;

/// Requests under way at once.
const PARALLEL: usize = 16;

/// The namespace of the pods.
pub(crate) const NAMESPACE: &str = "web";

/// Pods are labelled with their number modulo this, as `shard`.
pub(crate) const SHARDS: usize = 20;

/// The pods `finance-N` of a namespace, with the labels `app=finance` and `shard`.
pub(crate) struct Pods<'a> {
    server: &'a ApiServer,
    namespace: &'a str,
}

impl<'a> Pods<'a> {
    /// Those of [`NAMESPACE`].
    pub(crate) const fn new(server: &'a ApiServer) -> Self {
        Self::of(server, NAMESPACE)
    }

    /// Those of another namespace.
    pub(crate) const fn of(server: &'a ApiServer, namespace: &'a str) -> Self {
        Self { server, namespace }
    }

    /// The address of pod `number`: 10.128.0.0/16, from .1.0 on.
    pub(crate) fn address(number: usize) -> String {
        format!("10.128.{}.{}", 1 + number / 250, number % 250)
    }

    /// Makes pods that are ready.
    pub(crate) fn create(&self, numbers: impl IntoIterator<Item = usize> + Send) {
        self.each(numbers, async |api, number| {
            let pod = json!({
                "metadata": {
                    "name": name(number),
                    "labels": {"app": "finance", "shard": (number % SHARDS).to_string()},
                },
                // No controller creates the token of the namespace's service account.
                "spec": {"automountServiceAccountToken": false, "containers": [{"name": "server", "image": "none"}]},
            });
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            api.create(&PostParams::default(), &pod).await?;
            set_ready(&api, number, true).await
        });
    }

    /// Makes pods ready or unready.
    pub(crate) fn set_ready(&self, numbers: impl IntoIterator<Item = usize> + Send, ready: bool) {
        self.each(numbers, async |api, number| set_ready(&api, number, ready).await);
    }

    /// Removes pods at once.
    pub(crate) fn delete(&self, numbers: impl IntoIterator<Item = usize> + Send) {
        self.each(numbers, async |api, number| {
            api.delete(&name(number), &DeleteParams::default().grace_period(0))
                .await
                .map(|_| ())
        });
    }

    fn each(
        &self,
        numbers: impl IntoIterator<Item = usize> + Send,
        work: impl AsyncFn(Api<Pod>, usize) -> kube::Result<()> + Send + Sync,
    ) {
        self.server.run(async |client| {
            let api: Api<Pod> = Api::namespaced(client, self.namespace);
            let mut results = stream::iter(numbers)
                .map(|number| {
                    let done = work(api.clone(), number);
                    async move { (number, done.await) }
                })
                .buffer_unordered(PARALLEL);
            while let Some((number, result)) = results.next().await {
                result.unwrap_or_else(|error| panic!("pod {}: {error}", name(number)));
            }
        });
    }
}

fn name(number: usize) -> String {
    format!("finance-{number}")
}

/// Makes a pod ready or unready.
pub(crate) async fn set_ready(api: &Api<Pod>, number: usize, ready: bool) -> kube::Result<()> {
    let address = Pods::address(number);
    let status = json!({"status": {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
    }});
    api.patch_status(&name(number), &PatchParams::default(), &Patch::Merge(&status))
        .await
        .map(|_| ())
}
