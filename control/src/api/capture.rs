//! Captured packets.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Time;

/// A line of a capture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum CaptureEvent {
    /// The first line.
    Start(CaptureStart),
    Packet(Box<CapturedPacket>),
    /// Once a second.
    Progress {
        time: Time,
        #[serde(flatten)]
        counts: CaptureCounts,
    },
    /// The last line, if the reader did not end the capture.
    End {
        time: Time,
        #[serde(flatten)]
        counts: CaptureCounts,
    },
}

/// What is captured, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaptureStart {
    pub time: Time,
    pub version: String,
    pub revision: String,
    /// The host or pod name.
    pub instance: String,
    pub generation: Option<u64>,
    pub interface: String,
    /// `ethernet` or `raw-ip`.
    pub link: String,
    /// How the steer program is attached: `native`, `generic` or `companion`.
    pub attach: String,
    pub snap_length: u64,
    /// The filters, as in the request.
    pub filter: String,
    /// Names for addresses: those of services for the balancer's, and of pods or services for backends.
    pub names: Vec<AddressNames>,
}

/// An address and its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressNames {
    pub address: IpAddr,
    pub names: Vec<String>,
}

/// What a capture has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaptureCounts {
    /// Packets that the workers received and transmitted meanwhile.
    pub received_total: u64,
    pub transmitted_total: u64,
    /// Packets that the filters accepted: captured ones, lost ones, and those beyond the requested number.
    pub matched_total: u64,
    pub captured_total: u64,
    /// Packets that the filters accepted and for which there was no room.
    pub lost_total: u64,
}

/// A packet before and after its translation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CapturedPacket {
    pub time: PreciseTime,
    /// The number of the packet in this capture, from 1 on.
    pub id: u64,
    pub worker: u16,
    /// Of the snapshot in use.
    pub generation: u64,
    /// `in`: from the client; `out`: from the backend.
    pub direction: Option<String>,
    /// `forward`, `segment`, `fragment`, `insert`, `reject` or `drop`.
    pub verdict: String,
    /// Name of a [`vl3lb_common::DropReason`]; `None` if it was forwarded.
    pub reason: Option<String>,
    pub service: Option<String>,
    pub client: Option<SocketAddr>,
    pub backend: Option<SocketAddr>,
    pub nat_port: Option<u16>,
    /// As it came in; `None` if it was dropped on its way out, or is not wanted.
    pub received: Option<PacketImage>,
    /// As it left, or the rejection; `None` if there is neither, or it is not wanted.
    pub sent: Option<PacketImage>,
}

/// The begin of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketImage {
    /// `TCP`, `UDP`, `ICMP`, `ICMPv6` or the number; `None` of what is no IP packet.
    pub protocol: Option<String>,
    /// With ports, unless it is a later fragment or an ICMP message.
    pub source: Option<String>,
    pub destination: Option<String>,
    /// As tcpdump writes them: `S.` of a SYN-ACK.
    pub tcp_flags: Option<String>,
    /// Length of the whole packet, link header included.
    pub length: u64,
    /// The captured bytes, from the link header on.
    pub data: PacketData,
}

/// Bytes, in base64.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PacketData(pub Vec<u8>);

impl Serialize for PacketData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for PacketData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A point in time, written as RFC 3339 in UTC with microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PreciseTime(pub SystemTime);

impl PreciseTime {
    /// Nanoseconds since 1970.
    pub fn unix_nanos(self) -> u64 {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for PreciseTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_micros(self.0.max(UNIX_EPOCH)).fmt(f)
    }
}

impl Serialize for PreciseTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PreciseTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}
