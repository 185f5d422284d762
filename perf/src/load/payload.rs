//! The stamp in each packet, which reveals every fault on the way when the packet comes back.
//!
//! ```text
//!   0        4      6         9          13          19        22
//!   +--------+------+---------+----------+-----------+---------+---------
//!   | CRC-32 | run  | flow    | sequence | intended  | lag     | filler
//!   +--------+------+---------+----------+-----------+---------+---------
//! ```
//!
//! All numbers in network order. The CRC covers everything behind it, the filler too. 22 bytes are what a
//! frame of 64 bytes has room for behind its Ethernet, IPv4 and UDP headers.

/// Bytes of a stamp: the shortest payload.
pub(crate) const STAMP_LEN: usize = 22;
/// Flows that a stamp distinguishes.
pub(crate) const MAX_FLOWS: u32 = 1 << 24;

/// Nanoseconds in a unit of the lag field.
const LAG_UNIT: u64 = 256;
const MAX_LAG: u64 = (1 << 24) - 1;
/// The time field has 48 bits: 78 hours.
const TIME_MASK: u64 = (1 << 48) - 1;

/// The identity of a packet. Times are nanoseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Number of the run: packets of earlier runs are not counted.
    pub(crate) run: u16,
    pub(crate) flow: u32,
    /// Number of the packet within its flow, from 0.
    pub(crate) sequence: u32,
    /// When it should have been sent.
    pub(crate) intended: u64,
    /// When it was sent, in steps of 256 ns; at most 4.3 s after `intended`; later is recorded as that.
    pub(crate) sent: u64,
}

/// Why a payload is not one that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Shorter than a stamp.
    Short,
    /// The checksum does not match.
    Corrupt,
}

impl Stamp {
    /// Writes the stamp over the first bytes of `payload`; the rest is its filler. O(length).
    ///
    /// # Panics
    ///
    /// `payload` is shorter than [`STAMP_LEN`].
    pub(crate) fn write(&self, payload: &mut [u8]) {
        let lag = (self.sent.saturating_sub(self.intended) / LAG_UNIT).min(MAX_LAG);
        payload[4..6].copy_from_slice(&self.run.to_be_bytes());
        payload[6..9].copy_from_slice(&self.flow.to_be_bytes()[1..]);
        payload[9..13].copy_from_slice(&self.sequence.to_be_bytes());
        payload[13..19].copy_from_slice(&(self.intended & TIME_MASK).to_be_bytes()[2..]);
        payload[19..22].copy_from_slice(&lag.to_be_bytes()[5..]);
        let sum = crc32fast::hash(&payload[4..]);
        payload[..4].copy_from_slice(&sum.to_be_bytes());
    }

    /// Reads the stamp of a payload that came back. O(length).
    ///
    /// # Errors
    ///
    /// No run has sent it.
    pub(crate) fn read(payload: &[u8]) -> Result<Self, Fault> {
        let (stamp, _) = payload.split_first_chunk::<STAMP_LEN>().ok_or(Fault::Short)?;
        if number(&stamp[..4]) != u64::from(crc32fast::hash(&payload[4..])) {
            return Err(Fault::Corrupt);
        }
        let intended = number(&stamp[13..19]);
        #[expect(clippy::cast_possible_truncation, reason = "fields of 2, 3 and 4 bytes")]
        let read = Self {
            run: number(&stamp[4..6]) as u16,
            flow: number(&stamp[6..9]) as u32,
            sequence: number(&stamp[9..13]) as u32,
            intended,
            sent: intended + number(&stamp[19..22]) * LAG_UNIT,
        };
        Ok(read)
    }
}

/// Noise behind the stamp, so that damage cannot cancel out.
pub(crate) fn filler(len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| index.wrapping_mul(167).wrapping_add(index >> 3).to_le_bytes()[0])
        .collect()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_stamp() -> impl Strategy<Value = Stamp> {
        (
            any::<u16>(),
            0..MAX_FLOWS,
            any::<u32>(),
            0_u64..1 << 47,
            0_u64..1 << 24,
        )
            .prop_map(|(run, flow, sequence, intended, lag)| Stamp {
                run,
                flow,
                sequence,
                intended,
                sent: intended + lag * LAG_UNIT,
            })
    }

    proptest! {
        #[test]
        fn a_written_stamp_is_read_back(stamp in any_stamp(), len in STAMP_LEN..1500) {
            let mut payload = filler(len);
            stamp.write(&mut payload);
            prop_assert_eq!(Stamp::read(&payload), Ok(stamp));
        }

        #[test]
        fn every_changed_bit_and_truncation_is_detected(stamp in any_stamp(), len in STAMP_LEN..200, at in any::<usize>()) {
            let mut payload = filler(len);
            stamp.write(&mut payload);
            let cut = at % len;
            prop_assert!(Stamp::read(&payload[..cut]).is_err());
            let bit = at % (len * 8);
            payload[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Stamp::read(&payload), Err(Fault::Corrupt));
        }
    }

    #[test]
    fn a_lag_beyond_its_field_is_read_as_the_longest() {
        let stamp = Stamp {
            run: 1,
            flow: 2,
            sequence: 3,
            intended: 4,
            sent: 4 + 60_000_000_000,
        };
        let mut payload = [0; STAMP_LEN];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload).unwrap().sent, 4 + MAX_LAG * LAG_UNIT);
    }
}
