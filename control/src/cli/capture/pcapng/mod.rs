//! Captures as pcapng files (IETF draft-ietf-opsawg-pcapng), for Wireshark and tcpdump.
//!
//! A section has two interfaces, packets before and after their translation, of the same link type and snap length, since
//! tcpdump reads no other files. Both images of a packet have its number as packet ID. Six of the format's blocks are
//! needed; each is its type, its length, a body of fields and options, and its length again.

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::net::IpAddr;

use vl3lb_common::DropReason;
use vl3lb_common::dataplane::AttachMode;

use crate::api::{AddressNames, CaptureCounts, CaptureEvent, CaptureStart, CapturedPacket, PacketImage};

/// Block types (section 4, section 11.1).
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const NAME_RESOLUTION: u32 = 4;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
/// Link types (draft-ietf-opsawg-pcaplinktype). Raw IP is 101 there, but 12 on Linux, and all programs read both: libpcap
/// 1.10 refuses a file with two interfaces of 101, since it translates the first one's to 12 and compares.
const LINK_ETHERNET: u16 = 1;
const LINK_RAW_IP: u16 = 12;
/// Option codes of all blocks.
const COMMENT: u16 = 1;
/// The bits of `epb_flags` that say which way a packet goes, seen from the interface.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// The verdict of the program on the interface, `epb_verdict`: its kind, and what the program returned.
/// `XDP_REDIRECT` (include/uapi/linux/bpf.h) of the steer program, or `TC_ACT_REDIRECT` (include/uapi/linux/pkt_cls.h) of the
/// one in companion mode.
const VERDICT: u16 = 7;
const XDP_REDIRECT: (u8, u64) = (2, 4);
const TC_ACT_REDIRECT: (u8, u64) = (1, 7);

/// Writes a capture.
pub(super) struct Writer<W> {
    output: W,
    /// The command line, for the file's comment.
    command: String,
    /// Bytes that may still be written.
    room: u64,
    /// When the section began and its newest packet came, in nanoseconds since 1970.
    started: u64,
    newest: u64,
    /// Packets lost so far, of which the file does not know yet.
    lost: u64,
    lost_seen: u64,
    captured: [u64; 2],
    /// How each packet that a worker received was steered to it.
    steered: (u8, u64),
    begun: bool,
}

impl<W: Write> Writer<W> {
    /// At most `max_size` bytes, but for the statistics at the end.
    pub(super) const fn new(output: W, command: String, max_size: u64) -> Self {
        Self {
            output,
            command,
            room: max_size,
            started: 0,
            newest: 0,
            lost: 0,
            lost_seen: 0,
            captured: [0; 2],
            steered: XDP_REDIRECT,
            begun: false,
        }
    }

    /// Writes what belongs into the file. False if there is no room left.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub(super) fn event(&mut self, event: &CaptureEvent) -> io::Result<bool> {
        match event {
            CaptureEvent::Start(start) => self.start(start),
            CaptureEvent::Packet(packet) => self.packet(packet),
            CaptureEvent::Progress { counts, .. } | CaptureEvent::End { counts, .. } => {
                self.lost += counts.lost_total - self.lost_seen;
                self.lost_seen = counts.lost_total;
                // What was read is there at once.
                self.output.flush()?;
                Ok(true)
            }
        }
    }

    fn start(&mut self, start: &CaptureStart) -> io::Result<bool> {
        let version = format!("vl3-lb {} ({})", start.version, start.revision);
        let generation = start.generation.map_or_else(|| "-".to_owned(), |g| g.to_string());
        let comment = format!(
            "{}\ninstance={} generation={generation} interface={}",
            self.command, start.instance, start.interface
        );
        let mut header = Block::new(SECTION_HEADER);
        header.u32(0x1a2b_3c4d).u16(1).u16(0).u64(u64::MAX);
        header
            .text(COMMENT, &comment)
            .text(3, std::env::consts::OS)
            .text(4, &version);
        let mut blocks = vec![header];
        let link = if start.link == "raw-ip" {
            LINK_RAW_IP
        } else {
            LINK_ETHERNET
        };
        let snap_length = u32::try_from(start.snap_length).unwrap_or(u32::MAX);
        for (suffix, description) in [("rx", "before translation"), ("tx", "after translation")] {
            let mut interface = Block::new(INTERFACE);
            interface.u16(link).u16(0).u32(snap_length);
            interface.text(2, &format!("{}/{suffix}", start.interface));
            interface.text(3, description);
            // Nanoseconds.
            interface.option(9, &[9]);
            if !start.filter.is_empty() {
                // A text (0), though not in libpcap's syntax.
                interface.option(11, &[&[0], start.filter.as_bytes()].concat());
            }
            blocks.push(interface);
        }
        blocks.push(names(&start.names));
        self.started = start
            .time
            .0
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.newest = self.started;
        if start.attach == AttachMode::Companion.name() {
            self.steered = TC_ACT_REDIRECT;
        }
        self.begun = true;
        self.write(&blocks)
    }

    fn packet(&mut self, packet: &CapturedPacket) -> io::Result<bool> {
        let time = packet.time.unix_nanos();
        let comment = comment(packet);
        let mut blocks = Vec::new();
        // Only what a worker received was steered; what it sends goes past the program. Under overload the program drops packets
        // itself, and a capture does not say who did.
        let is_shed = packet.reason.as_deref() == Some(DropReason::Overload.name());
        let steered = (!is_shed).then_some(self.steered);
        let images = [
            (0, &packet.received, INBOUND, steered),
            (1, &packet.sent, OUTBOUND, None),
        ];
        for (interface, image, direction, steered) in images {
            let Some(image) = image else { continue };
            // Those that were lost before this one.
            let lost = std::mem::take(&mut self.lost);
            let mut block = enhanced_packet(packet, image, (interface, direction), time, lost, &comment);
            if let Some((kind, returned)) = steered {
                block.option(VERDICT, &[&[kind][..], &returned.to_ne_bytes()].concat());
            }
            blocks.push(block);
        }
        let has_room = self.write(&blocks)?;
        if has_room {
            self.newest = self.newest.max(time);
            self.captured[0] += u64::from(packet.received.is_some());
            self.captured[1] += u64::from(packet.sent.is_some());
        }
        Ok(has_room)
    }

    /// The statistics, with which the file is complete.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub(super) fn finish(mut self, counts: &CaptureCounts) -> io::Result<()> {
        if self.begun {
            for (interface, packets) in [(0, counts.received_total), (1, counts.transmitted_total)] {
                let mut statistics = Block::new(INTERFACE_STATISTICS);
                statistics.u32(interface).time(self.newest);
                statistics
                    .option(2, &halves(self.started))
                    .option(3, &halves(self.newest));
                let captured = self.captured[interface as usize];
                for (code, count) in [
                    (4, packets),
                    (6, counts.matched_total.max(captured)),
                    (7, counts.lost_total),
                    (8, captured),
                ] {
                    statistics.option(code, &u64::to_ne_bytes(count));
                }
                self.output.write_all(&statistics.end())?;
            }
        }
        self.output.flush()
    }

    /// Writes all blocks, or none if there is no room for all of them.
    fn write(&mut self, blocks: &[Block]) -> io::Result<bool> {
        let bytes = blocks.iter().map(Block::end).collect::<Vec<_>>().concat();
        let length = bytes.len() as u64;
        if length > self.room {
            self.room = 0;
            return Ok(false);
        }
        self.room -= length;
        self.output.write_all(&bytes)?;
        Ok(true)
    }
}

/// What was decided, in words that a display filter finds: `frame.comment contains "reason=no_backend"`.
fn comment(packet: &CapturedPacket) -> String {
    let details = [
        ("verdict", Some(packet.verdict.clone())),
        ("reason", packet.reason.clone()),
        ("direction", packet.direction.clone()),
        ("service", packet.service.clone()),
        ("client", packet.client.map(|client| client.to_string())),
        ("backend", packet.backend.map(|backend| backend.to_string())),
        ("worker", Some(packet.worker.to_string())),
        ("generation", Some(packet.generation.to_string())),
    ];
    let known = details
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    known.collect::<Vec<_>>().join(" ")
}

fn enhanced_packet(
    packet: &CapturedPacket,
    image: &PacketImage,
    (interface, direction): (u32, u32),
    time: u64,
    lost: u64,
    comment: &str,
) -> Block {
    let mut block = Block::new(ENHANCED_PACKET);
    let captured = u32::try_from(image.data.0.len()).unwrap_or(u32::MAX);
    let length = u32::try_from(image.length).unwrap_or(u32::MAX);
    block
        .u32(interface)
        .time(time)
        .u32(captured)
        .u32(length)
        .padded(&image.data.0);
    block.text(COMMENT, comment);
    block.option(2, &direction.to_ne_bytes());
    block.option(4, &lost.to_ne_bytes());
    block.option(5, &packet.id.to_ne_bytes());
    block.option(6, &u32::from(packet.worker).to_ne_bytes());
    block
}

fn names(names: &[AddressNames]) -> Block {
    let mut block = Block::new(NAME_RESOLUTION);
    for AddressNames { address, names } in names {
        let (kind, mut value) = match address {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (2, address.octets().to_vec()),
        };
        for name in names {
            value.extend(name.bytes().filter(|&byte| byte != 0));
            value.push(0);
        }
        block.option(kind, &value);
    }
    block.u16(0).u16(0);
    block
}

/// A time as two halves, the upper one first.
fn halves(nanos: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    let (upper, lower) = bytes.split_at_mut(4);
    upper.copy_from_slice(&high(nanos).to_ne_bytes());
    lower.copy_from_slice(&low(nanos).to_ne_bytes());
    bytes
}

const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the half is meant")]
const fn low(word: u64) -> u32 {
    word as u32
}

/// A block that is being written, in the byte order of this machine, which its section header shows.
struct Block {
    kind: u32,
    body: Vec<u8>,
    has_options: bool,
}

impl Block {
    const fn new(kind: u32) -> Self {
        Self {
            kind,
            body: Vec::new(),
            has_options: false,
        }
    }

    fn u16(&mut self, number: u16) -> &mut Self {
        self.body.extend(number.to_ne_bytes());
        self
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.body.extend(number.to_ne_bytes());
        self
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.body.extend(number.to_ne_bytes());
        self
    }

    fn time(&mut self, nanos: u64) -> &mut Self {
        self.body.extend(halves(nanos));
        self
    }

    /// Bytes up to the next multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> &mut Self {
        self.body.extend(bytes);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    /// An option, or a record of names, which looks the same. Longer values are cut.
    fn option(&mut self, code: u16, value: &[u8]) -> &mut Self {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.has_options = self.kind != NAME_RESOLUTION;
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.u16(code).u16(length).padded(value)
    }

    fn text(&mut self, code: u16, text: &str) -> &mut Self {
        self.option(code, text.as_bytes())
    }

    fn end(&self) -> Vec<u8> {
        let end_of_options: &[u8] = if self.has_options { &[0; 4] } else { &[] };
        // Type, length, body, and the length again.
        let length = u32::try_from(12 + self.body.len() + end_of_options.len()).unwrap_or(u32::MAX);
        let parts = [
            &self.kind.to_ne_bytes(),
            &length.to_ne_bytes(),
            &self.body[..],
            end_of_options,
            &length.to_ne_bytes(),
        ];
        parts.concat()
    }
}
