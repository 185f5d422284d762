//! Which clients may use a service.

use std::net::IpAddr;

use ipnet::IpNet;

/// The clients that may open flows of a service: networks, or all clients.
///
/// Networks apply to both families: with IPv4 networks only, no IPv6 client is
/// allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceRanges {
    /// As few networks as cover the same addresses, ascending; they do not overlap.
    networks: Box<[IpNet]>,
}

impl SourceRanges {
    /// These networks; all clients if empty. Control side only.
    pub fn new(networks: &[IpNet]) -> Self {
        let networks: Vec<IpNet> = networks.iter().map(IpNet::trunc).collect();
        let mut networks = IpNet::aggregate(&networks);
        networks.sort_unstable();
        Self {
            networks: networks.into(),
        }
    }

    /// Whether `client` is one of them. O(log networks).
    #[inline]
    pub fn allow(&self, client: IpAddr) -> bool {
        self.networks.is_empty() || self.contain(client)
    }

    fn contain(&self, client: IpAddr) -> bool {
        // The last network that begins at or before the client is the only one that may hold it:
        // IPv4 sorts before IPv6, and networks do not overlap.
        let after = self
            .networks
            .partition_point(|network| network.network() <= client);
        after
            .checked_sub(1)
            .is_some_and(|last| self.networks[last].contains(&client))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(networks: &[&str]) -> SourceRanges {
        let networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
        SourceRanges::new(&networks)
    }

    #[test]
    fn a_client_is_allowed_by_its_own_familys_networks() {
        let v4 = &["10.0.0.0/8", "192.0.2.7/32"][..];
        let both = &["10.0.0.0/8", "2001:db8::/32"][..];
        for (networks, client, allowed) in [
            (&[][..], "203.0.113.1", true),
            (&[], "2001:db8::1", true),
            (v4, "10.255.255.255", true),
            (v4, "11.0.0.0", false),
            (v4, "9.255.255.255", false),
            (v4, "192.0.2.7", true),
            (v4, "192.0.2.6", false),
            (v4, "::a00:1", false),
            (both, "2001:db8:ffff::1", true),
            (both, "2001:db9::", false),
            (both, "10.1.2.3", true),
            (&["::/0"], "10.1.2.3", false),
            (&["0.0.0.0/0"], "10.1.2.3", true),
            (&["0.0.0.0/0"], "::1", false),
            (&["10.0.0.9/8"], "10.1.2.3", true),
        ] {
            let client: IpAddr = client.parse().unwrap();
            assert_eq!(ranges(networks).allow(client), allowed, "{networks:?} {client}");
        }
    }

    fn networks() -> impl Strategy<Value = Vec<IpNet>> {
        // Small numbers, so that networks touch and contain each other.
        let v4 = (0_u8..4, 0_u8..8, 20_u8..=32)
            .prop_map(|(b, c, length)| IpNet::new(IpAddr::from([10, 0, b, c]), length).unwrap());
        let v6 = (0_u16..8, 100_u8..=128).prop_map(|(tail, length)| {
            IpNet::new(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, tail]), length).unwrap()
        });
        prop::collection::vec(prop_oneof![v4, v6], 1..12)
    }

    proptest! {
        #[test]
        fn it_is_the_same_as_asking_each_network(networks in networks(), b in 0_u8..5, c in any::<u8>(), tail in 0_u16..16) {
            let ranges = SourceRanges::new(&networks);
            for client in [IpAddr::from([10, 0, b, c]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, tail])] {
                let expected = networks.iter().any(|network| network.contains(&client));
                prop_assert_eq!(ranges.allow(client), expected, "{} in {:?}", client, networks);
            }
        }
    }
}
