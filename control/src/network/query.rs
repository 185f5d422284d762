//! Asks the kernel for the route to one destination.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType};
use rtnetlink::{Error, Handle};
use vl3lb_common::next_hop::{Route, RouteKind};

use super::message;

/// The kernel's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Packets go to one of these gateways (`None`: on the link), and may be as long as this.
    Sent {
        paths: Vec<Option<IpAddr>>,
        mtu: Option<u16>,
    },
    /// Packets are not sent: there is no route, or one that refuses them.
    Refused,
    /// The kernel does not say: the source address is not on this host, or the route is out of another interface, which IPv6
    /// prefers to none.
    Unknown,
}

impl Answer {
    /// Whether the workers' table has the same: `routes` are its paths to the destination.
    pub(super) fn agrees(&self, routes: &[Route]) -> bool {
        let is_sent = routes.iter().any(|route| route.kind == RouteKind::Unicast);
        match self {
            Self::Unknown => true,
            Self::Refused => !is_sent,
            Self::Sent { paths, mtu } => {
                let has_path = |path: &Option<IpAddr>| routes.iter().any(|route| route.gateway == *path);
                let is_path = |route: &Route| paths.contains(&route.gateway) && route.mtu == *mtu;
                is_sent && paths.iter().all(has_path) && routes.iter().all(is_path)
            }
        }
    }

    /// Routes that give the kernel's answer for `destination` alone.
    pub(super) fn routes(&self, destination: IpAddr) -> Vec<Route> {
        let prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        let route = |kind, gateway, mtu| Route {
            kind,
            destination,
            prefix_length,
            gateway,
            metric: 0,
            mtu,
        };
        match self {
            Self::Sent { paths, mtu } => paths
                .iter()
                .map(|path| route(RouteKind::Unicast, *path, *mtu))
                .collect(),
            Self::Refused => vec![route(RouteKind::NoRoute, None, None)],
            Self::Unknown => Vec::new(),
        }
    }
}

/// The route for packets from `own` to `destination` out of interface `index`: RTM_GETROUTE with RTM_F_FIB_MATCH, which has
/// the route itself (rtnetlink(7)). Without that flag, the kernel takes a destination that no route of the interface reaches
/// to be on its link.
///
/// # Errors
/// If the kernel could not be asked.
pub(super) async fn route(
    handle: &Handle,
    destination: IpAddr,
    own: IpAddr,
    index: u32,
) -> Result<Answer, Error> {
    let mut request = RouteMessage::default();
    request.header.address_family = if destination.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let length = if destination.is_ipv4() { 32 } else { 128 };
    request.header.destination_prefix_length = length;
    request.header.source_prefix_length = length;
    request.header.flags = RouteFlags::FibMatch | RouteFlags::LookupTable;
    request.attributes = vec![
        RouteAttribute::Destination(attribute(destination)),
        RouteAttribute::Source(attribute(own)),
        RouteAttribute::Oif(index),
    ];
    let mut answers = handle.route().get(request).execute();
    match answers.try_next().await {
        Ok(None) => Ok(Answer::Unknown),
        Ok(Some(found)) => Ok(match (message::route(&found, index), found.header.kind) {
            (Some(route), RouteType::Unicast) => Answer::Sent {
                paths: route.paths,
                mtu: route.mtu,
            },
            (None, RouteType::Unicast) => Answer::Unknown,
            _ => Answer::Refused,
        }),
        Err(Error::NetlinkError(error)) => Ok(match -error.raw_code() {
            // IPv4 checks the source address, and has the code below for all routes that refuse.
            libc::EINVAL if destination.is_ipv4() => Answer::Unknown,
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EACCES | libc::EINVAL => Answer::Refused,
            _ => Answer::Unknown,
        }),
        Err(error) => Err(error),
    }
}

const fn attribute(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_compared_with_all_paths() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (a, b) = (Some(ip("172.16.1.1")), Some(ip("172.16.1.2")));
        let sent = |paths: &[Option<IpAddr>], mtu| Answer::Sent {
            paths: paths.to_vec(),
            mtu,
        };
        let destination = ip("10.0.0.1");
        let answers = [
            sent(&[a, b], None),
            sent(&[a], None),
            sent(&[a], Some(1400)),
            sent(&[None], None),
            Answer::Refused,
        ];
        for (row, answer) in answers.iter().enumerate() {
            for (column, other) in answers.iter().enumerate() {
                let routes = other.routes(destination);
                assert_eq!(answer.agrees(&routes), row == column, "{answer:?} {other:?}");
            }
            assert!(Answer::Unknown.agrees(&answer.routes(destination)));
            assert_eq!(answer.agrees(&[]), *answer == Answer::Refused, "{answer:?}");
        }
    }
}
