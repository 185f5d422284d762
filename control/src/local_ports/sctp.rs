//! The SCTP sockets of this network namespace.
//!
//! They are read from /proc/net/sctp/eps, which is there while the kernel has the protocol: to ask over netlink would load
//! its module.

use std::net::{IpAddr, SocketAddr};

const ENDPOINTS: &str = "/proc/net/sctp/eps";

/// The addresses of all sockets, and the numbers of their inodes. None without SCTP in the kernel.
pub(super) fn read() -> Vec<(SocketAddr, u64)> {
    let text = std::fs::read_to_string(ENDPOINTS).unwrap_or_default();
    parse(&text)
}

/// Lines of `ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS`, of which the last are any number of addresses; a line that
/// is none, such as the title, is left out.
fn parse(text: &str) -> Vec<(SocketAddr, u64)> {
    text.lines().filter_map(endpoint).flatten().collect()
}

fn endpoint(line: &str) -> Option<Vec<(SocketAddr, u64)>> {
    let mut words = line.split_whitespace();
    let port: u16 = words.nth(5)?.parse().ok().filter(|&port| port != 0)?;
    let inode = words.nth(1)?.parse().ok()?;
    let addresses = words.filter_map(|word| word.parse::<IpAddr>().ok());
    Some(
        addresses
            .map(|address| (SocketAddr::new(address, port), inode))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.12 prints them (`sctp_eps_seq_show` in net/sctp/proc.c).
    #[test]
    fn endpoints_are_read_with_all_their_addresses() {
        let text = "\
 ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS
00000000b3c5d0ea 000000007ce5b2c1 2   10  29   15020     0 24671 0.0.0.0
0000000011111111 0000000022222222 2   10  30   3868     65 24672 172.16.1.103 2001:0db8:0000:0000:0000:0000:0000:0067
00000000b3c5d0ea 000000007ce5b2c1 2   7   0    0         0 24673
";
        let expected = [
            ("0.0.0.0:15020", 24_671),
            ("172.16.1.103:3868", 24_672),
            ("[2001:db8::67]:3868", 24_672),
        ]
        .map(|(address, inode)| (address.parse().unwrap(), inode));
        assert_eq!(parse(text), expected);
        assert_eq!(parse(""), []);
        assert_eq!(parse("a b c d e f g h"), []);
    }
}
