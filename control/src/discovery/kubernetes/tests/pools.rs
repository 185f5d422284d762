//! Services that ask for an address of a pool.

use super::declared::refusals;
use super::*;

const POOLS: &str = "{services: true, namespaces: [web, api], pools: [\
                     {name: public, addresses: [172.16.1.0/24, '2001:db8::/64']}, \
                     {name: inner, addresses: [172.16.2.1], namespaces: [api]}, \
                     {name: empty, addresses: [192.0.2.0/24]}]}";

/// A Service of the balancer's class that asks for an address of a pool.
fn pooled(name: &str, port: u16, pool: &str) -> Arc<ServiceRecord> {
    let service = with(
        load_balancer(name, port),
        "/metadata/annotations/vl3-lb.io~1pool",
        json!(pool),
    );
    Arc::clone(&kept::<ServiceRecord>(&[service])[0])
}

/// A balancer at these addresses, with nothing known.
fn balancer(own: &[&str]) -> Assembly {
    let mut assembly = assembly(&config(POOLS, ""));
    assembly.replace_surroundings(at(own));
    assembly
}

fn at(own: &[&str]) -> Surroundings {
    Surroundings::new(own.iter().map(|own| own.parse().unwrap()).collect(), Vec::new())
}

/// `name addresses` of each service.
fn listening(assembled: &Assembled) -> Vec<String> {
    let services = assembled.desired.services.iter();
    services
        .map(|service| format!("{} {}", service.name, service.addresses))
        .collect()
}

#[test]
fn services_that_collide_on_one_address_get_one_each() {
    let mut assembly = balancer(&["172.16.1.103", "172.16.1.104", "2001:db8::67", "172.16.2.1"]);
    let services = ["a", "b", "c"].map(|name| pooled(name, 80, "public"));
    assembly.replace_services(new(&services));
    let assembled = assembly.assemble();
    // There are two addresses of IPv4 and one of IPv6.
    assert_eq!(
        listening(&assembled),
        ["a 172.16.1.103, 2001:db8::67", "b 172.16.1.104"]
    );
    let mut assembly = balancer(&["172.16.1.103", "172.16.1.104", "172.16.2.1"]);
    assembly.replace_services(new(&services));
    let assembled = assembly.assemble();
    assert_eq!(listening(&assembled), ["a 172.16.1.103", "b 172.16.1.104"]);
    assert_eq!(refusals(&assembled), ["web/c PortConflict", "web/c NoPorts"]);
    assert_eq!(
        assembled.refused[0].message,
        "TCP 80 at 172.16.1.103 belongs to Service web/a"
    );

    // The third one gets the address of the first, and the second keeps its own.
    assembly.replace_services(vec![Change {
        old: Some(Arc::clone(&services[0])),
        new: None,
    }]);
    assert_eq!(
        listening(&assembly.assemble()),
        ["b 172.16.1.104", "c 172.16.1.103"]
    );
    // An address that is gone is replaced.
    assembly.replace_surroundings(at(&["172.16.1.103", "172.16.1.105"]));
    assert_eq!(
        listening(&assembly.assemble()),
        ["b 172.16.1.105", "c 172.16.1.103"]
    );
}

#[test]
fn services_of_one_name_and_port_in_two_namespaces_get_an_address_each() {
    let mut assembly = balancer(&["172.16.1.103", "172.16.1.104"]);
    let service = with(load_balancer("a", 80), "/metadata/namespace", json!("api"));
    let service = with(service, "/metadata/uid", json!("second"));
    let service = with(service, "/metadata/annotations/vl3-lb.io~1pool", json!("public"));
    let second = kept::<ServiceRecord>(&[with(
        service,
        "/metadata/creationTimestamp",
        json!("2026-11-25T08:00:00Z"),
    )]);
    assembly.replace_services(new(&[pooled("a", 80, "public"), Arc::clone(&second[0])]));
    let assembled = assembly.assemble();
    assert_eq!(listening(&assembled), ["a.api 172.16.1.104", "a 172.16.1.103"]);
    assert_eq!(assembled.refused, []);
}

#[test]
fn a_pool_must_be_known_allowed_and_have_an_address_here() {
    for (pool, reason, message) in [
        (
            "other",
            "InvalidAnnotation",
            "annotation vl3-lb.io/pool: \"other\", allowed public, empty (kubernetes.pools for namespace web)",
        ),
        (
            "inner",
            "InvalidAnnotation",
            "annotation vl3-lb.io/pool: \"inner\", allowed public, empty (kubernetes.pools for namespace web)",
        ),
        (
            "empty",
            "NoAddress",
            "annotation vl3-lb.io/pool: \"empty\": none of the balancer's addresses is in that pool, allowed \
             192.0.2.0/24",
        ),
    ] {
        let mut assembly = balancer(&["172.16.1.103"]);
        assembly.replace_services(new(&[pooled("a", 80, pool)]));
        let assembled = assembly.assemble();
        assert!(assembled.desired.services.is_empty(), "{pool}");
        assert_eq!(refusals(&assembled), [format!("web/a {reason}")]);
        assert_eq!(assembled.refused[0].message, message);
    }
}

#[test]
fn a_service_without_a_pool_has_all_addresses() {
    let mut assembly = balancer(&["172.16.1.103", "172.16.1.104"]);
    let plain = kept::<ServiceRecord>(&[load_balancer("plain", 80)]);
    assembly.replace_services(new(&plain));
    assembly.assemble();
    assembly.replace_services(new(&[
        pooled("late", 80, "public"),
        pooled("other", 81, "public"),
    ]));
    let assembled = assembly.assemble();
    assert_eq!(
        listening(&assembled),
        ["other 172.16.1.103", "plain all addresses"]
    );
    assert_eq!(
        refusals(&assembled),
        ["web/late PortConflict", "web/late NoPorts"]
    );
}
