//! Discovery of the clients of a network service.

use super::*;

const ENVIRONMENT: [(&str, &str); 3] = [
    ("NSM_PORT", "8080"),
    ("NSM_SELECTOR", "app:finance"),
    ("NSM_NETWORK_SERVICES", "kernel://vl3-lb/nsm-1"),
];

#[test]
fn the_environment_alone_discovers_the_clients_of_its_network_service() {
    let config = with_env(None, &ENVIRONMENT).unwrap();
    assert_eq!(config.discovery, Discovery::Nsm);
    assert_eq!(config.network_service.as_deref(), Some("vl3-lb"));
    assert_eq!(config.services[0].health_check, Some(HealthCheck::tcp()));
    let errors = with_env(None, &[ENVIRONMENT[0], ENVIRONMENT[2]]).unwrap_err();
    let error = "NSM_SELECTOR: missing, allowed labels such as app:finance,tier:web";
    assert_eq!(errors, [error]);
}

#[test]
fn a_file_names_the_network_service_or_leaves_it_to_the_environment() {
    let service = "services: [{name: a, port: 80, selector: {app: a}}]";
    for (section, name) in [
        ("discovery: nsm, networkService: other-vl3", "other-vl3"),
        ("discovery: nsm", "vl3-lb"),
        ("discovery: kubernetes, kubernetes: {addressFrom: nsm}", "vl3-lb"),
    ] {
        let text = format!("{{{section}, {service}}}");
        let config = with_env(Some(&text), &ENVIRONMENT[2..]).unwrap();
        assert_eq!(config.network_service.as_deref(), Some(name), "{section}");
        assert_eq!(
            config.services[0].health_check,
            Some(HealthCheck::tcp()),
            "{section}"
        );
        let printed = with_env(Some(&config.to_yaml()), &[]).unwrap();
        assert_eq!(printed.network_service, config.network_service, "{section}");
        assert_eq!(printed.services, config.services, "{section}");
    }
    let listed = with_env(Some("{services: []}"), &ENVIRONMENT[2..]).unwrap();
    assert_eq!(
        listed.discovery,
        Discovery::Static,
        "a file says where backends are from"
    );
}

#[test]
fn checks_of_clients_can_be_switched_off_and_need_a_port_for_udp() {
    let read = |service: &str| {
        let text = format!(
            "{{discovery: nsm, networkService: vl3-lb, services: [{{name: a, port: 80, selector: {{app: a}}, {service}}}]}}"
        );
        let loaded = Config::parse(Some(&text), "lb.yaml", &|_| None, &EPHEMERAL).unwrap();
        (loaded.config, loaded.notes)
    };
    for off in ["healthCheck: off", "healthCheck: false"] {
        let (config, notes) = read(off);
        assert_eq!(config.services[0].health_check, None, "{off}");
        assert!(notes.is_empty());
        let printed = with_env(Some(&config.to_yaml()), &[]).unwrap();
        assert_eq!(printed.services[0].health_check, None, "{off}");
    }
    let (config, notes) = read("protocol: UDP");
    assert_eq!(config.services[0].health_check, None);
    let note = "services[0]: clients that die without leaving the network service are noticed when their tokens \
                expire: set healthCheck.tcp.port to a port where they answer TCP";
    assert_eq!(notes, [note]);
    let (config, notes) = read("protocol: UDP, healthCheck: {tcp: {port: 54}}");
    assert!(config.services[0].health_check.is_some() && notes.is_empty());
}

#[test]
fn settings_invalid_with_nsm_discovery_are_rejected() {
    let form = "a mapping of labels to values, or text such as \"app=finance,tier in (web,api),!canary\"";
    let service = "services: [{name: a, port: 80, selector: {app: a}}]";
    for (text, error) in [
        (
            format!("{{discovery: nsm, {service}}}"),
            "networkService: missing, allowed the network service whose clients are backends, or NSM_NETWORK_SERVICES"
                .to_owned(),
        ),
        (
            format!("{{discovery: nsm, networkService: 'a b', {service}}}"),
            "networkService: \"a b\", allowed the name of a network service".to_owned(),
        ),
        (
            format!("{{networkService: vl3-lb, {service}}}"),
            "networkService: vl3-lb, allowed it with discovery: nsm or kubernetes.addressFrom: nsm only".to_owned(),
        ),
        (
            "{discovery: nsm, networkService: a, services: [{name: a, port: 80}]}".to_owned(),
            format!("services[0].selector: missing, allowed {form}"),
        ),
        (
            "{discovery: nsm, networkService: a, services: [{name: a, port: 80, selector: {}}]}".to_owned(),
            format!("services[0].selector: missing, allowed {form}"),
        ),
        (
            "{discovery: nsm, networkService: a, services: [{name: a, port: 80, targetPort: http, selector: {a: b}}]}"
                .to_owned(),
            "services[0].targetPort: http, allowed 1-65535; a name with discovery: kubernetes only".to_owned(),
        ),
        (
            "{discovery: nsm, networkService: a, services: [{name: a, port: 80, selector: {a: b}, backends: [{address: \
             10.0.0.1}]}]}"
                .to_owned(),
            "services[0].backends: 1 listed, allowed none: with discovery: nsm they are the clients of the network \
             service that selector selects"
                .to_owned(),
        ),
        (
            format!("{{discovery: nsm, networkService: a, kubernetes: {{}}, {service}}}"),
            "kubernetes: {}, allowed this section with discovery: kubernetes only".to_owned(),
        ),
    ] {
        let errors = with_env(Some(&text), &[]).unwrap_err();
        assert_eq!(errors[0], error, "{text}");
    }
}
