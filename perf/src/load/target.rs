//! Addresses that may be loaded.
//!
//! A load generator in the wrong hands, or with a mistyped address, is an attack. So the target is the address of one
//! host, and one outside of private networks needs an option.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::PlanError;

/// Whether a load may be sent to `target`.
///
/// # Errors
///
/// It is not the address of one host, or it is public and `allow_public` is false.
pub(crate) fn check(target: SocketAddr, allow_public: bool) -> Result<(), PlanError> {
    let address = target.ip().to_canonical();
    let reason = if target.port() == 0 {
        "port 0 is not valid"
    } else if address.is_unspecified() {
        "the unspecified address is not a host's"
    } else if address.is_multicast() {
        "is a multicast address, and a load goes to one host"
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "is the broadcast address, and a load goes to one host"
    } else if !allow_public && !is_private(address) {
        "is a public address; if you may load it, add --allow-public"
    } else {
        return Ok(());
    };
    Err(PlanError::Target { target, reason })
}

/// Private, shared, link-local, loopback, and those set aside for documentation and benchmarks.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                // RFC 6598 and RFC 2544.
                || (a == 100 && b & 0xc0 == 64)
                || (a == 198 && b & 0xfe == 18)
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            v6 == Ipv6Addr::LOCALHOST
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                // RFC 3849 and RFC 5180.
                || (first == 0x2001 && second == 0xdb8)
                || (first == 0x2001 && second == 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_single_hosts_and_private_ones_unless_public_ones_are_allowed() {
        for (target, private, anywhere) in [
            ("172.16.1.103:8080", true, true),
            ("127.0.0.1:1", true, true),
            ("100.64.0.1:53", true, true),
            ("198.19.0.1:53", true, true),
            ("[fd00::1]:80", true, true),
            ("[fe80::1]:80", true, true),
            ("[2001:db8::67]:80", true, true),
            ("[::1]:80", true, true),
            ("9.9.9.9:53", false, true),
            ("[2620:fe::9]:53", false, true),
            ("[::ffff:9.9.9.9]:53", false, true),
            ("172.16.1.103:0", false, false),
            ("0.0.0.0:80", false, false),
            ("[::]:80", false, false),
            ("224.0.0.1:80", false, false),
            ("[ff02::1]:80", false, false),
            ("[::ffff:224.0.0.1]:80", false, false),
            ("255.255.255.255:80", false, false),
        ] {
            let address: SocketAddr = target.parse().unwrap();
            for (allow_public, expected) in [(false, private), (true, anywhere)] {
                let result = check(address, allow_public);
                assert_eq!(result.is_ok(), expected, "{target} {allow_public}");
            }
        }
    }
}
