//! Reflection of a frame to its source.

use vl3lb_dataplane::Framing;

use super::{Layout, TCP, be32, checksum, flags, put};

/// Sequence number of the SYN-ACK; any is valid.
const OWN_SEQUENCE: u32 = 0;

/// Turns a frame into its reply, in place: swaps MAC addresses, IP addresses and ports. Of a TCP segment it sets flags
/// and sequence numbers too, so that the connection looks alive to devices that follow its state: SYN becomes SYN-ACK,
/// data come back as acknowledged data, FIN as FIN. Returns whether there is a reply: there is none to RST, to segments
/// that only acknowledge, and to packets that are neither UDP nor TCP.
///
/// Swapping leaves checksums right. A partial one is completed, O(length), as are those of TCP.
#[inline]
pub(crate) fn reflect(frame: &mut [u8], framing: Framing) -> bool {
    let Some(layout) = Layout::of(frame, framing) else {
        return false;
    };
    if layout.protocol == TCP && !answer_segment(frame, &layout) {
        return false;
    }
    let renew = layout.protocol == TCP || checksum::is_partial(frame, &layout);
    if framing == Framing::Ethernet {
        swap(frame, 0, 6);
    }
    swap(frame, layout.addresses, layout.address_len);
    swap(frame, layout.transport, 2);
    if renew {
        checksum::write(frame, &layout);
    }
    true
}

/// Writes flags and sequence numbers of the answer to a segment; `false` if there is none.
fn answer_segment(frame: &mut [u8], layout: &Layout) -> bool {
    const SEQUENCE: usize = 4;
    const ACKNOWLEDGMENT: usize = 8;
    const FLAGS: usize = 13;
    let at = layout.transport;
    let received = frame[at + FLAGS];
    let has = |flag| received & flag != 0;
    let length = u32::try_from(layout.end - layout.payload).unwrap_or(u32::MAX);
    if has(flags::RST) || !has(flags::SYN | flags::FIN) && length == 0 {
        return false;
    }
    // SYN and FIN take a sequence number each (RFC 9293 section 3.4).
    let ends = u32::from(has(flags::SYN)) + u32::from(has(flags::FIN));
    let acknowledged = be32(frame, at + SEQUENCE).wrapping_add(length + ends);
    let sequence = if has(flags::SYN) {
        OWN_SEQUENCE
    } else {
        be32(frame, at + ACKNOWLEDGMENT)
    };
    frame[at + FLAGS] = received | flags::ACK;
    put(frame, at + SEQUENCE, sequence.to_be_bytes());
    put(frame, at + ACKNOWLEDGMENT, acknowledged.to_be_bytes());
    true
}

/// Swaps two neighbouring fields of `len` bytes.
#[inline]
fn swap(frame: &mut [u8], at: usize, len: usize) {
    let (first, second) = frame[at..at + 2 * len].split_at_mut(len);
    first.swap_with_slice(second);
}

#[cfg(test)]
mod tests {
    use vl3lb_dataplane::testing::builder::{Addresses, Tcp, make_checksum_partial, tcp, udp};
    use vl3lb_dataplane::testing::validate::assert_valid;

    use super::*;

    const LINKS: [fn() -> (Addresses, Framing); 2] = [
        || {
            (
                Addresses::ethernet("172.16.1.1:1000", "172.16.1.2:2000"),
                Framing::Ethernet,
            )
        },
        || {
            (
                Addresses::raw("[2001:db8::1]:1000", "[2001:db8::2]:2000"),
                Framing::RawIp,
            )
        },
    ];

    #[test]
    fn a_datagram_comes_back_with_swapped_addresses() {
        for (addresses, framing) in LINKS.map(|link| link()) {
            let mut packet = udp(addresses, b"payload");
            assert!(reflect(&mut packet, framing));
            assert_eq!(packet, udp(addresses.reversed(), b"payload"));
        }
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for (addresses, framing) in LINKS.map(|link| link()) {
            let mut packet = udp(addresses, b"payload");
            make_checksum_partial(&mut packet, framing == Framing::Ethernet);
            assert!(reflect(&mut packet, framing));
            assert_valid(&packet, framing == Framing::Ethernet);
        }
    }

    #[test]
    fn a_connection_looks_alive() {
        use flags::{ACK, FIN, PSH, RST, SYN};
        // Description, flags, sequence, acknowledgment, payload; flags, sequence, acknowledgment of the answer.
        type Row = (
            &'static str,
            (u8, u32, u32, &'static [u8]),
            Option<(u8, u32, u32)>,
        );
        let table: [Row; 6] = [
            ("opening", (SYN, 100, 0, b""), Some((SYN | ACK, 0, 101))),
            ("acknowledging", (ACK, 101, 1, b""), None),
            ("data", (PSH | ACK, 101, 1, b"seven77"), Some((PSH | ACK, 1, 108))),
            ("wrapped", (ACK, u32::MAX, 1, b"ab"), Some((ACK, 1, 1))),
            ("closing", (FIN | ACK, 108, 8, b""), Some((FIN | ACK, 8, 109))),
            ("reset", (RST, 108, 0, b""), None),
        ];
        for (addresses, framing) in LINKS.map(|link| link()) {
            for (what, (flags, sequence, acknowledgment, payload), answer) in table {
                let segment = |flags, sequence, acknowledgment| Tcp {
                    flags,
                    sequence,
                    acknowledgment,
                    options: &[],
                };
                let mut packet = tcp(addresses, &segment(flags, sequence, acknowledgment), payload);
                let answered = reflect(&mut packet, framing);
                assert_eq!(answered, answer.is_some(), "{what}");
                if let Some((flags, sequence, acknowledgment)) = answer {
                    let expected = segment(flags, sequence, acknowledgment);
                    assert_eq!(packet, tcp(addresses.reversed(), &expected, payload), "{what}");
                }
            }
        }
    }

    #[test]
    fn other_packets_have_no_reply() {
        for bytes in [&b""[..], &[0x45], &[0xff; 60]] {
            assert!(!reflect(&mut bytes.to_vec(), Framing::RawIp));
            assert!(!reflect(&mut bytes.to_vec(), Framing::Ethernet));
        }
    }
}
