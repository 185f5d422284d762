//! Valid configurations, and the error of each invalid setting.

mod environment;
mod file;
mod fuzz;
mod kubernetes;
mod nsm;
mod rejected;
mod rejected_services;
mod yaml_types;

use super::*;

const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

fn no_env(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    with_env(Some(text), &[])
}

fn with_env(text: Option<&str>, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let env = |name: &str| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Config::parse(text, "lb.yaml", &env, &EPHEMERAL)
        .map(|loaded| loaded.config)
        .map_err(|errors| errors.iter().map(ConfigError::to_string).collect())
}

/// The example of the documentation, with all keys.
const FULL: &str = r#"
interface: nsm-1
addresses: []              # default: the interface's own global addresses, both families
mode: auto                 # auto | native | generic | companion
zeroCopy: auto             # auto | on | off
workers: auto              # or a list of CPU cores, one per queue
flows: 1000000             # capacity of the flow table, all workers together
clientFlows: auto
frames: 8192
natPorts: auto
timeouts: {tcpEstablished: 2h4m, tcpOpening: 4m, tcpClosing: 4m, udp: 5m}
fastPath: {mode: auto, after: 8, flows: 16384}
discovery: static          # static | kubernetes | nsm
services:
  - name: finance          # DNS label: finance.<dns.zone>
    protocol: TCP          # TCP | UDP
    port: 8080
    targetPort: 8081       # default: port
    selector: {app: finance}
    scheduler: maglev      # maglev | round-robin | least-connections, all weighted
    affinity: {clientIP: 0s}
    sourceRanges: []
    clientAddress: none    # none | proxyV2 | proxyV2First | toa
    drain: 60s
    backends:              # discovery: static
      - {address: 172.16.1.2, weight: 1}
      - {address: "2001:db8::2"}
dns: {zone: vl3-lb, listen: "53", upstream: [], upstreamClients: []}
admin: {listen: "127.0.0.1:9090", api: auto, socket: /run/vl3-lb/admin.sock, profile: false}
metrics: {perBackend: true}
telemetry: {endpoint: none, interval: 10s}
"#;

#[test]
fn the_documented_example_is_valid() {
    let config = parse(FULL).unwrap();
    assert_eq!(config.interface, "nsm-1");
    assert_eq!(config.nat_ports, NatPorts::new(1024, 65_535).unwrap());
    let [service] = &config.services[..] else {
        panic!("one service expected")
    };
    assert_eq!(
        (service.name.as_str(), service.port, &service.target_port),
        ("finance", 8080, &TargetPort::Number(8081))
    );
    assert_eq!(service.drain, Duration::from_secs(60));
    assert_eq!(service.selector.to_string(), "app=finance");
    assert_eq!(service.backends.len(), 2);
    assert_eq!(service.backends[1].weight, 1);
}

/// The same with a health check.
fn with_health_check(check: &str) -> String {
    FULL.replace(
        "    drain: 60s\n",
        &format!("    drain: 60s\n    healthCheck: {check}\n"),
    )
}

#[test]
fn a_health_check_has_defaults() {
    let all = with_health_check("{tcp: {}, interval: 2s, timeout: 1s, rise: 2, fall: 3}");
    let config = parse(&all).unwrap();
    assert_eq!(config.services[0].health_check, Some(HealthCheck::tcp()));
    assert_eq!(parse(&with_health_check("{tcp: {}}")), Ok(config));
}

#[test]
fn a_health_check_has_its_configured_values() {
    let check = |text: &str| {
        let config = parse(&format!(
            "services: [{{name: a, port: 80, protocol: UDP, healthCheck: {text}}}]"
        ));
        config.unwrap().services[0].health_check.clone().unwrap()
    };
    let read = check("{tcp: {port: 53}, interval: 500ms, rise: 1, fall: 5}");
    assert_eq!(read.kind.port(), Some(53));
    assert_eq!((read.rise, read.fall), (1, 5));
    assert_eq!(read.interval, Duration::from_millis(500));
    assert_eq!(read.timeout, read.interval, "not longer than the interval");
}

#[test]
fn each_kind_of_check_is_printed_as_it_is_read() {
    let certificate = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let pem = serde_json::to_string(&pem_of(certificate.cert.der())).unwrap();
    for (check, kind, port) in [
        ("{ping: {}}".to_owned(), "ping", None),
        ("{http: {}}".to_owned(), "http", None),
        (
            "{http: {port: 81, path: '/a?b=c', host: 'a.example:81', status: 204}}".to_owned(),
            "http",
            Some(81),
        ),
        ("{http: {tls: {verify: false}}}".to_owned(), "https", None),
        (
            format!("{{http: {{tls: {{ca: {pem}, name: b.example}}}}}}"),
            "https",
            None,
        ),
        (
            format!("{{grpc: {{service: a.B, port: 9, tls: {{ca: {pem}}}}}}}"),
            "grpc",
            Some(9),
        ),
        (
            "{udp: {port: 53, payload: 'hex:00ff', expect: '+OK'}}".to_owned(),
            "udp",
            Some(53),
        ),
    ] {
        let config = parse(&with_health_check(&check)).unwrap();
        let read = config.services[0].health_check.clone().unwrap().kind;
        assert_eq!((read.name(), read.port()), (kind, port), "{check}");
        let printed = config.to_yaml();
        assert_eq!(parse(&printed), Ok(config), "{printed}");
    }
}

fn pem_of(certificate: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let short = "services: [{name: finance, port: 8080, targetPort: 8081, selector: {app: finance}, \
                 backends: [{address: 172.16.1.2}, {address: '2001:db8::2'}]}]";
    assert_eq!(parse(short), parse(FULL));
}

/// Pods and Services of Kubernetes as backends.
const KUBERNETES: &str = "
discovery: kubernetes
kubernetes:
  services: true
  namespaces: [web, api]
  addressFrom: 'network-status:vl3/net'
  labelSelector: {team: a}
  topology: {prefer: none}
  group: fin
  claims: [{namespaces: [web], networks: [172.16.0.0/16, '2001:db8::/32']}, {networks: routed}]
  quotas: [{namespaces: [api], services: 5, backends: 100}]
  pools: [{name: public, namespaces: [web], addresses: [172.16.1.0/24, '2001:db8::67']}]
services:
- {name: a, port: 80, targetPort: http, selector: {app: a}, namespaces: [web]}
- {name: b, port: 81, selector: 'app in (a,b),!canary', namespaces: all}
";

#[test]
fn services_of_one_name_are_called_by_their_addresses() {
    let text = "services: [{name: web, port: 80, addresses: [10.0.0.2, 10.0.0.1]}, \
                {name: web, port: 80, addresses: [10.0.1.0/24]}, {name: web, port: 81, addresses: ['2001:db8::1']}, \
                {name: other, port: 80, addresses: [10.0.0.3]}]";
    let config = parse(text).unwrap();
    let services = config.services.iter();
    let names: Vec<_> = services
        .map(|service| (service.name.as_str(), service.unique_name.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("web", "web@10.0.0.1"),
            ("web", "web@10.0.1.0/24"),
            ("web", "web@2001:db8::1"),
            ("other", "other"),
        ]
    );
    let printed = config.to_yaml();
    assert_eq!(parse(&printed), Ok(config), "{printed}");
}

#[test]
fn a_printed_configuration_parses_to_the_same() {
    let other = "
interface: eth0
addresses: [172.16.1.103, '2001:db8::67']
mode: native
zeroCopy: off
fastPath: {mode: off, after: 1, flows: 1048576}
workers: [3, 1]
clientFlows: 5000
natPorts: 20000-30000
dns: {zone: example.org., listen: '127.0.0.1:5353', upstream: ['10.0.0.1', '[2001:db8::1]:5353'], upstreamClients: [10.0.0.0/8]}
admin: {listen: '[::]:9091', api: '127.0.0.1:9092'}
metrics: {perBackend: false}
telemetry: {endpoint: 'http://otel:4317', interval: 1m}
flowLog: {file: /var/log/flows.jsonl, maxMegabytes: 5, keepFiles: 2, collector: '2001:db8::9', observationDomain: 7, templateInterval: 10s, sampleOpened: 100}
logFormat: json
logLevel: DEBUG
services:
- {name: f, port: 80, addresses: [172.16.1.103]}
- {name: g, port: 80, addresses: ['2001:db8::/64']}
- {name: a, port: 53000, protocol: udp, scheduler: least-connections, drain: 1.5h, backends: [],
   affinity: {clientIP: 90m}, sourceRanges: [10.0.0.0/8, '2001:db8::/32'],
   healthCheck: {tcp: {port: 8}, interval: 1m, timeout: 1500ms, rise: 1, fall: 1},
   slowStart: 90s, maxFlowsPerBackend: 5000, whenAllDown: fail-open}
- {name: b, port: 53000, passiveCheck: {failures: 2, holdOff: 1m},
   backends: [{address: 172.16.1.2, backup: true}, {address: 172.16.1.3}]}
- {name: e, port: 8443, clientAddress: PROXYv2}
- {name: c, port: 53, protocol: UDP, clientAddress: proxyV2First}
- {name: d, port: 82, clientAddress: toa}
- {name: h, port: 3868, protocol: sctp, passiveCheck: {}, healthCheck: {ping: {}}}
- {name: i, port: 3869, protocol: SCTP, healthCheck: {tcp: {port: 22}}}
";
    let all = "{discovery: kubernetes, kubernetes: {namespaces: all, addressFrom: 'annotation:a.b/c'}}";
    let own = "{discovery: kubernetes, kubernetes: {namespaces: []}}";
    let checked = with_health_check("{tcp: {}}");
    for text in [FULL, &checked, other, KUBERNETES, all, own, "services: []", "{}"] {
        let config = parse(text).unwrap();
        let printed = config.to_yaml();
        assert_eq!(parse(&printed), Ok(config), "{printed}");
    }
}

#[test]
fn the_ports_of_services_and_ephemeral_ones_are_no_nat_ports() {
    for (text, flows) in [
        ("{}", 36_280),
        (
            "services: [{name: a, port: 8080}, {name: b, port: 80}, {name: c, port: 40000}]",
            36_279,
        ),
        ("natPorts: 10240-32767", 22_528),
    ] {
        let loaded = Config::parse(Some(text), "lb.yaml", &no_env, &EPHEMERAL).unwrap();
        assert_eq!(loaded.flows_per_backend, flows, "{text}");
    }
}

#[test]
fn a_service_on_an_ephemeral_port_is_noted() {
    let loaded = Config::parse(
        Some("services: [{name: a, port: 40000}]"),
        "lb.yaml",
        &no_env,
        &EPHEMERAL,
    )
    .unwrap();
    assert_eq!(
        loaded.notes,
        [
            "services[0].port: 40000 is among the kernel's ephemeral ports 32768-60999: reserve it with \
          net.ipv4.ip_local_reserved_ports, or the kernel may use it for a local connection"
        ]
    );
}

#[test]
fn a_range_that_overlaps_ephemeral_ports_is_noted() {
    let notes = |text| {
        let loaded = Config::parse(Some(text), "lb.yaml", &no_env, &EPHEMERAL).unwrap();
        loaded.notes
    };
    assert_eq!(
        notes("natPorts: 30000-40000"),
        [
            "natPorts: 30000-40000 overlaps the kernel's ephemeral ports 32768-60999 (net.ipv4.ip_local_port_range), which are \
          left out: 2768 ports remain"
        ]
    );
    assert!(notes("natPorts: auto").is_empty());
    assert!(notes("natPorts: 10240-32767").is_empty());
}

#[test]
fn changes_that_need_a_restart_are_named() {
    let old = parse("{}").unwrap();
    let new = parse("{mode: native, flows: 5, services: [{name: a, port: 80}]}").unwrap();
    assert_eq!(old.needs_restart(&new), ["mode", "flows"]);
    assert!(old.needs_restart(&old).is_empty());
}

/// TCP and SCTP have ports of their own, and the DNS server answers UDP and TCP only.
#[test]
fn a_service_of_sctp_shares_its_port_with_others_and_has_no_checks_by_default() {
    let config = parse(
        "services: [{name: a, port: 53, protocol: SCTP}, {name: b, port: 80}, {name: c, port: 80, protocol: SCTP}]",
    )
    .unwrap();
    let protocols = config.services.iter().map(|service| service.protocol.name());
    assert_eq!(protocols.collect::<Vec<_>>(), ["SCTP", "TCP", "SCTP"]);
    assert!(
        config
            .services
            .iter()
            .all(|service| service.health_check.is_none())
    );
}
