//! Packets that no host of a flow sends: changed, cut and forged ones, and ICMP errors about any.

use std::net::SocketAddr;

use rand::RngExt;
use rand::rngs::StdRng;

use super::network::{self, CLIENTS, SERVICES};
use super::seen::addresses_of;
use super::sender::{Hosts, payload, pick};
use crate::testing::builder::{self, Tcp};

impl Hosts {
    /// With up to four bytes changed, or cut, or both. MAC addresses stay: others are none of the interface's.
    pub(super) fn changed(&self, rng: &mut StdRng, packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        let link = self.framing.header_len();
        let start = link.saturating_sub(2).min(packet.len() - 1);
        let headers = packet.len().min(link + 64);
        for _ in 0..rng.random_range(0..=4) {
            let end = if rng.random_range(0..4) == 0 {
                packet.len()
            } else {
                headers
            };
            let at = rng.random_range(start..end);
            packet[at] = if rng.random() {
                rng.random()
            } else {
                packet[at] ^ (1 << rng.random_range(0..8))
            };
        }
        if rng.random_range(0..4) == 0 {
            packet.truncate(rng.random_range(1..=packet.len()));
        }
        if rng.random() {
            repair(&mut packet, link);
        }
        packet
    }

    /// A packet with right checksums of any sender.
    pub(super) fn forged(&self, rng: &mut StdRng) -> Vec<u8> {
        let is_v4 = rng.random();
        let source = match rng.random_range(0..5) {
            0 => network::own(is_v4),
            1 => network::host(is_v4, 255),
            2 => network::backend(is_v4, rng.random_range(0..network::BACKENDS)),
            _ => network::client(is_v4, rng.random_range(0..CLIENTS)),
        };
        let port = |rng: &mut StdRng| match rng.random_range(0..4) {
            0 => SERVICES[rng.random_range(0..SERVICES.len())].1,
            1 => SERVICES[rng.random_range(0..SERVICES.len())].2,
            2 => rng.random_range(20_000..20_032),
            _ => rng.random_range(40_000..40_012),
        };
        let (from, to) = (port(rng), port(rng));
        let addresses = self.addresses(
            SocketAddr::new(source, from),
            SocketAddr::new(network::own(is_v4), to),
        );
        if rng.random() {
            return builder::udp(addresses, &payload(rng));
        }
        let header = Tcp {
            flags: rng.random(),
            sequence: rng.random(),
            acknowledgment: rng.random(),
            options: &[],
        };
        builder::tcp(addresses, &header, &payload(rng))
    }

    /// About a packet that the balancer has sent, from its receiver.
    pub(super) fn icmp_error(&self, rng: &mut StdRng) -> Option<Vec<u8>> {
        let quote = pick(rng, &self.sent)?.get(self.framing.header_len()..)?;
        let is_v4 = quote.first()? >> 4 == 4;
        let (_, receiver) = addresses_of(quote, false)?;
        let kind = if is_v4 {
            [3, 11, 12, 5, 8]
        } else {
            [1, 2, 3, 4, 128]
        };
        let kind = kind[rng.random_range(0..kind.len())];
        // No MTU below which the hosts' packets do not fit.
        let info = rng.random_range(900..1_500);
        let addresses = self.addresses(
            SocketAddr::new(receiver, 0),
            SocketAddr::new(network::own(is_v4), 0),
        );
        let length = rng.random_range(quote.len().min(28)..=quote.len().min(500));
        Some(builder::icmp_error(
            addresses,
            kind,
            rng.random_range(0..5),
            info,
            &quote[..length],
        ))
    }
}

/// Makes the checksum of an IPv4 header right.
pub(super) fn repair(packet: &mut [u8], link: usize) {
    let Some(ip) = packet.get_mut(link..) else { return };
    if ip.len() < 20 || ip[0] >> 4 != 4 {
        return;
    }
    let end = ip.len().min(usize::from(ip[0] & 0xf) * 4);
    ip[10..12].fill(0);
    let mut sum: u32 = ip[..end]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    ip[10..12].copy_from_slice(&[high, low]);
}
