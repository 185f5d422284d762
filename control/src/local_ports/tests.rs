//! Which ports are the kernel's, of given sockets and times.

use super::*;

fn socket(protocol: Protocol, local: &str, is_balancers: bool) -> Socket {
    Socket {
        protocol,
        local: local.parse().unwrap(),
        is_balancers,
    }
}

fn own() -> [IpAddr; 1] {
    ["172.16.1.103".parse().unwrap()]
}

#[test]
fn ports_of_the_range_at_own_addresses_are_the_kernels() {
    let host = Host {
        sockets: vec![
            socket(Protocol::Tcp, "172.16.1.103:15020", false),
            socket(Protocol::Tcp, "0.0.0.0:20000", false),
            socket(Protocol::Udp, "[::]:20000", false),
            socket(Protocol::Tcp, "[::ffff:172.16.1.103]:15333", false),
            // The balancer's own, and a connection that it has not accepted yet.
            socket(Protocol::Tcp, "0.0.0.0:19090", true),
            socket(Protocol::Tcp, "172.16.1.103:19090", false),
            // Out of the range, or at other addresses.
            socket(Protocol::Tcp, "172.16.1.103:10239", false),
            socket(Protocol::Tcp, "127.0.0.1:15021", false),
            socket(Protocol::Udp, "10.0.0.1:15022", false),
            // Ephemeral.
            socket(Protocol::Udp, "0.0.0.0:30001", false),
        ],
        reserved: parse_reserved("8080,10000-10300,32767,40000-50000\n"),
        ephemeral: Some(30_000..=31_000),
    };
    let mut ports = Ports::new(NatPorts::new(10_240, 32_767).unwrap());
    let found = ports.update(&host, Some(&own()), &LocalPorts::default(), Instant::now());
    let uses: BTreeSet<String> = found.uses.iter().map(LocalPort::to_string).collect();
    let want = [
        "TCP 172.16.1.103:15020",
        "TCP 0.0.0.0:20000",
        "UDP [::]:20000",
        "TCP [::ffff:172.16.1.103]:15333",
        "reserved ports 10240-10300",
        "reserved port 32767",
    ];
    assert_eq!(uses, want.map(str::to_owned).into());
    let mut kernel = PortSet::from(10_240..=10_300);
    kernel.insert_range(30_000..=31_000);
    for port in [15_020, 15_333, 19_090, 20_000, 32_767] {
        kernel.insert(port);
    }
    assert_eq!(*found.kernel, kernel);
    // Without known addresses, none but loopback ones are other's.
    let found = ports.update(&host, None, &found, Instant::now());
    assert!(found.kernel.contains(15_022) && !found.kernel.contains(15_021));
}

#[test]
fn a_port_is_flows_again_a_minute_after_its_last_socket() {
    let used = Host {
        sockets: vec![socket(Protocol::Udp, "0.0.0.0:15000", false)],
        ..Host::default()
    };
    let free = Host::default();
    let mut ports = Ports::new(NatPorts::new(10_240, 32_767).unwrap());
    let start = Instant::now();
    let mut last = LocalPorts::default();
    for (host, seconds, is_kernels, uses) in [
        (&used, 0, true, 1),
        (&free, 1, true, 0),
        (&free, 59, true, 0),
        (&used, 59, true, 1),
        (&free, 118, true, 0),
        (&free, 119, false, 0),
    ] {
        let now = start + Duration::from_secs(seconds);
        let found = ports.update(host, Some(&own()), &last, now);
        let shown = (found.kernel.contains(15_000), found.uses.len());
        assert_eq!(shown, (is_kernels, uses), "after {seconds} s");
        assert_eq!(
            Arc::ptr_eq(&found.kernel, &last.kernel),
            found.kernel == last.kernel,
            "after {seconds} s"
        );
        last = found;
    }
}

#[test]
fn no_reserved_ports_are_none() {
    assert_eq!(parse_reserved("\n"), []);
}

#[test]
fn reads_are_as_far_apart_as_they_are_costly() {
    for (spent, expected) in [
        (0, 1_000),
        (2, 1_000),
        (4, 2_000),
        (6, 2_500),
        (50, 2_500),
        (100, 5_000),
    ] {
        let paused = pause(Duration::from_millis(spent));
        assert_eq!(paused, Duration::from_millis(expected), "{spent} ms");
    }
}

#[test]
fn waiting_for_a_processor_is_no_cost() {
    let begin = thread_time();
    std::thread::sleep(Duration::from_millis(200));
    let waited = thread_time() - begin;
    assert!(waited < Duration::from_millis(100), "{waited:?}");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while thread_time() - begin < Duration::from_millis(100) {
        assert!(std::time::Instant::now() < deadline, "no CPU time is counted");
    }
}
