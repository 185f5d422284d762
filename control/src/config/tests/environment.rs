//! What the predecessor's environment says.

use super::*;

#[test]
fn the_predecessors_environment_makes_a_service() {
    let config = with_env(
        None,
        &[
            ("NSM_NAME", "finance"),
            ("NSM_PORT", "8080"),
            ("NSM_TARGET_PORT", "8081"),
            ("NSM_PROTOCOL", "TCP"),
            ("NSM_SELECTOR", "app:finance,tier:web"),
            ("NSM_LOG_LEVEL", "TRACE"),
            ("NSM_DIAL_TIMEOUT", "10m0s"),
            ("NSM_CONNECT_TO", "unix:///run/nsm.sock"),
            ("NSM_NETWORK_SERVICES", "kernel://vl3-lb/nsm-1"),
            ("NSM_METRICS_EXPORT_INTERVAL", "30s"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel"),
            (
                "NSM_OPEN_TELEMETRY_ENDPOINT",
                "otel-collector.observability.svc.cluster.local:4317",
            ),
            ("NSM_PPROF_ENABLED", "true"),
            ("NSM_PPROF_LISTEN_ON", "localhost:6060"),
            ("VL3LB_ADMIN_LISTEN", "10.0.0.1:9090"),
            ("VL3LB_ADMIN_API", "none"),
        ],
    )
    .unwrap();
    let service = &config.services[0];
    assert_eq!(
        (service.name.as_str(), service.port, &service.target_port),
        ("finance", 8080, &TargetPort::Number(8081))
    );
    assert_eq!(service.selector.to_string(), "app=finance,tier=web");
    assert_eq!(config.log_level, LogLevel::Trace);
    assert_eq!(config.nsm.dial_timeout, Duration::from_secs(600));
    assert_eq!(config.nsm.max_token_lifetime, Duration::from_secs(600));
    assert_eq!(config.nsm.network_service.unwrap().name, "vl3-lb");
    assert_eq!(config.interface, "nsm-1");
    assert_eq!(config.admin.listen.to_string(), "10.0.0.1:9090");
    assert_eq!(config.admin.api, Api::None);
    assert_eq!(config.admin.profile, cfg!(feature = "profile"));
    let endpoint = config.telemetry.endpoint.map(String::from);
    assert_eq!(
        endpoint.as_deref(),
        Some("http://otel-collector.observability.svc.cluster.local:4317/")
    );
    assert_eq!(config.telemetry.interval, Duration::from_secs(30));
}

#[test]
fn the_target_port_defaults_to_the_port() {
    let config = with_env(None, &[("NSM_PORT", "8080")]).unwrap();
    assert_eq!(config.services[0].target_port, TargetPort::Number(8080));
    assert_eq!(config.services[0].name, "cmd-lb-vl3-vpp");
}

#[test]
fn the_service_is_called_as_the_network_calls_the_pod() {
    let config = with_env(
        None,
        &[
            ("NSM_NAME", "finance-lb-7c9d"),
            ("NSM_PORT", "80"),
            ("NSM_SELECTOR", "app:finance"),
            ("NSM_NETWORK_SERVICES", "kernel://vl3-lb/nsm-1?podName=finance"),
        ],
    )
    .unwrap();
    assert_eq!(config.services[0].name, "finance");
    let config = with_env(
        None,
        &[
            ("NSM_NAME", "finance-lb-7c9d"),
            ("POD_NAME", "finance"),
            ("NSM_PORT", "80"),
            ("NSM_SELECTOR", "app:finance"),
            ("NSM_NETWORK_SERVICES", "kernel://vl3-lb/nsm-1"),
        ],
    )
    .unwrap();
    assert_eq!(
        config.services[0].name, "finance",
        "the label that becomes the DNS name"
    );
}

#[test]
fn the_request_has_the_labels_of_url_variables_and_place() {
    let config = with_env(
        None,
        &[
            ("NSM_NAME", "finance-lb-7c9d"),
            ("NSM_PORT", "80"),
            ("NSM_SELECTOR", "app:finance"),
            (
                "NSM_NETWORK_SERVICES",
                "kernel://vl3-lb/net0?podName=finance&app=lb",
            ),
            ("NSM_LABELS", "app:other,tier:web"),
            ("POD_NAME", "finance-lb-7c9d"),
            ("NODE_NAME", "node-1"),
            ("CLUSTER_NAME", "west"),
            ("SPIFFE_ENDPOINT_SOCKET", "unix:///tmp/agent.sock"),
        ],
    )
    .unwrap();
    assert_eq!(config.interface, "net0");
    assert_eq!(config.nsm.workload_api, "unix:///tmp/agent.sock");
    let labels = config.nsm.network_service.unwrap().labels;
    let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        labels,
        [
            "app=lb",
            "clusterName=west",
            "nodeName=node-1",
            "podName=finance",
            "tier=web"
        ]
    );
}

#[test]
fn the_predecessors_defaults_are_kept() {
    let nsm = with_env(None, &[("NSM_PORT", "80")]).unwrap().nsm;
    assert_eq!(nsm.name, "cmd-lb-vl3-vpp");
    assert_eq!(
        nsm.connect_to.as_str(),
        "unix:///var/lib/networkservicemesh/nsm.io.sock"
    );
    assert_eq!(nsm.dial_timeout, Duration::from_secs(5));
    assert_eq!(nsm.request_timeout, Duration::from_secs(15));
    assert_eq!(nsm.max_token_lifetime, Duration::from_secs(600));
    assert_eq!(nsm.network_service, None);
}

#[test]
fn settings_of_a_client_that_cannot_work_are_rejected() {
    let network_service = ("NSM_NETWORK_SERVICES", "kernel://vl3-lb/nsm-1");
    for (variable, error) in [
        (
            ("NSM_CONNECT_TO", "tcp://127.0.0.1:5001"),
            "NSM_CONNECT_TO: tcp://127.0.0.1:5001, allowed a unix:// URL with NSM_NETWORK_SERVICES: the network \
             namespace is passed as a file descriptor",
        ),
        (
            ("NSM_MAX_TOKEN_LIFETIME", "20s"),
            "NSM_REQUEST_TIMEOUT: 15s, allowed at most half of NSM_MAX_TOKEN_LIFETIME, 20s",
        ),
        (
            ("NSM_LABELS", "app"),
            "NSM_LABELS: app, allowed labels such as app:finance,tier:web",
        ),
        (
            ("SPIFFE_ENDPOINT_SOCKET", "/run/agent.sock"),
            "SPIFFE_ENDPOINT_SOCKET: /run/agent.sock, allowed a URL such as unix:///run/spire/sockets/agent.sock",
        ),
    ] {
        let selector = ("NSM_SELECTOR", "app:finance");
        let rejected = with_env(None, &[("NSM_PORT", "80"), selector, network_service, variable]);
        assert_eq!(rejected, Err(vec![error.to_owned()]));
    }
    // Without a request of its own it may be anywhere.
    let discovers = [("NSM_PORT", "80"), ("NSM_CONNECT_TO", "tcp://127.0.0.1:5001")];
    with_env(None, &discovers).unwrap();
}

#[test]
fn the_environment_takes_precedence_over_the_file() {
    let file = "{logLevel: error, services: [{name: a, port: 80, backends: [{address: 10.0.0.1}]}, {name: b, \
                port: 81}]}";
    let changed = with_env(
        Some(file),
        &[
            ("NSM_NAME", "b"),
            ("NSM_PORT", "82"),
            ("NSM_LOG_LEVEL", "warning"),
        ],
    )
    .unwrap();
    let ports: Vec<_> = changed
        .services
        .iter()
        .map(|s| (s.port, s.target_port.clone()))
        .collect();
    assert_eq!(
        ports,
        [(80, TargetPort::Number(80)), (82, TargetPort::Number(82))]
    );
    assert_eq!(changed.log_level, LogLevel::Warn);

    let added = with_env(Some(file), &[("NSM_NAME", "c"), ("NSM_PORT", "82")]).unwrap();
    assert_eq!(added.services[2].name, "c");

    let only = with_env(
        Some("services: [{name: a, port: 80}]"),
        &[("NSM_TARGET_PORT", "8081")],
    )
    .unwrap();
    assert_eq!(only.services[0].port, 80);
    assert_eq!(only.services[0].target_port, TargetPort::Number(8081));
}

#[test]
fn invalid_variables_are_named() {
    for (name, value, error) in [
        ("NSM_PORT", "70000", "NSM_PORT: 70000, allowed 1-65535"),
        ("NSM_TARGET_PORT", "0", "NSM_TARGET_PORT: 0, allowed 1-65535"),
        (
            "NSM_PROTOCOL",
            "DCCP",
            "NSM_PROTOCOL: DCCP, allowed TCP, UDP, SCTP",
        ),
        (
            "NSM_SELECTOR",
            "app=x",
            "NSM_SELECTOR: app=x, allowed labels such as app:finance,tier:web",
        ),
        (
            "NSM_DIAL_TIMEOUT",
            "5",
            "NSM_DIAL_TIMEOUT: 5, allowed a duration such as 500ms, 60s, 10m0s or 1h30m",
        ),
        (
            "NSM_CONNECT_TO",
            "nsmgr",
            "NSM_CONNECT_TO: nsmgr, allowed a unix:// or tcp:// URL",
        ),
        (
            "NSM_NETWORK_SERVICES",
            "memif://vl3-lb/nsm-1",
            "NSM_NETWORK_SERVICES: memif://vl3-lb/nsm-1, allowed kernel://, as in kernel://vl3-lb/nsm-1",
        ),
        (
            "NSM_LOG_LEVEL",
            "loud",
            "NSM_LOG_LEVEL: loud, allowed panic, fatal, error, warn, warning, info, debug, trace",
        ),
        (
            "NSM_PPROF_ENABLED",
            "yes",
            "NSM_PPROF_ENABLED: yes, allowed true, false",
        ),
        (
            "VL3LB_ADMIN_LISTEN",
            "9090",
            "VL3LB_ADMIN_LISTEN: 9090, allowed an address and port such as 127.0.0.1:9090",
        ),
    ] {
        let rejected = with_env(Some("services: [{name: a, port: 80}]"), &[(name, value)]);
        assert_eq!(rejected, Err(vec![error.to_owned()]));
    }
    assert_eq!(
        with_env(Some("{}"), &[("NSM_NAME", "a"), ("NSM_TARGET_PORT", "80")]),
        Err(vec!["NSM_PORT: missing, allowed 1-65535".to_owned()])
    );
    assert_eq!(
        with_env(
            Some("services: [{name: a, port: 80}, {name: c, port: 81}]"),
            &[("NSM_NAME", "b"), ("NSM_PORT", "80")]
        ),
        Err(vec![
            "NSM_PORT.port: 80, allowed one service per port and protocol (TCP 80 is services[0])".to_owned()
        ])
    );
}

#[test]
fn the_environment_changes_one_of_the_services_of_a_name_only() {
    let file =
        "services: [{name: a, port: 80, addresses: [10.0.0.1]}, {name: a, port: 80, addresses: [10.0.0.2]}]";
    let rejected = with_env(Some(file), &[("NSM_NAME", "a"), ("NSM_TARGET_PORT", "81")]);
    let error = "NSM_TARGET_PORT: 81, allowed only while one service has the name a (services[1] is another)";
    assert_eq!(rejected, Err(vec![error.to_owned()]));
}
