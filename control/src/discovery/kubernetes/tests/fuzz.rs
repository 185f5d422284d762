//! Fuzz target: changed objects of the API server, from JSON to the report. See `vl3lb_testbed::fuzz`.

use std::time::Instant;

use k8s_openapi::serde::de::DeserializeOwned;
use kube::runtime::watcher::Event;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use vl3lb_common::Duration;

use super::super::cache::{Activity, Cache, Entry};
use super::*;
use crate::journey::Journey;
use crate::kubernetes::watch::Signal;
use crate::mutation::change_json;

/// Seeds that have failed.
const CORPUS: &[u64] = &[];
/// Events of one seed.
const EVENTS: u64 = 60;
/// Far above what the slowest event takes.
const LONGEST: Duration = Duration::from_secs(5);

#[test]
fn any_object_is_served_left_out_or_refused_with_a_reason() {
    let words = words();
    vl3lb_testbed::fuzz::run("Kubernetes", 8, CORPUS, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new(&mut rng);
        for _ in 0..EVENTS {
            world.step(&mut rng, &words);
        }
        world.objects
    });
}

/// Values that mean something somewhere in the objects.
fn words() -> Vec<Value> {
    let texts = [
        "web",
        "finance",
        "uid-a",
        "uid-b",
        "10.0.0.1",
        "2001:db8::1",
        "fe80::1",
        "127.0.0.1",
        "224.0.0.1",
        "UDP",
        "SCTP",
        "http",
        "Local",
        "ClientIP",
        "PreferSameNode",
        "ExternalName",
        "None",
        "Failed",
        "Succeeded",
        "True",
        "node-1",
        "east",
        "10.0.0.0/33",
        "1s",
        "least-connections",
        "false",
        "{}",
        "[{\"name\": \"vl3\", \"ips\": [\"10.0.0.9\"]}]",
        "2026-11-24T08:00:00Z",
    ];
    let others = [
        json!(0),
        json!(-1),
        json!(65_536),
        json!(8081),
        json!(i32::MAX),
        json!(null),
        json!(true),
        json!({}),
        json!([]),
        json!({"app": "finance"}),
        json!({"vl3-lb.io/enabled": "true"}),
        json!({"vl3-lb.io/enabled": "perhaps", "vl3-lb.io/scheduler": "x", "vl3-lb.io/client-address": "x"}),
        json!({"vl3-lb.io/weight": "7", "vl3-lb.io/drain": "1s", "team.io/address": "10.0.0.7,10.0.0.8"}),
    ];
    texts.into_iter().map(Value::from).chain(others).collect()
}

/// Caches that are fed, and what becomes of the records.
struct World {
    address_from: AddressFrom,
    pods: Cache<PodRecord>,
    services: Cache<ServiceRecord>,
    slices: Cache<SliceRecord>,
    nodes: Cache<NodeRecord>,
    assembly: Assembly,
    journey: Journey,
    /// Objects that were tried.
    objects: u64,
}

impl World {
    fn new(rng: &mut StdRng) -> Self {
        let configurations = [
            "{services: true, topology: {prefer: zone}}",
            "{services: true, addressFrom: 'annotation:team.io/address', topology: {prefer: node}}",
            "{services: true, addressFrom: 'network-status:vl3'}",
            "{services: true, namespaces: [web, api], topology: {prefer: none}}",
        ];
        let text = configurations[rng.random_range(0..configurations.len())];
        let env = |name: &str| (name == "NODE_NAME").then(|| "node-1".to_owned());
        let config = config_at(text, FINANCE_OF_ALL, &env);
        Self {
            address_from: config.kubernetes.clone().unwrap_or_default().address_from,
            pods: Cache::new(None),
            services: Cache::new(None),
            slices: Cache::new(None),
            nodes: Cache::new(None),
            assembly: assembly(&config),
            journey: Journey::new(config.nat_ports),
            objects: 0,
        }
    }

    /// One to four objects change; then the set goes its way.
    fn step(&mut self, rng: &mut StdRng, words: &[Value]) {
        let begin = Instant::now();
        for _ in 0..rng.random_range(1..=4) {
            self.change(rng, words);
            self.objects += 1;
        }
        let set = self.assembly.assemble();
        let mut again = self.assembly.clone();
        again.rebuild_all();
        let rebuilt = again.assemble();
        assert_eq!(
            set.desired.services, rebuilt.desired.services,
            "after a full rebuild"
        );
        assert_eq!(
            set.desired.instances, rebuilt.desired.instances,
            "after a full rebuild"
        );
        assert_eq!(set.problems, rebuilt.problems, "after a full rebuild");
        assert_eq!(set.accepted, rebuilt.accepted, "after a full rebuild");
        // Who was refused for a port of a Service that came later may be refused for its name then, but once.
        again.rebuild_all();
        assert_eq!(rebuilt, again.assemble(), "after two full rebuilds");
        for refused in &set.refused {
            assert!(
                !refused.reason.is_empty() && !refused.message.is_empty(),
                "{refused:?}"
            );
        }
        self.journey.take(&set.desired);
        if rng.random_range(0..4) == 0 {
            self.journey.wait(rng.random_range(1..200));
        }
        assert!(begin.elapsed() < LONGEST, "{:?}", begin.elapsed());
    }

    fn change(&mut self, rng: &mut StdRng, words: &[Value]) {
        let is_deleted = rng.random_range(0..6) == 0;
        let kind = rng.random_range(0..4);
        let mut object = object(rng, kind);
        if rng.random_range(0..4) > 0 {
            for _ in 0..rng.random_range(0..5) {
                change_json(rng, &mut object, words);
            }
        }
        let assembly = &mut self.assembly;
        match kind {
            0 => assembly.replace_pods(apply(&mut self.pods, &object, is_deleted, &self.address_from)),
            1 => assembly.replace_services(apply(&mut self.services, &object, is_deleted, &())),
            2 => assembly.replace_slices(apply(&mut self.slices, &object, is_deleted, &())),
            _ => assembly.replace_nodes(apply(&mut self.nodes, &object, is_deleted, &())),
        }
    }
}

/// What changes with an object that the API's types can hold; others end a watch with an error.
fn apply<T: Record>(
    cache: &mut Cache<T>,
    object: &Value,
    is_deleted: bool,
    options: &T::Options,
) -> Vec<Change<T>>
where
    T::Object: DeserializeOwned,
{
    let Ok(object) = serde_json::from_value::<T::Object>(object.clone()) else {
        return Vec::new();
    };
    let entry = Entry::read(&object, options);
    let event = if is_deleted {
        Event::Delete(entry)
    } else {
        Event::Apply(entry)
    };
    cache.apply(Signal::Event(Ok(event)), &mut Activity::default())
}

/// A good object, one of a few.
fn object(rng: &mut StdRng, kind: usize) -> Value {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    const SERVICES: [&str; 3] = ["finance", "ledger", "db"];
    let name = NAMES[rng.random_range(0..NAMES.len())];
    let address = format!("10.0.0.{}", rng.random_range(1..5));
    let service_name = SERVICES[rng.random_range(0..SERVICES.len())];
    match kind {
        0 => {
            let pod = with(ready(name, &address), "/spec/nodeName", json!("node-1"));
            match rng.random_range(0..4) {
                0 => unready(pod),
                1 => with(pod, "/metadata/deletionTimestamp", json!("2026-11-24T09:00:00Z")),
                2 => with(
                    pod,
                    "/metadata/annotations",
                    json!({
                        "team.io/address": address,
                        "vl3-lb.io/weight": "3",
                        "k8s.v1.cni.cncf.io/network-status": format!(
                            "[{{\"name\": \"vl3\", \"interface\": \"nsm-1\", \"ips\": [\"{address}\"]}}]"
                        ),
                    }),
                ),
                _ => pod,
            }
        }
        1 => match rng.random_range(0..3) {
            0 => load_balancer(service_name, rng.random_range(8080..8083)),
            1 => service(service_name, full_service()),
            _ => {
                let mut open = service(
                    service_name,
                    json!({"ports": [{"port": 9000, "name": "x", "targetPort": "http"}]}),
                );
                open["metadata"]["annotations"] = json!({
                    "vl3-lb.io/enabled": "true", "vl3-lb.io/scheduler": "round-robin", "vl3-lb.io/drain": "10s", "vl3-lb.io/client-address": "proxyV2",
                });
                open
            }
        },
        2 => {
            let bare = json!({"addresses": [address], "conditions": {"ready": rng.random::<bool>()}, "zone": "east"});
            let ended = with(
                endpoint(name, &address),
                "/conditions",
                json!({"ready": rng.random::<bool>(), "serving": rng.random::<bool>(), "terminating": true}),
            );
            slice(
                &format!("slice-{name}"),
                service_name,
                json!([endpoint(name, &address), bare, ended]),
            )
        }
        _ => json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "node-1", "uid": "node", "labels": {"topology.kubernetes.io/zone": name}},
        }),
    }
}

/// The `spec` of a Service with every field that is read.
fn full_service() -> Value {
    json!({
        "type": "LoadBalancer",
        "loadBalancerClass": "vl3-lb.io/vl3-lb",
        "selector": {"app": "finance"},
        "ports": [
            {"name": "http", "port": 8080, "targetPort": "http", "protocol": "TCP"},
            {"name": "dns", "port": 5353, "targetPort": 53, "protocol": "UDP"},
        ],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "loadBalancerSourceRanges": ["10.0.0.0/8", "2001:db8::/32"],
        "externalTrafficPolicy": "Cluster",
        "trafficDistribution": "PreferSameZone",
        "publishNotReadyAddresses": false,
    })
}
