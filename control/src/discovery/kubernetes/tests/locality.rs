//! Which backends get new flows, by where they are.

use std::net::IpAddr;

use super::super::locality::{Candidate, Distribution, Location};
use super::following::Following;
use super::*;
use crate::config::Prefer;
use crate::discovery::{BackendSpec, Desired, Eligibility, Origin};
use crate::kubernetes::testing::ApiServer;

/// `address@node/zone`, or with `-` before one that takes no new flows, and `~` before one that takes them
/// if nobody else does.
fn placed(text: &str) -> Candidate {
    let bare = text.trim_start_matches(['-', '~']);
    let eligibility = if bare == text {
        Eligibility::NewFlows
    } else {
        Eligibility::ExistingFlows
    };
    let last_resort = text.starts_with('~');
    let text = bare;
    let (address, place) = text.split_once('@').unwrap();
    let (node, zone) = place.split_once('/').unwrap();
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Candidate {
        backend: BackendSpec {
            backup: false,
            address: address.parse::<IpAddr>().unwrap(),
            port: 80,
            instance: None,
            weight: 1,
            eligibility,
            changed: None,
            origin: Origin::Kubernetes,
            pod: None,
        },
        node: known(node),
        zone: known(zone),
        last_resort,
    }
}

/// Those that get new flows, seen from node `n` in zone `z`.
fn chosen(backends: &str, distribution: Distribution, prefer: Prefer) -> String {
    let here = Location {
        node: Some("n"),
        zone: Some("z"),
        prefer,
    };
    let placed = backends.split_whitespace().map(placed).collect();
    let chosen = here.choose(placed, distribution).into_iter();
    let chosen = chosen.filter(|backend| backend.weight > 0 && backend.eligibility == Eligibility::NewFlows);
    chosen
        .map(|backend| backend.address.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn near_backends_get_new_flows_while_any_is_eligible() {
    let spread = "10.0.0.1@n/z 10.0.0.2@m/z 10.0.0.3@k/y";
    let without_node = "-10.0.0.1@n/z 10.0.0.2@m/z 10.0.0.3@k/y";
    let far = "-10.0.0.1@n/z -10.0.0.2@m/z 10.0.0.3@k/y 10.0.0.4@/";
    let all = "10.0.0.3 10.0.0.4";
    for (backends, distribution, expected) in [
        (spread, Distribution::Node, "10.0.0.1"),
        (without_node, Distribution::Node, "10.0.0.2"),
        (far, Distribution::Node, all),
        (spread, Distribution::Zone, "10.0.0.1 10.0.0.2"),
        (without_node, Distribution::Zone, "10.0.0.2"),
        (far, Distribution::Zone, all),
        (spread, Distribution::LocalOnly, "10.0.0.1"),
        (far, Distribution::LocalOnly, ""),
        (far, Distribution::AsConfigured, all),
    ] {
        assert_eq!(
            chosen(backends, distribution, Prefer::None),
            expected,
            "{backends} {distribution:?}"
        );
    }
}

#[test]
fn the_configured_preference_applies_to_services_without_their_own() {
    let spread = "10.0.0.1@n/z 10.0.0.2@m/z 10.0.0.3@k/y";
    for (prefer, distribution, expected) in [
        (
            Prefer::None,
            Distribution::AsConfigured,
            "10.0.0.1 10.0.0.2 10.0.0.3",
        ),
        (Prefer::Zone, Distribution::AsConfigured, "10.0.0.1 10.0.0.2"),
        (Prefer::Node, Distribution::AsConfigured, "10.0.0.1"),
        (Prefer::Node, Distribution::Zone, "10.0.0.1 10.0.0.2"),
        (Prefer::Zone, Distribution::LocalOnly, "10.0.0.1"),
    ] {
        assert_eq!(
            chosen(spread, distribution, prefer),
            expected,
            "{prefer:?} {distribution:?}"
        );
    }
}

#[test]
fn terminating_backends_that_serve_are_the_last_resort() {
    for (backends, distribution, expected) in [
        // As long as one is ready, wherever it is.
        (
            "~10.0.0.1@n/z 10.0.0.2@k/y",
            Distribution::AsConfigured,
            "10.0.0.2",
        ),
        ("~10.0.0.1@n/z 10.0.0.2@k/y", Distribution::Node, "10.0.0.2"),
        (
            "~10.0.0.1@n/z -10.0.0.2@k/y",
            Distribution::AsConfigured,
            "10.0.0.1",
        ),
        (
            "~10.0.0.1@n/z ~10.0.0.2@k/y",
            Distribution::AsConfigured,
            "10.0.0.1 10.0.0.2",
        ),
        // The near ones of them.
        ("~10.0.0.1@n/z ~10.0.0.2@k/y", Distribution::Zone, "10.0.0.1"),
        // Others do not count where only the node does.
        ("~10.0.0.1@n/z 10.0.0.2@k/y", Distribution::LocalOnly, "10.0.0.1"),
        ("-10.0.0.1@n/z ~10.0.0.2@k/y", Distribution::LocalOnly, ""),
        // Families are apart.
        (
            "~10.0.0.1@n/z 2001:db8::2@n/z",
            Distribution::AsConfigured,
            "10.0.0.1 2001:db8::2",
        ),
    ] {
        let found = chosen(backends, distribution, Prefer::None);
        assert_eq!(found, expected, "{backends} {distribution:?}");
    }
}

#[test]
fn each_family_falls_back_by_itself() {
    let backends = "10.0.0.1@n/z 10.0.0.2@m/y 2001:db8::2@m/y";
    assert_eq!(
        chosen(backends, Distribution::Node, Prefer::None),
        "10.0.0.1 2001:db8::2"
    );
}

#[test]
fn backends_at_unknown_locations_are_never_near() {
    let here = Location {
        node: None,
        zone: None,
        prefer: Prefer::Node,
    };
    let placed = ["10.0.0.1@/", "10.0.0.2@n/z"].map(placed).into();
    let weights = here
        .choose(placed, Distribution::AsConfigured)
        .into_iter()
        .map(|backend| backend.weight);
    assert_eq!(weights.collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn prefer_node_falls_back_to_the_zone_and_then_to_all() {
    let server = ApiServer::start().await;
    for (node, zone) in [("worker-1", "east"), ("worker-2", "east"), ("worker-3", "west")] {
        server.apply(&json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": node,
                "uid": format!("uid-{node}"),
                "labels": {"topology.kubernetes.io/zone": zone},
            },
        }));
    }
    let on = |number: u8| {
        let pod = ready(&format!("pod-{number}"), &format!("10.0.0.{number}"));
        with(pod, "/spec/nodeName", json!(format!("worker-{number}")))
    };
    for number in 1..=3 {
        server.apply(&on(number));
    }
    let env = |name: &str| (name == "NODE_NAME").then(|| "worker-1".to_owned());
    let config = config_at("{topology: {prefer: node}}", FINANCE, &env);
    let mut following = Following::start(server, config, None);
    let getting = |hosts: &'static [&str]| {
        move |desired: &Option<Arc<Desired>>| {
            let services = desired.iter().flat_map(|desired| &desired.services);
            let backends = services.flat_map(|service| &service.backends);
            let getting = backends
                .filter(|backend| backend.weight > 0 && backend.eligibility == Eligibility::NewFlows)
                .map(|backend| backend.address.to_string());
            getting.collect::<Vec<_>>() == hosts
        }
    };
    following.reached(getting(&["10.0.0.1"])).await;
    following.server.apply(&unready(on(1)));
    following.reached(getting(&["10.0.0.2"])).await;
    following.server.apply(&unready(on(2)));
    following.reached(getting(&["10.0.0.3"])).await;
    following.server.apply(&on(1));
    following.reached(getting(&["10.0.0.1"])).await;
}
