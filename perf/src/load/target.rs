//! Which addresses may be sent to.
//!
//! A load generator in wrong hands, or with a mistyped address, is an attack. So the target is one address
//! that is given as such, it stands for one host, and one outside of private networks needs a word more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::failure::Failure;

/// Where a load may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permit {
    /// Addresses that do not belong to the public internet only.
    Private,
    /// Any host, by the user's explicit word.
    Anywhere,
}

/// Whether a load may be sent to `target`.
///
/// # Errors
///
/// It is not the address of one host, or a public one without permission.
pub(crate) fn check(target: SocketAddr, permit: Permit) -> Result<(), Failure> {
    let address = target.ip().to_canonical();
    let refuse = |why: &str| Err(Failure::arguments(format!("target {target}: {why}")));
    if target.port() == 0 {
        return refuse("port 0 is none");
    }
    if address.is_unspecified() {
        return refuse("the unspecified address is no host's");
    }
    if address.is_multicast() {
        return refuse("a multicast address: a load goes to one host");
    }
    if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return refuse("the broadcast address: a load goes to one host");
    }
    if permit == Permit::Private && !is_private(address) {
        return refuse("a public address: if it is yours to load, add --allow-public");
    }
    Ok(())
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
    fn only_one_private_host_is_a_target_unless_told_otherwise() {
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
            for (permit, expected) in [(Permit::Private, private), (Permit::Anywhere, anywhere)] {
                let result = check(address, permit);
                assert_eq!(result.is_ok(), expected, "{target} {permit:?}");
                assert!(result.err().is_none_or(|refusal| refusal.code() == 2));
            }
        }
    }
}
