//! PROXY protocol version 2: a header at the start of the client's stream.

use super::super::fast::Fast;
use super::*;
use crate::flow::State;

#[test]
fn the_header_goes_with_the_handshakes_ack_and_numbers_are_shifted_from_then_on() {
    for (mut proxied, client, header, length) in setups() {
        let seen = proxied.open(client, &[]);
        // The backend may speak first: it has the header at once.
        let first = proxied.one(&proxied.client(client, &ack(1_001, 5_001), b""));
        assert_eq!((first.sequence, first.acknowledgment), (1_001, 5_001));
        assert_eq!(first.payload, header);
        let hello = proxied.one(&proxied.backend(&seen, &ack(5_001, 1_001 + length), b"220 hello"));
        assert_eq!((hello.sequence, hello.acknowledgment), (5_001, 1_001));
        assert_eq!((hello.window, &hello.payload[..]), (0xffff, &b"220 hello"[..]));

        let data = proxied.one(&proxied.client(client, &ack(1_001, 5_010), b"HELO"));
        assert_eq!((data.sequence, data.acknowledgment), (1_001 + length, 5_010));
        assert_eq!(data.payload, b"HELO");
        let known = proxied.one(&proxied.backend(&seen, &ack(5_010, 1_005 + length), b""));
        assert_eq!((known.sequence, known.acknowledgment), (5_010, 1_005));

        let fin = Tcp {
            flags: flags::FIN | flags::ACK,
            ..ack(1_005, 5_010)
        };
        assert_eq!(
            proxied.one(&proxied.client(client, &fin, b"")).sequence,
            1_005 + length
        );
        let fin = Tcp {
            flags: flags::FIN | flags::ACK,
            ..ack(5_010, 1_006 + length)
        };
        assert_eq!(
            proxied.one(&proxied.backend(&seen, &fin, b"")).acknowledgment,
            1_006
        );
        assert_eq!(
            proxied
                .one(&proxied.client(client, &ack(1_006, 5_011), b""))
                .sequence,
            1_006 + length
        );
        assert_eq!(proxied.world.drops(), []);
        let state = proxied.entry(client).state();
        assert_eq!(state, State::Finished, "judged in the client's numbers");
    }
}

#[test]
fn a_header_that_was_lost_comes_again_with_the_first_bytes() {
    for (mut proxied, client, header, length) in setups() {
        let seen = proxied.open(client, &[]);
        proxied.pass(&proxied.client(client, &ack(1_001, 5_001), b""));
        // The header has just been sent: new data goes behind it.
        let data = proxied.one(&proxied.client(client, &ack(1_001, 5_001), b"first"));
        assert_eq!(
            (data.sequence, &data.payload[..]),
            (1_001 + length, &b"first"[..])
        );
        let more = proxied.one(&proxied.client(client, &ack(1_006, 5_001), b"second"));
        assert_eq!(more.sequence, 1_006 + length);
        // The backend has neither header nor the first data.
        let missing = proxied.one(&proxied.backend(&seen, &ack(5_001, 1_001), b""));
        assert_eq!(missing.acknowledgment, 1_001);
        assert_eq!(u32::from(missing.window), 0xffff - length);
        let again = proxied.one(&proxied.client(client, &ack(1_001, 5_001), b"first"));
        assert_eq!(again.sequence, 1_001);
        assert_eq!(again.payload, [&header[..], b"first"].concat());
        // A part of it is not enough.
        let part = proxied.one(&proxied.backend(&seen, &ack(5_001, 1_011), b""));
        assert_eq!(part.acknowledgment, 1_001);
        assert_eq!(u32::from(part.window), 0xffff - (length - 10));
        let again = proxied.one(&proxied.client(client, &ack(1_001, 5_001), b"first"));
        assert_eq!(again.payload, [&header[..], b"first"].concat());
        let done = proxied.one(&proxied.backend(&seen, &ack(5_001, 1_001 + length), b""));
        assert_eq!((done.acknowledgment, done.window), (1_001, 0xffff));
        let again = proxied.one(&proxied.client(client, &ack(1_001, 5_001), b"first"));
        assert_eq!(
            (again.sequence, &again.payload[..]),
            (1_001 + length, &b"first"[..])
        );
    }
}

#[test]
fn what_does_not_fit_behind_the_header_becomes_two_segments() {
    let mss = [TcpOptionElement::MaximumSegmentSize(1_300)];
    for (mut proxied, client, header, length) in setups() {
        proxied.open(client, &mss);
        // Without an ACK of its own before, as from a client that waits for data; as long as a segment may be.
        let payload: Vec<u8> = (0..1_300_u32).map(|n| n.to_le_bytes()[0]).collect();
        let pushed = Tcp {
            flags: flags::ACK | flags::PSH,
            ..ack(1_001, 5_001)
        };
        let out = proxied.pass(&proxied.client(client, &pushed, &payload));
        let ethernet = proxied.world.ethernet();
        let segments: Vec<Segment> = out.iter().map(|packet| Segment::of(packet, ethernet)).collect();
        let [first, second] = &segments[..] else {
            panic!("{} segments", segments.len())
        };
        assert_eq!((first.sequence, first.payload.len()), (1_001, 1_300));
        assert_eq!((second.sequence, second.payload.len()), (2_301, header.len()));
        assert_eq!(
            (first.flags & flags::PSH, second.flags & flags::PSH),
            (0, flags::PSH)
        );
        assert_eq!(
            [&first.payload[..], &second.payload].concat(),
            [&header[..], &payload].concat()
        );
        // A super-packet goes behind the header that was sent, segmented.
        let long = vec![7; 20_000];
        let out = proxied.pass(&proxied.client(client, &ack(2_301, 5_001), &long));
        let mut next = 2_301 + length;
        for packet in &out {
            let segment = Segment::of(packet, ethernet);
            assert_eq!(segment.sequence, next);
            next += u32::try_from(segment.payload.len()).unwrap();
        }
        assert_eq!((out.len(), next), (16, 22_301 + length));
        // And once more from the start, all in one.
        let out = proxied.pass(&proxied.client(client, &ack(1_001, 5_001), &long));
        let bytes: Vec<u8> = out
            .iter()
            .flat_map(|packet| Segment::of(packet, ethernet).payload)
            .collect();
        assert_eq!(bytes, [&header[..], &long].concat());
    }
}

#[test]
fn sack_blocks_and_scaled_windows_are_the_clients() {
    let options = [
        TcpOptionElement::WindowScale(3),
        TcpOptionElement::SelectiveAcknowledgementPermitted,
    ];
    for (mut proxied, client, _, length) in setups() {
        let seen = proxied.open(client, &options);
        proxied.pass(&proxied.client(client, &ack(1_001, 5_001), b""));
        proxied.pass(&proxied.client(client, &ack(1_001, 5_001), b"first"));
        let sack = [TcpOptionElement::SelectiveAcknowledgement(
            (1_006 + length, 1_012 + length),
            [Some((1_001, 1_001 + length)), None, None],
        )];
        let segment = Tcp {
            options: &sack,
            ..ack(5_001, 1_001)
        };
        let missing = proxied.one(&proxied.backend(&seen, &segment, b""));
        let expected =
            TcpOptionElement::SelectiveAcknowledgement((1_006, 1_012), [Some((1_001, 1_001)), None, None]);
        assert!(missing.options.contains(&expected), "{:?}", missing.options);
        assert_eq!(u32::from(missing.window), ((0xffff << 3) - length) >> 3);
    }
}

#[test]
fn data_of_a_syn_come_again_behind_the_header() {
    for (mut proxied, client, header, _) in setups() {
        let syn = Tcp {
            flags: flags::SYN,
            sequence: 1_000,
            acknowledgment: 0,
            options: &[TcpOptionElement::MaximumSegmentSize(1_460)],
        };
        let seen = proxied.one(&proxied.client(client, &syn, b"fast"));
        assert_eq!((seen.flags, seen.sequence), (flags::SYN, 1_000));
        assert_eq!(seen.payload, b"", "they would come before the header");
        let syn_ack = Tcp {
            flags: flags::SYN | flags::ACK,
            ..ack(5_000, 1_001)
        };
        proxied.one(&proxied.backend(&seen, &syn_ack, b""));
        let data = proxied.one(&proxied.client(client, &ack(1_001, 5_001), b"fast"));
        assert_eq!(data.payload, [&header[..], b"fast"].concat());
    }
}

#[test]
fn resets_are_exact_in_the_receivers_numbers() {
    let rst = |sequence| Tcp {
        flags: flags::RST,
        ..ack(sequence, 0)
    };
    for (mut proxied, client, _, length) in setups() {
        // Before the backend has the header, behind it, and again for a backend that has lost it.
        let seen = proxied.open(client, &[]);
        assert_eq!(
            proxied.one(&proxied.client(client, &rst(1_001), b"")).sequence,
            1_001
        );
        assert_eq!(seen.sequence, 1_000);

        let other = client.replace("40000", "40001");
        proxied.open_quietly(&other);
        proxied.pass(&proxied.client(&other, &ack(1_001, 5_001), b""));
        assert_eq!(
            proxied.one(&proxied.client(&other, &rst(1_001), b"")).sequence,
            1_001 + length
        );
        assert_eq!(
            proxied.one(&proxied.client(&other, &rst(1_001), b"")).sequence,
            1_001
        );
    }
}

impl Proxied {
    /// [`open`](Self::open) for any client.
    fn open_quietly(&mut self, client: &str) -> Segment {
        let syn = Tcp {
            flags: flags::SYN,
            ..ack(1_000, 0)
        };
        let seen = self.one(&self.client(client, &syn, b""));
        let syn_ack = Tcp {
            flags: flags::SYN | flags::ACK,
            ..ack(5_000, 1_001)
        };
        self.one(&self.backend(&seen, &syn_ack, b""));
        seen
    }
}

#[test]
fn a_dead_backends_connections_are_reset_exactly() {
    for (mut proxied, client, _, length) in setups() {
        proxied.open(client, &[]);
        proxied.pass(&proxied.client(client, &ack(1_001, 5_001), b""));
        proxied.pass(&proxied.client(client, &ack(1_001, 5_001), b"data"));
        proxied.world.publish_backends(vec![
            ("172.16.1.2:8081", BackendState::Down),
            ("[2001:db8::2]:8081", BackendState::Down),
        ]);
        proxied.world.sweep();
        let mut out = Vec::new();
        proxied.world.engines[0].reset_orphans(&mut proxied.port, &mut out);
        proxied.port.transmit(&mut out);
        let ethernet = proxied.world.ethernet();
        let resets: Vec<(u32, u32)> = proxied
            .port
            .take_transmitted()
            .iter()
            .map(|packet| Segment::of(packet, ethernet))
            .map(|segment| (segment.sequence, segment.acknowledgment))
            .collect();
        assert_eq!(resets, [(1_005 + length, 5_001), (5_001, 1_005)]);
    }
}

#[test]
fn icmp_errors_quote_the_clients_number() {
    for (mut proxied, client, _, length) in setups() {
        let seen = proxied.open(client, &[]);
        proxied.pass(&proxied.client(client, &ack(1_001, 5_001), b""));
        for (number, quoted) in [(1_001, 1_001), (1_001 + length, 1_001), (1_050 + length, 1_050)] {
            let (from, to) = (seen.source.to_string(), seen.destination.to_string());
            let original = builder::tcp(Addresses::raw(&from, &to), &ack(number, 5_001), b"data");
            let (kind, code) = if client.starts_with('[') { (1, 4) } else { (3, 1) };
            let error = builder::icmp_error(proxied.world.addresses(&to, &from), kind, code, 0, &original);
            let out = proxied.pass(&error);
            let [out] = &out[..] else { panic!("one error") };
            let link = if proxied.world.ethernet() { 14 } else { 0 };
            let inner = link + if client.starts_with('[') { 48 } else { 28 };
            let segment = Segment::of(&out[inner..], false);
            assert_eq!(segment.source.to_string(), client);
            assert_eq!(segment.sequence, quoted, "{number}");
        }
    }
}

#[test]
fn a_wrong_checksum_is_not_made_right() {
    for (mut proxied, client, _, _) in setups() {
        proxied.open(client, &[]);
        let mut data = proxied.client(client, &ack(1_001, 5_001), b"data");
        *data.last_mut().unwrap() ^= 1;
        assert!(proxied.pass(&data).is_empty());
        assert_eq!(proxied.world.drops(), [DropReason::BadChecksum]);
        // One that the sender's kernel left to its device is completed.
        let mut data = proxied.client(client, &ack(1_001, 5_001), b"data");
        builder::make_checksum_partial(&mut data, proxied.world.ethernet());
        assert_eq!(proxied.pass(&data).len(), 1);
    }
}

#[test]
fn flows_keep_what_they_began_with_when_the_setting_changes() {
    for (mut proxied, client, header, length) in setups() {
        let set = |proxied: &mut Proxied, address: ClientAddress| {
            proxied.world.publish(|snapshot| {
                for service in snapshot.service_slots.iter_mut().flatten() {
                    service.client_address = address;
                }
            });
        };
        proxied.open(client, &[]);
        proxied.pass(&proxied.client(client, &ack(1_001, 5_001), b""));
        set(&mut proxied, ClientAddress::None);
        let plain = client.replace("40000", "40001");
        for (text, moved) in [("one", length), ("two", length)] {
            let number = if text == "one" { 1_001 } else { 1_004 };
            let data = proxied.client(client, &ack(number, 5_001), text.as_bytes());
            // As in a burst, where plain packets take the short way.
            let out = proxied.burst(&data);
            assert_eq!(
                (out.sequence, &out.payload[..]),
                (number + moved, text.as_bytes())
            );
        }
        let syn = Tcp {
            flags: flags::SYN,
            ..ack(1_000, 0)
        };
        let seen = proxied.one(&proxied.client(&plain, &syn, b""));
        let syn_ack = Tcp {
            flags: flags::SYN | flags::ACK,
            ..ack(5_000, 1_001)
        };
        assert_eq!(proxied.one(&proxied.backend(&seen, &syn_ack, b"")).window, 0xffff);
        set(&mut proxied, ClientAddress::ProxyV2);
        let data = proxied.burst(&proxied.client(&plain, &ack(1_001, 5_001), b"plain"));
        assert_eq!((data.sequence, &data.payload[..]), (1_001, &b"plain"[..]));
        assert_ne!(data.payload, header);
    }
}

impl Proxied {
    /// The segment that comes out for a packet that comes in a burst.
    fn burst(&mut self, packet: &[u8]) -> Segment {
        let mut frames = vec![frame(packet)];
        let mut verdicts = Vec::new();
        let now = self.world.now;
        self.world.engines[0].forward_burst(&mut frames, Origin::Queue, now, &mut verdicts);
        assert_eq!(verdicts, [(Verdict::Transmit, 1)]);
        validate::assert_valid(frames[0].bytes(), self.world.ethernet());
        Segment::of(frames[0].bytes(), self.world.ethernet())
    }
}

#[test]
fn a_finished_connection_leaves_the_backends_number_for_the_next_one() {
    for (mut proxied, client, _, length) in setups() {
        let seen = proxied.open(client, &[]);
        proxied.pass(&proxied.client(client, &ack(1_001, 5_001), b""));
        // The backend closes first, and so has the connection in TIME-WAIT.
        let fin = |sequence, acknowledgment| Tcp {
            flags: flags::FIN | flags::ACK,
            ..ack(sequence, acknowledgment)
        };
        proxied.pass(&proxied.backend(&seen, &fin(5_001, 1_001 + length), b""));
        proxied.pass(&proxied.client(client, &fin(1_001, 5_002), b""));
        proxied.pass(&proxied.backend(&seen, &ack(5_002, 1_002 + length), b""));
        let entry = proxied.entry(client);
        assert_eq!(entry.state(), State::Finished);
        assert_eq!(entry.sequence.end(Direction::In), 1_002 + length);
    }
}

#[test]
fn flows_with_a_header_stay_with_their_worker() {
    let setup = Setup {
        client_address: ClientAddress::ProxyV2,
        ..Setup::default()
    };
    let mut fast = Fast::new(setup, 16, 1);
    let syn = fast.world.client_tcp(CLIENTS[0], flags::SYN, b"");
    let seen = fast.world.forward(&syn);
    let syn_ack = fast.world.backend_tcp(&seen, flags::SYN | flags::ACK, b"");
    fast.world.forward(&syn_ack);
    let ack = fast.world.client_tcp(CLIENTS[0], flags::ACK, b"");
    assert!(matches!(fast.world.send(&ack).0, Verdict::Insert { .. }));
    for _ in 0..40 {
        let data = fast.world.client_tcp(CLIENTS[0], flags::ACK, b"data");
        fast.world.forward(&data);
        fast.tend();
        assert!(fast.kernel(&data).is_none(), "the program does not renumber");
    }
}
