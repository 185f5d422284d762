//! After complete lists only the lists count, whatever the past: for the set, and for what is kept in memory.

use kube::core::Status;
use kube::runtime::watcher::{self, Event};
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::super::cache::{Activity, Cache, Entry};
use super::*;
use crate::kubernetes::watch::Signal;

/// Objects of each kind.
const COUNT: usize = 5;
/// Versions of each object.
const VERSIONS: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pod,
    Service,
    SliceRecord,
    Node,
}

const KINDS: [Kind; 4] = [Kind::Pod, Kind::Service, Kind::SliceRecord, Kind::Node];

/// The object of that number as it looks in one version.
type Version = (usize, usize);

/// One event.
#[derive(Debug, Clone)]
enum Step {
    Apply(Kind, Version),
    Delete(Kind, Version),
    Listed(Kind, Version),
    ListDone(Kind),
    /// 410 Gone.
    Forgotten(Kind),
    /// A set is assembled.
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    let version = || (0..COUNT, 0..VERSIONS);
    let kind = || prop::sample::select(&KINDS[..]);
    prop_oneof![
        4 => (kind(), version()).prop_map(|(kind, version)| Step::Apply(kind, version)),
        2 => (kind(), version()).prop_map(|(kind, version)| Step::Delete(kind, version)),
        2 => (kind(), version()).prop_map(|(kind, version)| Step::Listed(kind, version)),
        1 => kind().prop_map(Step::ListDone),
        1 => kind().prop_map(Step::Forgotten),
        2 => Just(Step::Collect),
    ]
}

/// Lists of all kinds, in any order, some objects listed twice, last in their final version.
fn lists() -> impl Strategy<Value = Vec<(Kind, Vec<Version>)>> {
    let list = || {
        let versions = prop::collection::vec(0..VERSIONS, 0..=COUNT);
        let numbered = versions.prop_map(|versions| versions.into_iter().enumerate().collect::<Vec<_>>());
        numbered.prop_flat_map(|list| {
            let twice = subsequence(list.clone(), 0..=list.len());
            (Just(list).prop_shuffle(), twice).prop_map(|(list, twice)| [list, twice].concat())
        })
    };
    [list(), list(), list(), list()]
        .prop_map(|lists| KINDS.into_iter().zip(lists).collect::<Vec<_>>())
        .prop_shuffle()
}

fn object(kind: Kind, (number, version): Version) -> Value {
    let next = (number + 1) % COUNT;
    let address = |number: usize| format!("10.0.0.{}", number + 1);
    let pod_name = |number: usize| format!("pod-{number}");
    match kind {
        // Version 3 is another pod of that name, at the next one's address.
        Kind::Pod => {
            let host = if version == 3 { next } else { number };
            let pod = ready(&pod_name(number), &address(host));
            let pod = with(pod, "/spec/nodeName", json!(format!("node-{number}")));
            let pod = with(pod, "/metadata/uid", json!(uid(number, version)));
            match version {
                1 => unready(pod),
                2 => with(pod, "/metadata/labels/app", json!("ledger")),
                4 => with(pod, "/metadata/deletionTimestamp", json!("2026-11-24T09:00:00Z")),
                5 => with(pod, "/status/phase", json!("Failed")),
                _ => pod,
            }
        }
        // In version 1 all ask for one port, in version 2 none is enabled.
        Kind::Service => {
            let port = if version == 1 { 80 } else { 8000 + number };
            let service = load_balancer(&format!("service-{number}"), u16::try_from(port).unwrap());
            let enabled = if version == 2 { "false" } else { "true" };
            let service = with(
                service,
                "/metadata/annotations/vl3-lb.io~1enabled",
                json!(enabled),
            );
            let selector = if version == 3 { "ledger" } else { "finance" };
            with(service, "/spec/selector/app", json!(selector))
        }
        Kind::SliceRecord => {
            let of = |number: usize| {
                let endpoint = endpoint(&pod_name(number), &address(number));
                let endpoint = with(endpoint, "/nodeName", json!(format!("node-{number}")));
                with(endpoint, "/targetRef/uid", json!(uid(number, version % 4)))
            };
            let mut endpoints = vec![of(number), of(next)];
            endpoints.truncate(version % 3);
            let service = format!("service-{}", if version < 4 { number } else { next });
            slice(&format!("slice-{number}"), &service, json!(endpoints))
        }
        Kind::Node => {
            let labels = ["east", "west"].get(version % 3);
            let labels =
                labels.map_or_else(|| json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": format!("node-{number}"), "uid": uid(number, version), "labels": labels},
            })
        }
    }
}

fn uid(number: usize, version: usize) -> String {
    format!("{number}-{}", usize::from(version == 3))
}

/// Caches of all kinds, and the assembly that they feed.
struct Cluster {
    pods: Cache<PodRecord>,
    services: Cache<ServiceRecord>,
    slices: Cache<SliceRecord>,
    nodes: Cache<NodeRecord>,
    assembly: Assembly,
}

impl Cluster {
    /// With the backends of Services from their endpoints, or from the pods that they select.
    fn new(by_endpoints: bool) -> Self {
        let env = |name: &str| (name == "NODE_NAME").then(|| "node-1".to_owned());
        let config = if by_endpoints {
            "{services: true, topology: {prefer: zone}}"
        } else {
            "{services: true, addressFrom: 'annotation:none', topology: {prefer: zone}}"
        };
        Self {
            pods: Cache::new(None),
            services: Cache::new(None),
            slices: Cache::new(None),
            nodes: Cache::new(None),
            assembly: assembly(&config_at(config, FINANCE, &env)),
        }
    }

    /// Whether anything changed.
    fn take(&mut self, step: &Step) -> bool {
        let (kind, event) = match *step {
            Step::Apply(kind, version) => (kind, Ok(Event::Apply(object(kind, version)))),
            Step::Delete(kind, version) => (kind, Ok(Event::Delete(object(kind, version)))),
            Step::Listed(kind, version) => (kind, Ok(Event::InitApply(object(kind, version)))),
            Step::ListDone(kind) => (kind, Ok(Event::InitDone)),
            Step::Forgotten(kind) => {
                let gone = Status::failure("too old resource version", "Expired").with_code(410);
                (kind, Err(watcher::Error::WatchError(gone.boxed())))
            }
            Step::Collect => {
                self.assembly.assemble();
                return false;
            }
        };
        let assembly = &mut self.assembly;
        match kind {
            Kind::Pod => {
                let pods = apply(&mut self.pods, event, &AddressFrom::PodIp);
                forward(pods, |pods| assembly.replace_pods(pods))
            }
            Kind::Service => {
                let services = apply(&mut self.services, event, &());
                forward(services, |services| assembly.replace_services(services))
            }
            Kind::SliceRecord => {
                let slices = apply(&mut self.slices, event, &());
                forward(slices, |slices| assembly.replace_slices(slices))
            }
            Kind::Node => {
                let nodes = apply(&mut self.nodes, event, &());
                forward(nodes, |nodes| assembly.replace_nodes(nodes))
            }
        }
    }

    fn list(&mut self, lists: &[(Kind, Vec<Version>)]) {
        for (kind, list) in lists {
            for version in list {
                self.take(&Step::Listed(*kind, *version));
            }
            self.take(&Step::ListDone(*kind));
        }
    }
}

fn apply<T: Record>(
    watch: &mut Cache<T>,
    event: watcher::Result<Event<Value>>,
    reading: &T::Options,
) -> Vec<Change<T>> {
    let read = |object: Value| {
        let object: T::Object = serde_json::from_value(object).expect("an object of that kind");
        Entry::read(&object, reading)
    };
    let event = event.map(|event| match event {
        Event::Apply(object) => Event::Apply(read(object)),
        Event::Delete(object) => Event::Delete(read(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(read(object)),
        Event::InitDone => Event::InitDone,
    });
    watch.apply(Signal::Event(event), &mut Activity::default())
}

fn forward<T>(changes: Vec<T>, replace: impl FnOnce(Vec<T>)) -> bool {
    let changed = !changes.is_empty();
    replace(changes);
    changed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_past_converges_after_complete_lists(
        by_endpoints: bool,
        past in prop::collection::vec(step(), 0..60),
        lists in lists(),
    ) {
        let mut cluster = Cluster::new(by_endpoints);
        for step in &past {
            cluster.take(step);
        }
        for (kind, _) in &lists {
            cluster.take(&Step::Forgotten(*kind));
        }
        cluster.list(&lists);
        let mut fresh = Cluster::new(by_endpoints);
        // Services that are served keep their names and ports, so the last decision counts.
        fresh.assembly.decision = cluster.assembly.decision.clone();
        fresh.list(&lists);
        let set = cluster.assembly.assemble();
        prop_assert_eq!(&set, &fresh.assembly.assemble());
        // Memory depends on present objects only.
        prop_assert_eq!(&cluster.assembly, &fresh.assembly);

        // Repeated changes, and deletions of other objects of that name, change nothing.
        for (kind, list) in &lists {
            for &(number, version) in list {
                prop_assert!(!cluster.take(&Step::Apply(*kind, (number, version))));
                if *kind == Kind::Pod && version != 3 {
                    prop_assert!(!cluster.take(&Step::Delete(Kind::Pod, (number, 3))));
                }
            }
        }
        prop_assert_eq!(set, cluster.assembly.assemble());
    }

    /// Incremental sets equal a full rebuild.
    #[test]
    fn an_incremental_set_equals_a_full_rebuild(by_endpoints: bool, past in prop::collection::vec(step(), 1..40)) {
        let mut cluster = Cluster::new(by_endpoints);
        for step in &past {
            cluster.take(step);
            let set = cluster.assembly.assemble();
            let mut again = cluster.assembly.clone();
            again.rebuild_all();
            prop_assert_eq!(set, again.assemble(), "after {:?}", step);
        }
    }

    #[test]
    fn an_incomplete_list_changes_nothing(lists in lists(), broken in lists(), by_endpoints: bool) {
        let mut cluster = Cluster::new(by_endpoints);
        for (kind, list) in &lists {
            for version in list {
                prop_assert!(!cluster.take(&Step::Listed(*kind, *version)));
            }
            let changed = cluster.take(&Step::ListDone(*kind));
            prop_assert!(changed || *kind != Kind::Pod || list.is_empty(), "each pod counts");
        }
        let before = cluster.assembly.assemble();
        for (kind, list) in &broken {
            for version in list {
                prop_assert!(!cluster.take(&Step::Listed(*kind, *version)));
            }
            prop_assert!(!cluster.take(&Step::Forgotten(*kind)));
        }
        prop_assert_eq!(before, cluster.assembly.assemble());
    }
}
