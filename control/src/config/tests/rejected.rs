//! The error of each invalid setting.

use super::*;

#[test]
fn each_error_names_field_value_and_what_is_allowed() {
    let service = |rest: &str| format!("services: [{{name: a, port: 80}}, {{name: b, {rest}}}]");
    for (text, error) in [
        (service("port: 70000"), "services[1].port: 70000, allowed 1-65535"),
        (service("port: 0"), "services[1].port: 0, allowed 1-65535"),
        (
            "flowLog: {file: flows.jsonl}".to_owned(),
            "flowLog.file: flows.jsonl, allowed stdout, or an absolute path",
        ),
        (
            "flowLog: {collector: \"10.0.0.9:0\"}".to_owned(),
            "flowLog.collector: 10.0.0.9:0, allowed the address of an IPFIX collector, with or without its UDP port (4739)",
        ),
        (
            "flowLog: {collector: 0.0.0.0}".to_owned(),
            "flowLog.collector: 0.0.0.0, allowed the address of an IPFIX collector, with or without its UDP port (4739)",
        ),
        (
            "flowLog: {sampleOpened: 10}".to_owned(),
            "flowLog: {\"sampleOpened\":10}, allowed file, collector, or both",
        ),
        (
            "flowLog: {file: stdout, maxMegabytes: 0}".to_owned(),
            "flowLog.maxMegabytes: 0, allowed 1-1000000",
        ),
        (
            "flowLog: {file: stdout, keepFiles: 0}".to_owned(),
            "flowLog.keepFiles: 0, allowed 1-1000",
        ),
        (
            "flowLog: {file: stdout, templateInterval: 2h}".to_owned(),
            "flowLog.templateInterval: 2h, allowed a duration from 1s to 1h, such as 60s",
        ),
        (
            "flowLog: {file: stdout, sampleOpened: -1}".to_owned(),
            "flowLog.sampleOpened: -1, allowed 0-1000000000",
        ),
        (
            "flowLog: {file: stdout, observationDomain: 4294967296}".to_owned(),
            "flowLog.observationDomain: 4294967296, allowed 0-4294967295",
        ),
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
            "{addresses: [10.0.0.1], services: [{name: a, port: 80, addresses: [10.0.0.2]}]}".to_owned(),
            "services[0].addresses: 10.0.0.2, allowed some of the balancer's addresses (addresses)",
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
            "{addresses: [10.0.0.9], services: [{name: a, port: 80, backends: [{address: 10.0.0.9}]}]}"
                .to_owned(),
            "services[0].backends: 10.0.0.9, allowed addresses other than the balancer's own",
        ),
        (
            "mode: fast".to_owned(),
            "mode: fast, allowed auto, native, generic, companion",
        ),
        (
            "zeroCopy: maybe".to_owned(),
            "zeroCopy: maybe, allowed auto, on, off",
        ),
        (
            "fastPath: {mode: native}".to_owned(),
            "fastPath.mode: native, allowed auto, off",
        ),
        (
            "fastPath: {after: 3}".to_owned(),
            "fastPath.after: 3, allowed a power of two, 1-65536",
        ),
        (
            "fastPath: {flows: 0}".to_owned(),
            "fastPath.flows: 0, allowed 1-1048576",
        ),
        (
            "fastPath: {packets: 3}".to_owned(),
            "fastPath.packets: unknown key (value 3), allowed mode, after, flows",
        ),
        (
            "workers: [1, 1]".to_owned(),
            "workers: [1,1], allowed auto, or a list of 1-64 distinct CPU cores",
        ),
        (
            "workers: 2".to_owned(),
            "workers: 2, allowed auto, or a list of 1-64 distinct CPU cores",
        ),
        ("flows: 0".to_owned(), "flows: 0, allowed 1-268435456"),
        (
            "clientFlows: 0".to_owned(),
            "clientFlows: 0, allowed auto, or 1-268435456",
        ),
        (
            "clientFlows: many".to_owned(),
            "clientFlows: many, allowed auto, or 1-268435456",
        ),
        (
            "frames: 5000".to_owned(),
            "frames: 5000, allowed a power of two, 1024-65536",
        ),
        (
            "natPorts: 9-1".to_owned(),
            "natPorts: 9-1, allowed auto, or a range such as 10240-32767",
        ),
        (
            "natPorts: 33000-40000".to_owned(),
            "natPorts: 33000-40000, allowed a range apart from the kernel's ephemeral ports 32768-60999 \
             (net.ipv4.ip_local_port_range)",
        ),
        (
            "{admin: {listen: '0.0.0.0:80'}, services: [{name: a, port: 80}]}".to_owned(),
            "services[0].port: 80, allowed a port other than admin.listen, or move the HTTP server by \
             admin.listen",
        ),
        (
            "{admin: {api: '10.0.0.1:81'}, services: [{name: a, port: 81}]}".to_owned(),
            "services[0].port: 81, allowed a port other than admin.api, or move the HTTP server by admin.api",
        ),
        (
            "admin: {api: localhost}".to_owned(),
            "admin.api: localhost, allowed auto, none, or an address and port such as 127.0.0.1:9090",
        ),
        (
            "admin: {listen: '0.0.0.0:9090', api: '10.0.0.1:9090'}".to_owned(),
            "admin.api: 10.0.0.1:9090, allowed 0.0.0.0:9090 (admin.listen, which includes it), another port, or a \
             loopback address",
        ),
        (
            "telemetry: {endpoint: 'https://otel:4317'}".to_owned(),
            "telemetry.endpoint: https://otel:4317, allowed none, or http://HOST:PORT of a collector (OTLP over gRPC, \
             without TLS)",
        ),
        (
            "telemetry: {interval: 10ms}".to_owned(),
            "telemetry.interval: 10ms, allowed a duration from 1s on such as 10s",
        ),
        (
            "metrics: {perBackend: 'no'}".to_owned(),
            "metrics.perBackend: no, allowed true, false",
        ),
        (
            "dns: {listen: nsm-1}".to_owned(),
            "dns.listen: nsm-1, allowed a port (on the balancer's own addresses), or an address and port",
        ),
        (
            "dns: {zone: -x}".to_owned(),
            "dns.zone: -x, allowed a domain name: labels of a-z, 0-9 and - with dots between, at most 189",
        ),
        (
            "dns: {upstream: [resolver]}".to_owned(),
            "dns.upstream[0]: resolver, allowed an address, or an address and port",
        ),
        (
            "dns: {upstreamClients: [10.0.0.1/8]}".to_owned(),
            "dns.upstreamClients[0]: 10.0.0.1/8, allowed a network such as 10.0.0.0/8 or 2001:db8::/32, without host bits",
        ),
        (
            "dns: {listen: '127.0.0.1:53', upstream: [127.0.0.1]}".to_owned(),
            "dns.upstream: 127.0.0.1:53, allowed DNS servers other than dns.listen",
        ),
        (
            "timeouts: {tcpEstablished: 1h}".to_owned(),
            "timeouts.tcpEstablished: 1h, allowed 2h4m (RFC 5382 REQ-5) to 7days",
        ),
        (
            "timeouts: {tcpClosing: 3m59s}".to_owned(),
            "timeouts.tcpClosing: 3m59s, allowed 4m (RFC 5382 REQ-5) to 7days",
        ),
        (
            "timeouts: {tcpOpening: 9s}".to_owned(),
            "timeouts.tcpOpening: 9s, allowed 10s (RFC 7857 section 2.1) to 7days",
        ),
        (
            "timeouts: {udp: 30s}".to_owned(),
            "timeouts.udp: 30s, allowed 2m (RFC 4787 REQ-5) to 7days",
        ),
        (
            "discovery: magic".to_owned(),
            "discovery: magic, allowed static, kubernetes, nsm",
        ),
        (
            "kubernetes: {namespaces: all}".to_owned(),
            "kubernetes: {\"namespaces\":\"all\"}, allowed this section with discovery: kubernetes only",
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
            "interface: a/b".to_owned(),
            "interface: a/b, allowed an interface name: 1-15 characters without / and blanks",
        ),
        (
            "admin: {profile: 30s}".to_owned(),
            "admin.profile: 30s, allowed true, false",
        ),
        (
            "admin: {socket: run.sock}".to_owned(),
            "admin.socket: run.sock, allowed an absolute path of at most 107 bytes",
        ),
        (
            "logFormat: xml".to_owned(),
            "logFormat: xml, allowed auto, text, json",
        ),
        (
            "addresses: [0.0.0.0]".to_owned(),
            "addresses[0]: 0.0.0.0, allowed an IPv4 or IPv6 unicast address that is not loopback",
        ),
        (
            "services: {a: 1}".to_owned(),
            "services: {\"a\":1}, allowed a list of services, [] for none",
        ),
    ] {
        assert_eq!(parse(&text), Err(vec![error.to_owned()]), "{text}");
    }
}
