//! Queries for other zones: whose are forwarded, and to which servers.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::ResponseCode;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use ipnet::IpNet;

use super::response::Response;
use super::upstream::Upstream;
use crate::config::{self, DnsListen};
use crate::network::NetworkReceiver;

/// Forwards queries to the upstream servers.
#[derive(Debug)]
pub(super) struct Forwarding {
    upstream: Upstream,
    /// The clients whose queries are forwarded; empty: those of the own networks.
    clients: Vec<IpNet>,
    listen: DnsListen,
    network: NetworkReceiver,
}

impl Forwarding {
    /// Forwards as `config` has it, for the clients of `network` by default.
    pub(super) fn new(config: &config::Dns, network: NetworkReceiver) -> Self {
        Self {
            upstream: Upstream::new(config.upstream.clone()),
            clients: config.upstream_clients.clone(),
            listen: config.listen,
            network,
        }
    }

    /// The response of an upstream server. REFUSED without upstream servers, for other clients, and in a loop; SERVFAIL if
    /// no server responds.
    pub(super) async fn forward(&self, request: &Request) -> Response {
        let client = request.src().ip().to_canonical();
        // Without the servers that are this one.
        let servers: Vec<SocketAddr> = self
            .upstream
            .servers()
            .iter()
            .copied()
            .filter(|server| !self.is_own(*server))
            .collect();
        if servers.is_empty() || self.is_upstream(client) || !self.serves(client) {
            return Response::of(ResponseCode::Refused);
        }
        let tcp = request.protocol() != Protocol::Udp;
        let answer = self
            .upstream
            .ask(servers.into_iter(), client, request.as_slice(), tcp)
            .await;
        answer.map_or_else(|| Response::of(ResponseCode::ServFail), Response::from)
    }

    /// Whether queries of `client` are forwarded.
    fn serves(&self, client: IpAddr) -> bool {
        if !self.clients.is_empty() {
            return self.clients.iter().any(|network| network.contains(&client));
        }
        client.is_loopback()
            || self.network.borrow().as_ref().is_some_and(|view| {
                view.addresses.contains(&client) || view.next_hops.is_in_own_network(client)
            })
    }

    /// Whether `client` is an upstream server: its query for another zone was forwarded to it by this server or a peer, and
    /// would go round for ever. Programs on one host share its loopback address, so it shows nothing.
    fn is_upstream(&self, client: IpAddr) -> bool {
        let mut servers = self.upstream.servers().iter();
        !client.is_loopback() && servers.any(|server| server.ip() == client)
    }

    /// Whether `server` is this server.
    fn is_own(&self, server: SocketAddr) -> bool {
        let is_own_address = || {
            let view = self.network.borrow();
            let mut own = view.iter().flat_map(|view| &view.addresses);
            own.any(|&address| address == server.ip())
        };
        match self.listen {
            DnsListen::OwnAddresses(port) => server.port() == port && is_own_address(),
            DnsListen::Address(address) if address.ip().is_unspecified() => {
                server.port() == address.port() && (server.ip().is_loopback() || is_own_address())
            }
            DnsListen::Address(address) => server == address,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use tokio::sync::watch;
    use vl3lb_common::next_hop::{Link, NextHops, Route, RouteKind};

    use super::*;
    use crate::config::Config;
    use crate::network::{LinkState, NetworkView};

    /// Configured by `dns`, with the own address 172.16.1.103, the network 172.16.0.0/16 and a default route.
    fn forwarding(dns: &str) -> Forwarding {
        let text = format!("{{services: [], dns: {{{dns}}}}}");
        let config = Config::parse(Some(&text), "", &|_| None, &(32_768..=60_999)).unwrap();
        let gateway = "172.16.0.1".parse().ok();
        let route = |destination: &str, prefix_length| Route {
            kind: RouteKind::Unicast,
            destination: destination.parse().unwrap(),
            prefix_length,
            gateway,
            metric: 0,
            mtu: None,
        };
        let routes = vec![route("172.16.0.0", 16), route("0.0.0.0", 0)];
        let view = NetworkView {
            index: Some(7),
            state: LinkState::Up,
            mtu: 1500,
            addresses: vec!["172.16.1.103".parse().unwrap()],
            broadcasts: Vec::new(),
            next_hops: NextHops::new(Link::RawIp, 1, routes, HashMap::new()),
            routing_problems: Vec::new(),
        };
        Forwarding::new(
            &config.config.dns,
            watch::Sender::new(Some(Arc::new(view))).subscribe(),
        )
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn queries_of_the_own_networks_are_forwarded_by_default() {
        let own = forwarding("upstream: [10.0.0.10]");
        let configured = forwarding("upstream: [10.0.0.10], upstreamClients: [10.0.0.0/8]");
        for (client, by_default, as_configured) in [
            ("127.0.0.1", true, false),
            ("172.16.1.103", true, false),
            ("172.16.200.1", true, false),
            ("172.17.0.1", false, false),
            ("10.1.2.3", false, true),
            ("2001:db8::1", false, false),
        ] {
            assert_eq!(own.serves(address(client)), by_default, "{client}");
            assert_eq!(configured.serves(address(client)), as_configured, "{client}");
        }
    }

    #[test]
    fn the_server_does_not_ask_itself() {
        for (dns, server, own) in [
            ("", "172.16.1.103:53", true),
            ("", "172.16.1.103:5353", false),
            ("", "172.16.1.104:53", false),
            ("listen: '5353'", "172.16.1.103:5353", true),
            ("listen: '127.0.0.1:53'", "127.0.0.1:53", true),
            ("listen: '127.0.0.1:53'", "172.16.1.103:53", false),
            ("listen: '0.0.0.0:53'", "172.16.1.103:53", true),
            ("listen: '0.0.0.0:53'", "127.0.0.1:53", true),
            ("listen: '0.0.0.0:53'", "10.0.0.10:53", false),
        ] {
            assert_eq!(
                forwarding(dns).is_own(server.parse().unwrap()),
                own,
                "{dns} {server}"
            );
        }
    }

    #[test]
    fn an_upstream_server_that_asks_back_ends_the_loop() {
        let forwarding = forwarding("upstream: [172.16.1.104, '127.0.0.1:5353']");
        assert!(forwarding.is_upstream(address("172.16.1.104")));
        assert!(!forwarding.is_upstream(address("172.16.1.105")));
        assert!(!forwarding.is_upstream(address("127.0.0.1")));
    }
}
