//! The error of each invalid setting but those of services.

use super::*;

#[test]
fn each_error_names_field_value_and_what_is_allowed() {
    for (text, error) in [
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
        (
            "{addresses: [10.0.0.1], services: [{name: a, port: 80, addresses: [10.0.0.2]}]}".to_owned(),
            "services[0].addresses: 10.0.0.2, allowed some of the balancer's addresses (addresses)",
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
    ] {
        assert_eq!(parse(&text), Err(vec![error.to_owned()]), "{text}");
    }
}
