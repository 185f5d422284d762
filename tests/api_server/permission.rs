//! The Role of the manifests, with the rule for Services of the cluster, suffices, and each of its verbs is needed. For each verb of each resource there is a
//! balancer without it, which must name the denied permission and must not achieve the effect that needs it.
//!
//! All balancers run at once on one API server, each in a Kubernetes namespace with its own Role.

use serde_json::{Value, json};
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Node;
use vl3lb_tests::api_server::ApiServer;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::text;
use vl3lb_tests::config::Config;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::pods::Pods;
use crate::watch::CONVERGENCE;

/// The name of each balancer's pod.
const POD: &str = "lb";
const GROUP: &str = "finance";

/// An effect of a balancer's permissions, in the order of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Serves,
    FollowsPods,
    FollowsServices,
    FollowsEndpoints,
    KeepsLease,
    SeesPeers,
    WritesStatus,
    Publishes,
    EmitsEvents,
    CountsEvents,
    Withdraws,
    Leaves,
}

const EFFECTS: [Effect; 12] = [
    Effect::Serves,
    Effect::FollowsPods,
    Effect::FollowsServices,
    Effect::FollowsEndpoints,
    Effect::KeepsLease,
    Effect::SeesPeers,
    Effect::WritesStatus,
    Effect::Publishes,
    Effect::EmitsEvents,
    Effect::CountsEvents,
    Effect::Withdraws,
    Effect::Leaves,
];

/// The first effect that is missing without a verb.
const NEEDED_FOR: [(&str, &str, Effect); 17] = [
    ("list", "pods", Effect::Serves),
    ("watch", "pods", Effect::FollowsPods),
    ("list", "leases", Effect::SeesPeers),
    ("watch", "leases", Effect::SeesPeers),
    ("create", "leases", Effect::KeepsLease),
    ("patch", "leases", Effect::KeepsLease),
    ("delete", "leases", Effect::Leaves),
    ("list", "services", Effect::FollowsServices),
    ("watch", "services", Effect::FollowsServices),
    // A service is served only once its endpoints are known.
    ("list", "endpointslices", Effect::FollowsServices),
    ("watch", "endpointslices", Effect::FollowsEndpoints),
    ("create", "endpointslices", Effect::Publishes),
    ("patch", "endpointslices", Effect::Publishes),
    ("delete", "endpointslices", Effect::Withdraws),
    ("patch", "services/status", Effect::WritesStatus),
    ("create", "events", Effect::EmitsEvents),
    ("patch", "events", Effect::CountsEvents),
];

#[test]
fn the_role_suffices_and_each_of_its_verbs_is_needed_and_named_when_missing() {
    let role = shipped_role();
    let reduced = without_each_verb(&role);
    for (verb, resource, _) in &reduced {
        needed_for(verb, resource);
    }
    assert_eq!(
        reduced.len(),
        NEEDED_FOR.len(),
        "the table has verbs that are not in the Role"
    );

    let mut shape = Shape::of(&Attachment::VETH_AUTO);
    shape.servers = u8::try_from(1 + reduced.len()).expect("a few");
    let topology = Topology::build(&shape);
    let server = ApiServer::start(&topology.router().netns, Family::V4.router());
    let whole = (None, &role);
    let parts = reduced
        .iter()
        .map(|(verb, resource, role)| (Some((verb.as_str(), resource.as_str())), role));
    let roles = std::iter::once(whole).chain(parts);
    // On this thread: a balancer ends with the thread that started it.
    let mut subjects: Vec<Subject<'_>> = topology
        .servers
        .iter()
        .zip(roles)
        .map(|(node, (denied, role))| Subject::start(&server, node, denied, role))
        .collect();
    std::thread::scope(|scope| {
        for subject in &mut subjects {
            scope.spawn(|| subject.trigger_all());
        }
    });
    // The balancer with the whole Role has achieved all effects by now.
    for subject in &subjects {
        subject.assert_result();
    }
}

/// The state in place of an expected effect, for the message of a failed test.
#[derive(Debug)]
struct Observed(String);

impl std::fmt::Display for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A balancer whose Role lacks at most one verb of one resource.
struct Subject<'a> {
    server: &'a ApiServer,
    balancer: Balancer,
    namespace: String,
    /// A verb and a resource.
    denied: Option<(&'a str, &'a str)>,
}

impl<'a> Subject<'a> {
    fn start(
        server: &'a ApiServer,
        node: &'a Node,
        denied: Option<(&'a str, &'a str)>,
        role: &Value,
    ) -> Self {
        let namespace = denied.map_or_else(
            || "whole".to_owned(),
            |(verb, resource)| format!("no-{verb}-{}", resource.replace('/', "-")),
        );
        let kubeconfig = server.kubeconfig_of(&namespace, "vl3-lb");
        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        server.apply(&format!("{rbac}/roles/vl3-lb"), role);
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "vl3-lb"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "vl3-lb"},
            "subjects": [{"kind": "ServiceAccount", "name": "vl3-lb", "namespace": namespace}],
        });
        server.apply(&format!("{rbac}/rolebindings/vl3-lb"), &binding);
        node.netns
            .ip(&format!("route add 10.128.0.0/16 via {}", Family::V4.router()))
            .or_panic();

        Pods::of(server, &namespace).create(0..1);
        let config = Config::new("auto")
            .with("discovery", "kubernetes".into())
            .with("kubernetes", json!({"services": true}))
            .service(json!({
                "name": "finance",
                "port": 8080,
                "targetPort": 8081,
                "selector": {"app": "finance"},
            }));
        let variables = [
            format!("KUBECONFIG={}", kubeconfig.display()),
            format!("POD_NAME={POD}"),
            format!("POD_NAMESPACE={namespace}"),
            format!("VL3LB_GROUP={GROUP}"),
        ];
        let mut program = vec!["env"];
        program.extend(variables.iter().map(String::as_str));
        Self {
            server,
            balancer: Balancer::launch_through(node, &config, &program),
            namespace,
            denied,
        }
    }

    /// Triggers all effects up to the one that is denied, and waits for each.
    fn trigger_all(&mut self) {
        let missing = self.missing_effect();
        for effect in EFFECTS {
            self.trigger(effect);
            if missing == Some(effect) {
                let denied = self.denial();
                self.wait(&denied, |subject| {
                    let log = subject.balancer.log();
                    (log.contains(&denied)).then_some(()).ok_or(Observed(log))
                });
                return;
            }
            self.wait(&format!("{effect:?}"), |subject| subject.observe(effect));
        }
    }

    fn assert_result(&self) {
        let Some(missing) = self.missing_effect() else {
            let log = self.balancer.log();
            assert!(!log.contains("forbidden"), "the Role does not suffice: {log}");
            return;
        };
        assert!(
            self.observe(missing).is_err(),
            "{}: the verb is not needed: {missing:?} works",
            self.namespace
        );
        let denied = self.denial().replace('\\', "");
        if missing != Effect::Leaves {
            let status = text(&self.balancer.cli(&["status"]));
            assert!(status.contains(&denied), "{}: status: {status}", self.namespace);
        }
        if missing == Effect::Serves {
            let (_, ready) = self.balancer.http("/readyz").expect("it answers");
            assert!(ready.contains(&denied), "{}: /readyz: {ready}", self.namespace);
        }
    }

    fn missing_effect(&self) -> Option<Effect> {
        let (verb, resource) = self.denied?;
        Some(needed_for(verb, resource))
    }

    /// The API server's error, as quoted in the log.
    fn denial(&self) -> String {
        let (verb, resource) = self.denied.expect("something is denied");
        format!("cannot {verb} resource \\\"{resource}\\\"")
    }

    /// Creates the situation in which the balancer must achieve `effect`.
    fn trigger(&mut self, effect: Effect) {
        let pods = Pods::of(self.server, &self.namespace);
        match effect {
            Effect::Serves | Effect::KeepsLease => {}
            Effect::FollowsPods => pods.create(1..2),
            Effect::FollowsServices => self.apply("v1", "services", &service("late", 9000, None)),
            Effect::FollowsEndpoints => {
                let slice = json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"name": "late", "labels": {"kubernetes.io/service-name": "late"}},
                    "addressType": "IPv4",
                    "endpoints": [{"addresses": [Pods::address(9)]}],
                    "ports": [{"port": 8081, "name": ""}],
                });
                self.apply("discovery.k8s.io/v1", "endpointslices", &slice);
            }
            Effect::SeesPeers => {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": "peer", "labels": {"vl3-lb.io/group": GROUP}},
                    "spec": {"holderIdentity": "peer", "leaseDurationSeconds": 600},
                });
                self.apply("coordination.k8s.io/v1", "leases", &lease);
            }
            Effect::WritesStatus => {
                let class = Some("vl3-lb.io/vl3-lb");
                self.apply("v1", "services", &service("front", 9001, class));
            }
            Effect::Publishes => self.apply("v1", "services", &published("true")),
            Effect::EmitsEvents => pods.delete(0..2),
            Effect::CountsEvents => {
                pods.create(2..3);
                self.wait("a backend again", |subject| subject.has_backends("finance", 1));
                pods.delete(2..3);
            }
            Effect::Withdraws => self.apply("v1", "services", &published("false")),
            Effect::Leaves => assert!(self.balancer.terminate().success()),
        }
    }

    /// Checks for `effect`. The error is the observed state.
    fn observe(&self, effect: Effect) -> Result<(), Observed> {
        let expect = |holds: bool, seen: String| holds.then_some(()).ok_or(Observed(seen));
        match effect {
            Effect::Serves => {
                let (status, body) = self
                    .balancer
                    .http("/readyz")
                    .map_err(|error| Observed(error.to_string()))?;
                expect(status == 200, body)
            }
            Effect::FollowsPods => self.has_backends("finance", 2),
            Effect::FollowsServices => {
                let answer = self.balancer.cli_json(&["services"]);
                expect(answer.to_string().contains("\"late\""), answer.to_string())
            }
            Effect::FollowsEndpoints => self.has_backends("late", 1),
            Effect::KeepsLease => {
                let lease = self.find("coordination.k8s.io/v1", "leases", POD);
                let lease = lease.ok_or_else(|| Observed("no Lease".to_owned()))?;
                let ready = &lease["metadata"]["annotations"]["vl3-lb.io/ready"];
                expect(ready == "true", lease.to_string())
            }
            Effect::SeesPeers => {
                let answer = self.balancer.cli_json(&["status"]);
                let peers = &answer["items"][0]["replicas"]["peers"];
                expect(peers[0]["name"] == "peer", peers.to_string())
            }
            Effect::WritesStatus => {
                let service = self.find("v1", "services", "front");
                let service = service.ok_or_else(|| Observed("no Service".to_owned()))?;
                let ingress = &service["status"]["loadBalancer"]["ingress"];
                expect(ingress[0]["ip"].is_string(), service["status"].to_string())
            }
            Effect::Publishes | Effect::Withdraws => {
                let slice = self.find("discovery.k8s.io/v1", "endpointslices", "finance-finance-ipv4");
                let is_wanted = effect == Effect::Publishes;
                expect(slice.is_some() == is_wanted, format!("{slice:?}"))
            }
            Effect::EmitsEvents => self.event().map(drop),
            Effect::CountsEvents => {
                let event = self.event()?;
                expect(event["series"]["count"].as_u64() >= Some(2), event.to_string())
            }
            Effect::Leaves => {
                let lease = self.find("coordination.k8s.io/v1", "leases", POD);
                expect(lease.is_none(), format!("{lease:?}"))
            }
        }
    }

    fn has_backends(&self, service: &str, count: usize) -> Result<(), Observed> {
        let answer = self.balancer.cli_json(&["backends", "--service", service]);
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        let up = items.iter().filter(|item| item["state"] == "up").count();
        (up == count)
            .then_some(())
            .ok_or_else(|| Observed(answer.to_string()))
    }

    /// The Event about the service of the file without backends.
    fn event(&self) -> Result<Value, Observed> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", self.namespace);
        let events = self.server.find(&path).expect("a list");
        let items = events["items"].as_array().cloned().unwrap_or_default();
        let is_it = |event: &Value| {
            event["reason"] == "ServiceWithoutBackends"
                && event["regarding"]["kind"] == "Pod"
                && event["regarding"]["name"] == POD
        };
        let found = items.into_iter().find(is_it);
        found.ok_or_else(|| Observed(events.to_string()))
    }

    fn apply(&self, version: &str, resource: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("it has a name");
        self.server.apply(&self.path(version, resource, name), object);
    }

    fn find(&self, version: &str, resource: &str, name: &str) -> Option<Value> {
        self.server.find(&self.path(version, resource, name))
    }

    fn path(&self, version: &str, resource: &str, name: &str) -> String {
        let root = if version == "v1" { "api" } else { "apis" };
        format!(
            "/{root}/{version}/namespaces/{}/{resource}/{name}",
            self.namespace
        )
    }

    fn wait(&self, what: &str, mut probe: impl FnMut(&Self) -> Result<(), Observed>) {
        wait::until(&format!("{}: {what}", self.namespace), CONVERGENCE, || {
            let result = probe(self);
            if result.is_err() {
                // All balancers share one API server.
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
            result
        });
    }
}

/// A Service for the balancer, by its class or by an annotation.
fn service(name: &str, port: u16, class: Option<&str>) -> Value {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "annotations": {"vl3-lb.io/enabled": "true"}},
        "spec": {"ports": [{"port": port}]},
    });
    if let Some(class) = class {
        service["spec"]["type"] = "LoadBalancer".into();
        service["spec"]["loadBalancerClass"] = class.into();
        service["spec"]["selector"] = json!({"app": "front"});
    }
    service
}

/// A Service whose endpoints the balancer must publish, or not.
fn published(publish: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "finance", "labels": {"vl3-lb.io/publish": publish}},
        "spec": {"clusterIP": "None", "ports": [{"port": 8080}]},
    })
}

fn needed_for(verb: &str, resource: &str) -> Effect {
    let found = NEEDED_FOR.iter().find(|(v, r, _)| (*v, *r) == (verb, resource));
    let (_, _, effect) =
        found.unwrap_or_else(|| panic!("NEEDED_FOR has no effect of {verb} {resource}; add it"));
    *effect
}

/// The one Role of the manifest, without its namespace, with the rule that the component `services` adds.
pub(crate) fn shipped_role() -> Value {
    let manifest = include_str!("../../deploy/kubernetes/base/rbac.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).expect("YAML");
    let kinds: Vec<&str> = documents
        .iter()
        .filter_map(|document| document["kind"].as_str())
        .collect();
    assert_eq!(kinds, ["ServiceAccount", "Role", "RoleBinding"]);
    let mut role = documents[1].clone();
    let patch = include_str!("../../deploy/kubernetes/components/services/rule.yaml");
    let patch: Value = serde_saphyr::from_str(patch).expect("YAML");
    assert_eq!(patch[0]["path"], "/rules/-");
    let rules = role["rules"].as_array_mut().expect("a list of rules");
    rules.push(patch[0]["value"].clone());
    role
}

/// The role without one verb of one resource, for each: verb, resource, role.
fn without_each_verb(role: &Value) -> Vec<(String, String, Value)> {
    let single = single_rules(role);
    let mut reduced = Vec::new();
    for (index, rule) in single.iter().enumerate() {
        let mut rules = single.clone();
        rules.remove(index);
        let mut without = role.clone();
        without["rules"] = rules.into();
        let word = |value: &Value| value.as_str().expect("a word").to_owned();
        reduced.push((word(&rule["verbs"][0]), word(&rule["resources"][0]), without));
    }
    reduced
}

/// The rules of a role, one for each verb of each resource of each group.
pub(crate) fn single_rules(role: &Value) -> Vec<Value> {
    let list = |rule: &Value, key: &str| rule[key].as_array().expect("a list").clone();
    let mut single = Vec::new();
    for rule in list(role, "rules") {
        let known = ["apiGroups", "resources", "verbs"];
        let keys = rule.as_object().expect("a rule").keys();
        assert!(keys.eq(known), "{rule}: the test knows no other keys");
        for group in list(&rule, "apiGroups") {
            for resource in list(&rule, "resources") {
                for verb in list(&rule, "verbs") {
                    single.push(json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]}));
                }
            }
        }
    }
    single
}
