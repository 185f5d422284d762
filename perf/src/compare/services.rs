//! The services that every peer balances.

/// One service: where clients find it, and where it is on each backend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) udp: bool,
    pub(crate) port: u16,
    pub(crate) target_port: u16,
    /// How many of the backends it has.
    pub(crate) backends: u16,
}

const ALL_BACKENDS: u16 = crate::net::BACKENDS as u16;

/// What the packet tester sends to.
pub(crate) const PACKETS: Service = Service {
    name: "packets",
    udp: true,
    port: 7000,
    target_port: 7001,
    backends: ALL_BACKENDS,
};
/// A web server's short answers.
pub(crate) const WEB: Service = Service {
    name: "web",
    udp: false,
    port: 8080,
    target_port: 8081,
    backends: ALL_BACKENDS,
};
/// iperf3. It has one backend, since an iperf3 test is several connections to one server.
pub(crate) const BULK: Service = Service {
    name: "bulk",
    udp: false,
    port: 5201,
    target_port: 5201,
    backends: 1,
};

/// UDP super-packets, to one backend.
pub(crate) const SEGMENTS: Service = Service {
    name: "segments",
    udp: true,
    port: 7443,
    target_port: 7443,
    backends: 1,
};

pub(crate) const ALL: [Service; 4] = [PACKETS, WEB, BULK, SEGMENTS];

impl Service {
    /// `udp` or `tcp`.
    pub(crate) const fn protocol(self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }
}
