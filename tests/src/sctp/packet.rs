//! The bytes of SCTP packets.

/// Types of chunks (RFC 9260 section 3.2).
pub mod kinds {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Bytes of a DATA chunk's value before the payload.
pub(super) const DATA_HEADER: usize = 12;
/// Bytes of the value of INIT and INIT ACK before the parameters.
pub(super) const INIT_HEADER: usize = 16;

/// A chunk without its padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub kind: u8,
    pub flags: u8,
    pub value: Vec<u8>,
}

impl Chunk {
    pub(super) fn new(kind: u8, value: &[u8]) -> Self {
        Self {
            kind,
            flags: 0,
            value: value.to_vec(),
        }
    }

    /// INIT or INIT ACK with these parameters.
    pub(super) fn init(kind: u8, tag: u32, parameters: &[u8]) -> Self {
        let fixed = [&tag.to_be_bytes()[..], &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]].concat();
        Self::new(kind, &[&fixed, parameters].concat())
    }

    /// A whole message in one chunk.
    pub(super) fn data(sequence: u32, payload: &[u8]) -> Self {
        const WHOLE: u8 = 3;
        let header = [&sequence.to_be_bytes()[..], &[0; DATA_HEADER - 4]].concat();
        Self {
            flags: WHOLE,
            ..Self::new(kinds::DATA, &[&header, payload].concat())
        }
    }

    /// The tag of INIT or INIT ACK, the sequence number of DATA.
    pub(super) fn number(&self) -> Option<u32> {
        self.value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }
}

/// A packet as its receiver reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) tag: u32,
    pub(super) chunks: Vec<Chunk>,
}

impl Packet {
    /// `None` for what is no SCTP packet or has a wrong checksum.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_first_chunk::<12>()?;
        let field = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if field != checksum(bytes) {
            return None;
        }
        let mut chunks = Vec::new();
        while let Some(&[kind, flags, high, low]) = rest.first_chunk() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            chunks.push(Chunk {
                kind,
                flags,
                value: rest.get(4..length)?.to_vec(),
            });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(Self {
            source_port: u16::from_be_bytes([header[0], header[1]]),
            destination_port: u16::from_be_bytes([header[2], header[3]]),
            tag: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            chunks,
        })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        for chunk in &self.chunks {
            let length = u16::try_from(4 + chunk.value.len()).expect("a short chunk");
            bytes.extend([chunk.kind, chunk.flags]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(&chunk.value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let checksum = checksum(&bytes);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn chunk(&self, kind: u8) -> Option<&Chunk> {
        self.chunks.iter().find(|chunk| chunk.kind == kind)
    }
}

/// CRC32c, the field taken as 0.
fn checksum(packet: &[u8]) -> u32 {
    let head = crc32c::crc32c(&packet[..8]);
    let field = crc32c::crc32c_append(head, &[0; 4]);
    crc32c::crc32c_append(field, &packet[12..])
}
