//! The error of each invalid setting of a service.

use super::*;

#[test]
fn each_error_names_field_value_and_what_is_allowed() {
    let service = |rest: &str| format!("services: [{{name: a, port: 80}}, {{name: b, {rest}}}]");
    for (text, error) in [
        (service("port: 70000"), "services[1].port: 70000, allowed 1-65535"),
        (service("port: 0"), "services[1].port: 0, allowed 1-65535"),
        (service("port: http"), "services[1].port: http, allowed 1-65535"),
        (
            service("targetPort: 81"),
            "services[1].port: missing, allowed 1-65535",
        ),
        (
            service("port: 81, targetPort: -1"),
            "services[1].targetPort: -1, allowed 1-65535, or a port name: a-z, 0-9 and -, at most 15, with \
             a letter",
        ),
        (
            service("port: 81, protocol: DCCP"),
            "services[1].protocol: DCCP, allowed TCP, UDP, SCTP",
        ),
        (
            service("port: 81, scheduler: rr"),
            "services[1].scheduler: rr, allowed maglev, round-robin, least-connections",
        ),
        (
            service("port: 81, drain: 60"),
            "services[1].drain: 60, allowed a duration such as 500ms, 60s, 10m0s or 1h30m, up to 1day",
        ),
        (
            service("port: 81, selector: [app]"),
            "services[1].selector: [\"app\"], allowed a mapping of labels to values, or text \
             such as \"app=finance,tier in (web,api),!canary\"",
        ),
        (
            service("port: 81, affinity: {clientIP: 25h}"),
            "services[1].affinity.clientIP: 25h, allowed a duration such as 500ms, 60s, 10m0s or 1h30m, up to 1day",
        ),
        (
            service("port: 81, affinity: {cookie: 10s}"),
            "services[1].affinity.cookie: unknown key (value 10s), allowed clientIP",
        ),
        (
            service("port: 81, sourceRanges: 10.0.0.0/8"),
            "services[1].sourceRanges: 10.0.0.0/8, allowed a list of networks, [] for everyone",
        ),
        (
            service("port: 81, sourceRanges: [10.0.0.0/8, 10.0.0.1/8]"),
            "services[1].sourceRanges[1]: 10.0.0.1/8, allowed a network such as 10.0.0.0/8 or 2001:db8::/32, \
             without host bits",
        ),
        (
            service("port: 81, sourceRanges: [172.16.1.100]"),
            "services[1].sourceRanges[0]: 172.16.1.100, allowed a network such as 10.0.0.0/8 or \
             2001:db8::/32, without host bits",
        ),
        (
            service("port: 81, healthCheck: {interval: 2s}"),
            "services[1].healthCheck.tcp: missing, allowed tcp: {} for the backends' own port, or tcp: {port: \
             1-65535}; or http, grpc, udp, ping",
        ),
        (
            service("port: 81, healthCheck: {tcp: 80}"),
            "services[1].healthCheck.tcp: 80, allowed tcp: {} for the backends' own port, or tcp: {port: \
             1-65535}; or http, grpc, udp, ping",
        ),
        (
            service("port: 81, healthCheck: {tcp: {port: 0}}"),
            "services[1].healthCheck.tcp.port: 0, allowed 1-65535",
        ),
        (
            service("port: 81, healthCheck: {tcp: {}, udp: {}}"),
            "services[1].healthCheck.udp: {}, allowed one kind of check, and tcp is one",
        ),
        (
            service("port: 81, healthCheck: {tcp: {}, icmp: {}}"),
            "services[1].healthCheck.icmp: unknown key (value {}), allowed tcp, http, grpc, udp, ping, interval, \
             timeout, rise, fall",
        ),
        (
            service("port: 81, healthCheck: {http: {path: healthz}}"),
            "services[1].healthCheck.http.path: healthz, allowed a path such as /healthz, at most 1024 letters",
        ),
        (
            service("port: 81, healthCheck: {http: {status: 399-200}}"),
            "services[1].healthCheck.http.status: 399-200, allowed a status code or a range of them, 100-599, \
             such as 200-299",
        ),
        (
            service("port: 81, healthCheck: {http: {host: 'a@b'}}"),
            "services[1].healthCheck.http.host: a@b, allowed a host name, with a port if it is not the scheme's own",
        ),
        (
            service("port: 81, healthCheck: {http: {tls: {}}}"),
            "services[1].healthCheck.http.tls.ca: missing, allowed certificates of the authorities as PEM text, or \
             verify: false",
        ),
        (
            service("port: 81, healthCheck: {grpc: {tls: {ca: /etc/ca.pem}}}"),
            "services[1].healthCheck.grpc.tls.ca: no certificates of authorities, allowed certificates of the \
             authorities as PEM text, or verify: false",
        ),
        (
            service("port: 81, healthCheck: {grpc: {service: 'a b'}}"),
            "services[1].healthCheck.grpc.service: \"a b\", allowed the name of a gRPC service such as finance.Ledger",
        ),
        (
            service("port: 81, protocol: UDP, healthCheck: {udp: {}}"),
            "services[1].healthCheck.udp.payload: missing, allowed a text such as PING, or bytes such as hex:0a1b \
             for others than ASCII, at most 512 bytes",
        ),
        (
            service("port: 81, healthCheck: {udp: {payload: 'hex:0'}}"),
            "services[1].healthCheck.udp.payload: hex:0, allowed a text such as PING, or bytes such as hex:0a1b \
             for others than ASCII, at most 512 bytes",
        ),
        (
            service("port: 81, healthCheck: {udp: {payload: a}}"),
            "services[1].healthCheck.udp.port: missing, allowed 1-65535: the port at which the backends of a TCP \
             service answer UDP",
        ),
        (
            service("port: 81, protocol: UDP, healthCheck: {http: {}}"),
            "services[1].healthCheck.http.port: missing, allowed 1-65535: the port at which the backends of a UDP \
             service answer TCP",
        ),
        (
            service("port: 81, healthCheck: {ping: {port: 7}}"),
            "services[1].healthCheck.ping: {\"port\":7}, allowed {}, since it has no settings",
        ),
        (
            service("port: 81, healthCheck: {tcp: {}, interval: 10ms}"),
            "services[1].healthCheck.interval: 10ms, allowed a duration from 100ms to 1h, such as 2s",
        ),
        (
            service("port: 81, healthCheck: {tcp: {}, timeout: 3s}"),
            "services[1].healthCheck.timeout: 3s, allowed more than 0s and at most interval, 2s",
        ),
        (
            service("port: 81, healthCheck: {tcp: {}, timeout: 0s}"),
            "services[1].healthCheck.timeout: 0s, allowed more than 0s and at most interval, 2s",
        ),
        (
            service("port: 81, healthCheck: {tcp: {}, rise: 0}"),
            "services[1].healthCheck.rise: 0, allowed 1-100",
        ),
        (
            service("port: 81, healthCheck: {tcp: {}, fall: 101}"),
            "services[1].healthCheck.fall: 101, allowed 1-100",
        ),
        (
            service("port: 81, protocol: UDP, healthCheck: {tcp: {}}"),
            "services[1].healthCheck.tcp.port: missing, allowed 1-65535: the port at which the backends of a \
             UDP service answer TCP",
        ),
        (
            service("port: 81, targetport: 82"),
            "services[1].targetport: unknown key (value 82), allowed name, protocol, port, addresses, \
             targetPort, selector, namespaces, scheduler, affinity, sourceRanges, clientAddress, drain, healthCheck, \
             slowStart, maxFlowsPerBackend, whenAllDown, passiveCheck, backupSelector, backends",
        ),
        (
            service("port: 81, slowStart: 2h"),
            "services[1].slowStart: 2h, allowed a duration such as 500ms, 60s, 10m0s or 1h30m, up to 1h",
        ),
        (
            service("port: 81, maxFlowsPerBackend: 0"),
            "services[1].maxFlowsPerBackend: 0, allowed 1-268435456",
        ),
        (
            service("port: 81, whenAllDown: open"),
            "services[1].whenAllDown: open, allowed fail-closed, fail-open",
        ),
        (
            service("port: 81, passiveCheck: {failures: 0}"),
            "services[1].passiveCheck.failures: 0, allowed 1-1000",
        ),
        (
            service("port: 81, passiveCheck: {holdOff: 500ms}"),
            "services[1].passiveCheck.holdOff: 500ms, allowed a duration from 1s to 24h, such as 10s",
        ),
        (
            service("port: 81, passiveCheck: {holdOff: 1m, maxHoldOff: 30s}"),
            "services[1].passiveCheck.maxHoldOff: 30s, allowed a duration from holdOff, 1m, to 24h",
        ),
        (
            service("port: 81, passiveCheck: 5"),
            "services[1].passiveCheck: 5, allowed a mapping of failures, holdOff, maxHoldOff",
        ),
        (
            service("port: 81, protocol: UDP, passiveCheck: {}"),
            "services[1].passiveCheck: UDP, allowed it for TCP and SCTP only: flows of UDP have no answer that says that they \
             were accepted",
        ),
        (
            service("port: 81, backupSelector: {tier: standby}"),
            "services[1].backupSelector: tier=standby, allowed it with discovery: nsm only; here, backends have \
             backup: true",
        ),
        (
            service("port: 81, backends: [{address: 10.0.0.1, backup: yes}]"),
            "services[1].backends[0].backup: yes, allowed true, false",
        ),
        (
            service("port: 81, clientAddress: proxy"),
            "services[1].clientAddress: proxy, allowed none, proxyV2, proxyV2First, toa",
        ),
        (
            service("port: 81, clientAddress: true"),
            "services[1].clientAddress: true, allowed none, proxyV2, proxyV2First, toa",
        ),
        (
            service("port: 81, protocol: SCTP, clientAddress: proxyV2"),
            "services[1].clientAddress: proxyV2, allowed with protocol SCTP: none",
        ),
        (
            service("port: 81, protocol: SCTP, healthCheck: {tcp: {}}"),
            "services[1].healthCheck.tcp.port: missing, allowed 1-65535: the port at which the backends of a \
             SCTP service answer TCP",
        ),
        (
            service("port: 81, protocol: SCTP, healthCheck: {udp: {payload: a}}"),
            "services[1].healthCheck.udp.port: missing, allowed 1-65535: the port at which the backends of a \
             SCTP service answer UDP",
        ),
        (
            service("port: 81, protocol: UDP, clientAddress: toa"),
            "services[1].clientAddress: toa, allowed with protocol UDP: none, proxyV2, proxyV2First",
        ),
        (
            service("port: 81, clientAddress: proxyV2First"),
            "services[1].clientAddress: proxyV2First, allowed with protocol TCP: none, proxyV2, toa",
        ),
        (
            service("port: 81, backends: [{address: 172.16.1.300}]"),
            "services[1].backends[0].address: 172.16.1.300, allowed an IPv4 or IPv6 unicast address that \
             is not loopback",
        ),
        (
            service("port: 81, backends: [{address: 127.0.0.1}]"),
            "services[1].backends[0].address: 127.0.0.1, allowed an IPv4 or IPv6 unicast address that is \
             not loopback",
        ),
        (
            service("port: 81, backends: [{address: 10.0.0.1, weight: 1001}]"),
            "services[1].backends[0].weight: 1001, allowed 0-1000",
        ),
        (
            service("port: 81, backends: [{address: 10.0.0.1}, {address: 10.0.0.1, weight: 2}]"),
            "services[1].backends[1].address: 10.0.0.1, allowed each address once per service (also \
             services[1].backends[0])",
        ),
        (
            service("port: 81, backends: [172.16.1.2]"),
            "services[1].backends[0]: 172.16.1.2, allowed a mapping of address, weight, backup",
        ),
        (
            service("port: 80, addresses: [10.0.0.1]"),
            "services[1].port: 80, allowed one service per port, protocol and address (TCP 80 at all addresses is \
             services[0])",
        ),
        (
            service("port: 81, addresses: [10.0.0.1/8]"),
            "services[1].addresses[0]: 10.0.0.1/8, allowed an address, or a network such as 10.0.0.0/8 or \
             2001:db8::/32, without host bits",
        ),
        (
            service("port: 80"),
            "services[1].port: 80, allowed one service per port and protocol (TCP 80 is services[0])",
        ),
        (
            "services: [{name: a, port: 80}, {name: a, port: 81}]".to_owned(),
            "services[1].name: a, allowed a name of its own, or addresses for each service of the name (a is services[0])",
        ),
        (
            "services: [{name: a, port: 80, addresses: [10.0.0.1]}, {name: a, port: 81}]".to_owned(),
            "services[1].name: a, allowed a name of its own, or addresses of its own (a at 10.0.0.1 is services[0])",
        ),
        (
            "services: [{name: a, port: 80, addresses: [10.0.0.1, 10.0.0.2]}, {name: a, port: 81, addresses: [10.0.0.0/24]}]"
                .to_owned(),
            "services[1].name: a, allowed a name of its own, or addresses of its own (a at 10.0.0.1, 10.0.0.2 is services[0])",
        ),
        (
            "services: [{name: Finance_1, port: 80}]".to_owned(),
            "services[0].name: Finance_1, allowed a DNS label: a-z, 0-9 and -, at most 63, - not at the \
             ends",
        ),
        (
            "services: [{name: dns, port: 53, protocol: UDP}]".to_owned(),
            "services[0].port: 53, allowed a port other than dns.listen, or move the DNS server by \
             dns.listen",
        ),
        (
            service("port: 81, targetPort: http"),
            "services[1].targetPort: http, allowed 1-65535; a name with discovery: kubernetes only",
        ),
        (
            service("port: 81, targetPort: '8081'"),
            "services[1].targetPort: \"8081\" in quotes, allowed 1-65535, or a port name: a-z, 0-9 and -, at \
             most 15, with a letter, without quotes",
        ),
        (
            service("port: 81, targetPort: 0"),
            "services[1].targetPort: 0, allowed 1-65535, or a port name: a-z, 0-9 and -, at most 15, \
             with a letter",
        ),
        (
            "services: {a: 1}".to_owned(),
            "services: {\"a\":1}, allowed a list of services, [] for none",
        ),
    ] {
        assert_eq!(parse(&text), Err(vec![error.to_owned()]), "{text}");
    }
}
