//! Fragmented datagrams.

use super::*;

/// Sends all fragments; the IP payload that the receiver puts together, and their identification.
fn send_all(world: &mut World, fragments: &[Vec<u8>]) -> (Vec<u8>, u16) {
    let mut payload = Vec::new();
    let mut identification = None;
    for fragment in fragments {
        let (verdict, out) = world.send(fragment);
        assert_eq!(verdict, Verdict::Transmit, "dropped: {:?}", world.drops());
        let ip = etherparse::Ipv4HeaderSlice::from_slice(&out[14..]).unwrap();
        assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
        assert_eq!(
            *identification.get_or_insert_with(|| ip.identification()),
            ip.identification()
        );
        assert_eq!(ip.destination_addr().to_string(), "172.16.1.2");
        payload.extend_from_slice(&out[34..]);
    }
    (payload, identification.unwrap())
}

#[test]
fn all_fragments_of_a_datagram_follow_its_first_one() {
    for workers in [1, 3] {
        let mut world = World::new(Setup {
            workers,
            ..Setup::default()
        });
        let mut identifications = std::collections::HashSet::new();
        for client in 120..140 {
            let packet = world.client_udp(&format!("172.16.1.{client}:40000"), &[client; 4_000]);
            // Equal identifications, as from kernels that start at the same number.
            let fragments = builder::fragments(&packet, true, 1_480, 77);
            assert_eq!(fragments.len(), 3);
            let (payload, identification) = send_all(&mut world, &fragments);
            assert!(
                identifications.insert(identification),
                "datagrams of two clients must not mix"
            );
            // Put together, the datagram is valid.
            let header = etherparse::UdpHeader::from_slice(&payload).unwrap().0;
            assert_eq!(payload.len(), 4_008);
            let whole = header
                .calc_checksum_ipv4_raw([172, 16, 1, 103], [172, 16, 1, 2], &payload[8..])
                .unwrap();
            assert_eq!(header.checksum, whole);
            assert_eq!(header.destination_port, 8081);
        }
    }
}

#[test]
fn a_fragment_without_its_first_one_is_dropped() {
    let mut world = World::new(Setup::default());
    let packet = world.client_udp("172.16.1.100:40000", &[1; 4_000]);
    let fragments = builder::fragments(&packet, true, 1_480, 77);
    assert_eq!(world.send(&fragments[1]).0, Verdict::Drop);
    assert_eq!(world.dropped(DropReason::FragmentUnmatched), 1);
}

#[test]
fn fragments_of_replies_reach_the_client() {
    for (client, backend) in [
        ("172.16.1.100:40000", "172.16.1.2"),
        ("[2001:db8::64]:40000", "2001:db8::2"),
    ] {
        let mut world = World::new(Setup {
            workers: 2,
            ..Setup::default()
        });
        let question = world.client_udp(client, b"q");
        let seen = world.forward(&question);
        assert_eq!(seen.destination.ip().to_string(), backend);
        let answer = world.backend_udp(&seen, &[9; 3_000]);
        for fragment in builder::fragments(&answer, true, 1_400, 5) {
            assert_eq!(world.send(&fragment).0, Verdict::Transmit);
        }
    }
}
