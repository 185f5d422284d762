use super::*;

#[test]
fn a_connection_keeps_addresses_of_both_families_and_no_token() {
    let wire = Wire::new(
        "server-0",
        "nse-0",
        &["172.16.1.2/32", "2001:db8::2/128", "172.16.1.2/32"],
    );
    let connection = wire.label("nodeName", "node-1").read("nse-0").unwrap();
    let addresses: Vec<String> = connection.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["172.16.1.2", "2001:db8::2"]);
    assert_eq!(connection.node().unwrap(), "node-1");
    assert_eq!(connection.client.namespace(), Some("web"));
    let debug = format!("{connection:?}");
    assert!(!debug.contains("eyJ") && !debug.contains("c2ln"), "{debug}");
}

#[test]
fn connections_that_cannot_be_backends_are_left_out_for_a_reason() {
    let wire = |address| Wire::new("server-0", "nse-0", &[address]);
    let changed = |change: fn(&mut proto::Connection)| {
        let mut wire = wire("172.16.1.2/32");
        change(&mut wire.0);
        wire
    };
    for (case, wire, reason) in [
        (
            "no path",
            changed(|connection| connection.path = None),
            Skip::NoPath,
        ),
        (
            "empty path",
            changed(|connection| connection.path = Some(proto::Path::default())),
            Skip::NoPath,
        ),
        ("client without id", wire("172.16.1.2/32").id(""), Skip::NoPath),
        (
            "a connection of the endpoint as client",
            changed(|connection| "nse-1".clone_into(&mut connection.network_service_endpoint_name)),
            Skip::OtherEndpoint,
        ),
        (
            "no endpoint selected yet",
            changed(|connection| {
                connection.network_service_endpoint_name.clear();
                connection.path.as_mut().unwrap().path_segments.pop();
            }),
            Skip::OtherEndpoint,
        ),
        (
            "another service of the endpoint",
            changed(|connection| "other-vl3".clone_into(&mut connection.network_service)),
            Skip::OtherService,
        ),
        (
            "no context",
            changed(|connection| connection.context = None),
            Skip::NoAddress,
        ),
        ("no address", Wire::new("server-0", "nse-0", &[]), Skip::NoAddress),
        ("not an address", wire("172.16.1/32"), Skip::NoAddress),
        ("multicast", wire("224.0.0.1/32"), Skip::NoAddress),
        ("loopback", wire("127.0.0.1/32"), Skip::NoAddress),
    ] {
        assert_eq!(wire.read("nse-0"), Err(reason), "{case}");
    }
    let unnamed = changed(|connection| connection.network_service_endpoint_name.clear());
    assert!(unnamed.read("nse-0").is_ok(), "the path names the endpoint");
    let partly = Wire::new("server-0", "nse-0", &["nonsense", "172.16.1.2"]);
    assert_eq!(
        partly.read("nse-0").unwrap().addresses.len(),
        1,
        "one of two is usable"
    );
}

#[test]
fn the_pod_of_a_client_has_its_name_without_the_webhooks_uuid() {
    for (name, pod) in [
        ("server-0", "server-0"),
        ("alpine-3b241101-e2bb-4255-8caf-4136c566a962", "alpine"),
        (
            "alpine-3b241101-e2bb-4255-8caf-4136c566a96x",
            "alpine-3b241101-e2bb-4255-8caf-4136c566a96x",
        ),
        (
            "3b241101-e2bb-4255-8caf-4136c566a962",
            "3b241101-e2bb-4255-8caf-4136c566a962",
        ),
        (
            "a3b241101-e2bb-4255-8caf-4136c566a962",
            "a3b241101-e2bb-4255-8caf-4136c566a962",
        ),
        (
            "größe-und-noch-viel-mehr-als-sechsunddreißig-zeichen",
            "größe-und-noch-viel-mehr-als-sechsunddreißig-zeichen",
        ),
        ("", ""),
    ] {
        let connection = Wire::new(name, "nse-0", &["172.16.1.2/32"])
            .read("nse-0")
            .unwrap();
        assert_eq!(connection.client.pod(), pod);
    }
}
