//! PROXY protocol version 2: a header before datagrams.

use super::*;

/// A datagram as its receiver sees it: source, destination, payload.
fn datagram(packet: &[u8], ethernet: bool) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let seen = Seen::of(packet, ethernet);
    (seen.source, seen.destination, seen.payload)
}

fn udp_header(client: &str) -> Vec<u8> {
    let mut header = header(client);
    header[13] += 1;
    header
}

#[test]
fn each_datagram_or_the_first_one_has_the_header() {
    for framing in [Framing::Ethernet, Framing::RawIp] {
        for client in CLIENTS {
            for (address, later) in [
                (ClientAddress::ProxyV2, udp_header(client)),
                (ClientAddress::ProxyV2First, Vec::new()),
                (ClientAddress::None, Vec::new()),
            ] {
                let mut proxied = Proxied::with(
                    Setup {
                        framing,
                        ..Setup::default()
                    },
                    address,
                );
                let ethernet = proxied.world.ethernet();
                let first = match address {
                    ClientAddress::None => Vec::new(),
                    _ => udp_header(client),
                };
                for (payload, header) in [(&b"odd"[..], &first), (&b"even"[..], &later), (&b""[..], &later)] {
                    let mut question = proxied.world.client_udp(client, payload);
                    if payload == b"even" {
                        builder::make_checksum_partial(&mut question, ethernet);
                    }
                    let out = proxied.pass(&question);
                    let [out] = &out[..] else { panic!("one datagram") };
                    let (source, destination, seen) = datagram(out, ethernet);
                    assert_eq!(seen, [&header[..], payload].concat(), "{address:?}");
                    let to = (destination.to_string(), source.to_string());
                    let answer = builder::udp(proxied.world.addresses(&to.0, &to.1), b"answer");
                    let back = proxied.pass(&answer);
                    assert_eq!(datagram(&back[0], ethernet).2, b"answer");
                }
                assert_eq!(proxied.world.drops(), []);
            }
        }
    }
}

#[test]
fn a_datagram_without_room_for_the_header_is_refused_or_fragmented() {
    for client in CLIENTS {
        let mut proxied = Proxied::new(Setup::default());
        let ip = if client.starts_with('[') { 40 } else { 20 };
        let header = udp_header(client);
        let longest = vec![7; 1_500 - ip - 8 - header.len()];
        let out = proxied.pass(&proxied.world.client_udp(client, &longest));
        assert_eq!(out[0].len(), 14 + 1_500);
        let longer = [&longest[..], b"x"].concat();
        let question = proxied.world.client_udp(client, &longer);
        let (verdict, error) = proxied.world.send(&question);
        assert_eq!(verdict, Verdict::Reject);
        // Fragmentation Needed, Packet Too Big.
        let mtu = if ip == 20 {
            u32::from(u16::from_be_bytes([error[14 + 26], error[14 + 27]]))
        } else {
            u32::from_be_bytes([error[14 + 44], error[14 + 45], error[14 + 46], error[14 + 47]])
        };
        assert_eq!(
            mtu as usize,
            1_500 - header.len(),
            "as long as the client's may be"
        );
        if ip == 20 {
            let mut question = builder::udp(proxied.world.addresses(client, service_of(client)), &longer);
            allow_fragments(&mut question);
            let out = proxied.pass(&question);
            assert_eq!(out.len(), 2);
            let whole: Vec<u8> = out.iter().flat_map(|packet| packet[34..].to_vec()).collect();
            assert_eq!(whole[8..], [&header[..], &longer].concat());
        }
    }
}

/// Clears the flag DF of an IPv4 packet on Ethernet.
fn allow_fragments(packet: &mut [u8]) {
    packet[14 + 6] &= !0x40;
    packet[14 + 10..14 + 12].fill(0);
    let words = packet[14..34].chunks(2);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let [.., high, low] = (!sum).to_be_bytes();
    (packet[14 + 10], packet[14 + 11]) = (high, low);
}

#[test]
fn a_datagram_in_fragments_has_no_room_for_the_header() {
    let mut proxied = Proxied::new(Setup::default());
    let question = proxied.world.client_udp(CLIENTS[0], &[7; 2_000]);
    let fragments = builder::fragments(&question, true, 1_024, 7);
    assert_eq!(proxied.world.send_all(&fragments), Vec::<Vec<u8>>::new());
    assert_eq!(proxied.world.drops(), [DropReason::FragmentUnmatched]);
    assert_eq!(proxied.world.flows(), 0);
}

#[test]
fn a_router_that_takes_less_reports_what_the_client_may_send() {
    for client in CLIENTS {
        let mut proxied = Proxied::new(Setup::default());
        let ethernet = proxied.world.ethernet();
        let out = proxied.pass(&proxied.world.client_udp(client, &[7; 1_350]));
        let (source, destination, _) = datagram(&out[0], ethernet);
        let (from, to) = (destination.to_string(), source.to_string());
        let (kind, code) = if client.starts_with('[') { (2, 0) } else { (3, 4) };
        let addresses = proxied.world.addresses(&from, &to);
        let error = builder::icmp_error(addresses, kind, code, 1_300, &out[0][14..]);
        let out = proxied.pass(&error);
        let at = 14 + if client.starts_with('[') { 44 } else { 24 };
        let mtu = u32::from_be_bytes(out[0][at..at + 4].try_into().unwrap());
        assert_eq!(mtu as usize, 1_300 - udp_header(client).len());
    }
}
