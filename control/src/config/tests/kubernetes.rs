//! Discovery by Kubernetes.

use super::*;

#[test]
fn settings_invalid_with_kubernetes_discovery_are_rejected() {
    let form = "a mapping of labels to values, or text such as \"app=finance,tier in (web,api),!canary\"";
    for (section, service, error) in [
        ("{}", "port: 80", format!("services[0].selector: missing, allowed {form}")),
        ("{}", "port: 80, selector: {}", format!("services[0].selector: missing, allowed {form}")),
        (
            "{}",
            "port: 80, selector: 'app in finance'",
            format!("services[0].selector: \"app in finance\", allowed {form}"),
        ),
        (
            "{}",
            "port: 80, selector: {app: a}, backends: [{address: 10.0.0.1}]",
            "services[0].backends: 1 listed, allowed none: with discovery: kubernetes they are the pods that \
             selector selects"
                .to_owned(),
        ),
        (
            "{addressFrom: 'annotation:'}",
            "port: 80, selector: {app: a}",
            "kubernetes.addressFrom: annotation:, allowed pod-ip, network-status:NETWORK or INTERFACE, \
             annotation:KEY, nsm"
                .to_owned(),
        ),
        (
            "{namespaces: [Web]}",
            "port: 80, selector: {app: a}",
            "kubernetes.namespaces: [\"Web\"], allowed all, or a list of namespaces".to_owned(),
        ),
        (
            "{labelSelector: 'a=b=c'}",
            "port: 80, selector: {app: a}",
            format!("kubernetes.labelSelector: a=b=c, allowed {form}"),
        ),
        (
            "{namespace: web}",
            "port: 80, selector: {app: a}",
            "kubernetes.namespace: unknown key (value web), allowed services, namespaces, addressFrom, \
             labelSelector, topology, group, claims, quotas, pools"
                .to_owned(),
        ),
        (
            "{services: 'yes'}",
            "port: 80, selector: {app: a}",
            "kubernetes.services: yes, allowed true, false".to_owned(),
        ),
        (
            "{topology: {prefer: rack}}",
            "port: 80, selector: {app: a}",
            "kubernetes.topology.prefer: rack, allowed none, zone, node".to_owned(),
        ),
        (
            "{topology: {prefer: node}}",
            "port: 80, selector: {app: a}",
            "kubernetes.topology.prefer: node, allowed none, or set NODE_NAME (spec.nodeName by the \
             downward API)"
                .to_owned(),
        ),
        (
            "{topology: {prefer: zone}}",
            "port: 80, selector: {app: a}",
            "kubernetes.topology.prefer: zone, allowed none, or set NODE_NAME or NODE_ZONE (spec.nodeName by \
             the downward API)"
                .to_owned(),
        ),
        (
            "{namespaces: all}",
            "port: 80, selector: {app: a}",
            "services[0].namespaces: missing, allowed the namespaces whose pods may be backends, or all: \
             kubernetes.namespaces has several"
                .to_owned(),
        ),
        (
            "{namespaces: [web, api]}",
            "port: 80, selector: {app: a}, namespaces: [ops]",
            "services[0].namespaces: ops, allowed namespaces in kubernetes.namespaces".to_owned(),
        ),
        (
            "{namespaces: all}",
            "port: 80, selector: {app: a}, namespaces: []",
            "services[0].namespaces: [], allowed all, or a list of namespaces that is not empty".to_owned(),
        ),
        (
            "{claims: [{namespaces: [web], networks: [10.0.0.1/8]}]}",
            "port: 80, selector: {app: a}",
            "kubernetes.claims[0].networks: [\"10.0.0.1/8\"], allowed routed, or a list of networks such as \
             10.0.0.0/8 or 2001:db8::/32, without host bits"
                .to_owned(),
        ),
        (
            "{claims: [{namespaces: all}]}",
            "port: 80, selector: {app: a}",
            "kubernetes.claims[0].networks: missing, allowed routed, or a list of networks such as 10.0.0.0/8 or \
             2001:db8::/32, without host bits"
                .to_owned(),
        ),
        (
            "{pools: [{name: a}]}",
            "port: 80, selector: {app: a}",
            "kubernetes.pools[0].addresses: none, allowed at least one address or network".to_owned(),
        ),
        (
            "{pools: [{name: a, addresses: [10.0.0.1]}, {name: a, addresses: [10.0.0.2]}]}",
            "port: 80, selector: {app: a}",
            "kubernetes.pools[1].name: a, allowed a name of its own".to_owned(),
        ),
        (
            "{quotas: [{services: 1025}]}",
            "port: 80, selector: {app: a}",
            "kubernetes.quotas[0].services: 1025, allowed 0-1024".to_owned(),
        ),
        (
            "{group: Finance LB}",
            "port: 80, selector: {app: a}",
            format!("kubernetes.group: \"Finance LB\", allowed {}", LABEL_FORM),
        ),
    ] {
        let text =
            format!("{{discovery: kubernetes, kubernetes: {section}, services: [{{name: a, {service}}}]}}");
        assert_eq!(parse(&text), Err(vec![error]), "{text}");
    }
}

#[test]
fn the_environment_sets_the_group_with_kubernetes_discovery() {
    let group = |text| {
        let config = with_env(Some(text), &[("VL3LB_GROUP", "finance")]).unwrap();
        config.kubernetes.map(|kubernetes| kubernetes.group)
    };
    let text = "{discovery: kubernetes, kubernetes: {group: other}, services: []}";
    assert_eq!(group(text).as_deref(), Some("finance"));
    assert_eq!(group("services: []"), None);
    let unset = parse(&text.replace("{group: other}", "{}")).unwrap();
    assert_eq!(unset.kubernetes.unwrap().group, "vl3-lb");
}

#[test]
fn kubernetes_discovery_has_defaults() {
    let config = parse(
        "{discovery: kubernetes, services: [{name: a, port: 80, targetPort: http, selector: 'app in (a,b)'}]}",
    )
    .unwrap();
    assert_eq!(config.kubernetes, Some(Kubernetes::default()));
    let [service] = &config.services[..] else {
        panic!("one service expected")
    };
    assert_eq!(service.target_port, TargetPort::Name("http".to_owned()));
    assert_eq!(service.selector.to_string(), "app in (a,b)");
}

#[test]
fn the_environment_sets_node_and_zone() {
    let text = "{discovery: kubernetes, kubernetes: {topology: {prefer: node}}}";
    let env = |name: &str| match name {
        "NODE_NAME" => Some("worker-1".to_owned()),
        "NODE_ZONE" => Some(" east ".to_owned()),
        _ => None,
    };
    let loaded = Config::parse(Some(text), "lb.yaml", &env, &(32_768..=60_999)).unwrap();
    let topology = loaded.config.kubernetes.unwrap().topology;
    assert_eq!(topology.prefer, Prefer::Node);
    assert_eq!(topology.node.as_deref(), Some("worker-1"));
    assert_eq!(topology.zone.as_deref(), Some("east"));
}

#[test]
fn namespaces_of_a_service_belong_to_discovery_by_kubernetes() {
    let text = "services: [{name: a, port: 80, namespaces: [web]}]";
    assert_eq!(
        parse(text),
        Err(vec![
            "services[0].namespaces: given, allowed it with discovery: kubernetes only".to_owned()
        ])
    );
}

#[test]
fn quotas_are_those_of_the_first_entry_with_the_namespace() {
    let kubernetes = |text: &str| {
        let config = parse(&format!("{{discovery: kubernetes, kubernetes: {text}}}")).unwrap();
        config.kubernetes.unwrap()
    };
    assert_eq!(
        kubernetes("{}").quota("web"),
        (1024, 16_384),
        "one namespace has everything"
    );
    let several = kubernetes("{namespaces: all}");
    assert_eq!(several.quota("web"), (256, 4096), "a quarter of all places");
    let given = kubernetes("{quotas: [{namespaces: [web], services: 5}, {backends: 7}]}");
    assert_eq!(given.quota("web"), (5, 16_384));
    assert_eq!(given.quota("api"), (1024, 7));
}
