//! The TCP option with the client's address.

use super::*;

/// The option 254 of a TCP packet, whole.
fn address_option(packet: &[u8], ethernet: bool) -> Option<Vec<u8>> {
    let link = if ethernet { 14 } else { 0 };
    let l4 = link + if packet[link] >> 4 == 4 { 20 } else { 40 };
    let mut options = &packet[l4 + 20..l4 + usize::from(packet[l4 + 12] >> 4) * 4];
    while let [kind, rest @ ..] = options {
        match kind {
            0 => break,
            1 => options = rest,
            254 => return Some(options[..usize::from(options[1])].to_vec()),
            _ => options = &options[usize::from(options[1])..],
        }
    }
    None
}

fn expected_option(client: &str) -> Vec<u8> {
    if client == CLIENTS[0] {
        return vec![254, 8, 0x9c, 0x40, 172, 16, 1, 100];
    }
    let address: std::net::Ipv6Addr = "2001:db8::64".parse().unwrap();
    [&[254, 20, 0x9c, 0x40][..], &address.octets()].concat()
}

#[test]
fn segments_have_the_option_until_the_backend_has_accepted() {
    for framing in [Framing::Ethernet, Framing::RawIp] {
        for client in CLIENTS {
            let setup = Setup {
                framing,
                ..Setup::default()
            };
            let mut proxied = Proxied::with(setup, ClientAddress::Toa);
            let ethernet = proxied.world.ethernet();
            // As Linux sends them.
            let options = [
                TcpOptionElement::MaximumSegmentSize(1_440),
                TcpOptionElement::SelectiveAcknowledgementPermitted,
                TcpOptionElement::Timestamp(1, 0),
                TcpOptionElement::Noop,
                TcpOptionElement::WindowScale(7),
            ];
            let expected = Some(expected_option(client));
            let sent = |proxied: &mut Proxied, segment: &Tcp<'_>, payload: &[u8]| {
                let out = proxied.pass(&proxied.client(client, segment, payload));
                let [out] = &out[..] else { panic!("one segment") };
                let seen = Segment::of(out, ethernet);
                assert_eq!((seen.sequence, &seen.payload[..]), (segment.sequence, payload));
                (address_option(out, ethernet), seen)
            };
            let syn = Tcp {
                flags: flags::SYN,
                options: &options,
                ..ack(1_000, 0)
            };
            let (option, seen) = sent(&mut proxied, &syn, b"");
            assert_eq!(option, expected);
            let syn_ack = Tcp {
                flags: flags::SYN | flags::ACK,
                options: &options,
                ..ack(5_000, 1_001)
            };
            let answer = proxied.one(&proxied.backend(&seen, &syn_ack, b""));
            assert_eq!((answer.acknowledgment, answer.window), (1_001, 0xffff));
            assert_eq!(sent(&mut proxied, &ack(1_001, 5_001), b"").0, expected);
            assert_eq!(sent(&mut proxied, &ack(1_001, 5_001), b"data").0, expected);
            // As long as a segment may be without the option.
            assert_eq!(sent(&mut proxied, &ack(1_005, 5_001), &[7; 1_440]).0, None);
            assert_eq!(proxied.world.stats[0].addresses_left_out.get(), 1);
            proxied.pass(&proxied.backend(&seen, &ack(5_001, 1_005), b""));
            assert_eq!(sent(&mut proxied, &ack(1_005, 5_001), b"more").0, None);
            assert_eq!(proxied.world.drops(), []);
        }
    }
}

#[test]
fn a_syn_that_is_full_of_options_goes_without_the_address() {
    for client in CLIENTS {
        let mut proxied = Proxied::with(Setup::default(), ClientAddress::Toa);
        let options = [
            TcpOptionElement::Timestamp(1, 0),
            TcpOptionElement::Timestamp(2, 0),
            TcpOptionElement::Timestamp(3, 0),
        ];
        let syn = Tcp {
            flags: flags::SYN,
            options: &options,
            ..ack(1_000, 0)
        };
        let more = [&options[..], &[TcpOptionElement::WindowScale(1)]].concat();
        let full = Tcp {
            options: &more,
            ..syn.clone()
        };
        // 30 and 33 bytes of 40.
        let have = [&syn, &full].map(|segment| {
            let out = proxied.pass(&proxied.client(client, segment, b""));
            address_option(&out[0], true).is_some()
        });
        assert_eq!(have, [client == CLIENTS[0], false]);
        assert!(proxied.world.stats[0].addresses_left_out.get() > 0);
    }
}
