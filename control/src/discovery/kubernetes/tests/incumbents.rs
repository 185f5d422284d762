//! Services that are served keep their names and ports.

use super::declared::{names, refusals, served};
use super::*;

fn at(service: Value, created: &str) -> Value {
    with(service, "/metadata/creationTimestamp", json!(created))
}

fn records(services: &[Value]) -> Vec<Arc<ServiceRecord>> {
    kept(services)
}

/// Services that are served in this order of events: those of `first`, then those of `then` as well.
fn served_after(first: &[Value], then: &[Value]) -> Assembled {
    let mut assembly = assembly(&config("{services: true}", ""));
    assembly.replace_services(new(&records(first)));
    assembly.assemble();
    let all = records(then);
    let changes = all.iter().map(|record| Change {
        old: records(first).into_iter().find(|old| old.uid == record.uid),
        new: Some(Arc::clone(record)),
    });
    assembly.replace_services(changes.collect());
    assembly.assemble()
}

#[test]
fn a_service_that_is_served_keeps_its_name_and_port_when_an_older_one_is_annotated() {
    let running = at(load_balancer("finance", 8080), "2026-11-24T02:00:00Z");
    let old = |name: &str, port| {
        let service = with(load_balancer(name, port), "/metadata/namespace", json!("api"));
        let service = with(service, "/metadata/uid", json!(format!("old-{name}")));
        at(service, "2020-01-01T00:00:00Z")
    };
    let (same_port, same_name) = (old("ledger", 8080), old("finance", 9090));
    let then = [running.clone(), same_port, same_name];
    let assembled = served_after(std::slice::from_ref(&running), &then);
    assert_eq!(
        names(&assembled.desired),
        ["finance.api TCP 9090", "finance TCP 8080"]
    );
    assert_eq!(
        refusals(&assembled),
        ["api/ledger PortConflict", "api/ledger NoPorts"]
    );
    assert_eq!(
        assembled.refused[0].message,
        "TCP 8080 belongs to Service web/finance"
    );
}

#[test]
fn a_service_that_is_served_with_its_namespace_keeps_that_name_when_the_short_one_is_free() {
    let ports = json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]);
    let first = at(load_balancer("shop", 8080), "2026-11-24T01:00:00Z");
    let second = with(load_balancer("shop", 8080), "/metadata/namespace", json!("api"));
    let second = with(
        with(second, "/metadata/uid", json!("second")),
        "/spec/ports",
        ports,
    );
    let second = at(second, "2026-11-24T02:00:00Z");
    let all = records(&[first.clone(), second.clone()]);
    let mut assembly = assembly(&config("{services: true}", ""));
    assembly.replace_services(new(&all));
    let long = ["shop-http.api shop.api TCP 80", "shop-https.api shop.api TCP 443"];
    let both = [&long[..], &["shop TCP 8080"]].concat();
    assert_eq!(names(&assembly.assemble().desired), both);
    let gone = |record: &Arc<ServiceRecord>| Change {
        old: Some(Arc::clone(record)),
        new: None,
    };
    assembly.replace_services(vec![gone(&all[0])]);
    assert_eq!(names(&assembly.assemble().desired), long);
    assembly.replace_services(new(&records(&[first])));
    let assembled = assembly.assemble();
    assert_eq!(names(&assembled.desired), both);
    assert_eq!(assembled.refused, []);
    // A balancer that starts when the first one is gone gives the second one the short names.
    let restarted = served("", &[second], &[], &[]);
    assert_eq!(
        names(&restarted.desired),
        ["shop-http shop TCP 80", "shop-https shop TCP 443"]
    );
}

#[test]
fn a_service_that_is_served_keeps_its_port_when_an_older_served_one_asks_for_it() {
    let older = at(load_balancer("older", 80), "2026-11-24T01:00:00Z");
    let newer = at(load_balancer("newer", 81), "2026-11-24T02:00:00Z");
    let ports = json!([
        {"name": "http", "port": 80},
        {"name": "admin", "port": 81},
    ]);
    let widened = with(older.clone(), "/spec/ports", ports);
    let assembled = served_after(&[older, newer.clone()], &[widened, newer]);
    let mut served = names(&assembled.desired);
    served.sort();
    assert_eq!(served, ["newer TCP 81", "older-http older TCP 80"]);
    assert_eq!(refusals(&assembled), ["web/older PortConflict"]);
}

#[test]
fn a_port_that_is_given_up_is_free_for_others() {
    let running = at(load_balancer("finance", 8080), "2026-11-24T02:00:00Z");
    let moved = at(load_balancer("finance", 8081), "2026-11-24T02:00:00Z");
    let later = at(load_balancer("ledger", 8080), "2026-11-24T03:00:00Z");
    let assembled = served_after(std::slice::from_ref(&running), &[moved, later]);
    let mut served = names(&assembled.desired);
    served.sort();
    assert_eq!(served, ["finance TCP 8081", "ledger TCP 8080"]);
}

#[test]
fn after_a_restart_the_service_with_our_status_comes_before_an_older_one() {
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "172.16.1.9"}]}});
    let managers = json!([{"manager": "vl3-lb", "operation": "Apply", "subresource": "status"}]);
    let running = at(load_balancer("running", 80), "2026-11-24T02:00:00Z");
    let running = with(
        with(running, "/status", ingress),
        "/metadata/managedFields",
        managers,
    );
    let old = at(load_balancer("old", 80), "2020-01-01T00:00:00Z");
    let collected = served("", &[old, running], &[], &[]);
    assert_eq!(names(&collected.desired), ["running TCP 80"]);
}

#[test]
fn the_name_of_one_port_that_is_taken_does_not_cost_the_others() {
    let http = at(load_balancer("shop-http", 1), "2026-11-24T01:00:00Z");
    let ports = json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]);
    let shop = with(load_balancer("shop", 2), "/spec/ports", ports);
    let shop = at(shop, "2026-11-24T02:00:00Z");
    let collected = served("", &[http, shop], &[], &[]);
    let mut served = names(&collected.desired);
    served.sort();
    assert_eq!(served, ["shop-http TCP 1", "shop-https shop TCP 443"]);
    assert_eq!(refusals(&collected), ["web/shop NameConflict"]);
}
