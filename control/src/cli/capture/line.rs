//! A captured packet as a line.

use std::fmt::Write;

use crate::api::{CapturedPacket, PacketImage};
use crate::number::UNKNOWN;

/// `06:31:07.114377Z w1 in  TCP 172.16.1.55:51000 > 172.16.1.103:9000 [S] 60B  DROP no_backend service=ledger`
pub(super) fn line(packet: &CapturedPacket) -> String {
    let time = packet.time.to_string();
    // The date is that of the reader.
    let time = time.split_once('T').map_or(time.as_str(), |(_, time)| time);
    let direction = packet.direction.as_deref().unwrap_or(UNKNOWN);
    let mut line = format!("{time} w{} {direction:<3} ", packet.worker);
    let images = [&packet.received, &packet.sent].into_iter().flatten();
    let shown: Vec<String> = images.map(image).collect();
    line.push_str(&shown.join("  =>  "));
    match &packet.reason {
        Some(reason) => write!(line, "  {} {reason}", packet.verdict.to_uppercase()),
        None => write!(line, "  {}", packet.verdict),
    }
    .expect("a string takes all");
    let details = [
        ("service", packet.service.clone()),
        ("client", packet.client.map(|client| client.to_string())),
        ("backend", packet.backend.map(|backend| backend.to_string())),
    ];
    for (name, value) in details {
        if let Some(value) = value {
            write!(line, " {name}={value}").expect("a string takes all");
        }
    }
    line + "\n"
}

fn image(image: &PacketImage) -> String {
    let mut text = image.protocol.clone().unwrap_or_else(|| "?".to_owned());
    if let (Some(source), Some(destination)) = (&image.source, &image.destination) {
        text += &format!(" {source} > {destination}");
    }
    if let Some(flags) = &image.tcp_flags {
        text += &format!(" [{flags}]");
    }
    text + &format!(" {}B", image.length)
}

#[cfg(test)]
mod tests {
    use crate::api::{PacketData, PreciseTime};

    use super::*;

    fn image(source: &str, destination: &str) -> PacketImage {
        PacketImage {
            protocol: Some("TCP".to_owned()),
            source: Some(source.to_owned()),
            destination: Some(destination.to_owned()),
            tcp_flags: Some("S".to_owned()),
            length: 60,
            data: PacketData::default(),
        }
    }

    #[test]
    fn a_line_has_time_direction_packet_verdict_and_names() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_micros(23_467_114_377);
        let dropped = CapturedPacket {
            time: PreciseTime(time),
            id: 1,
            worker: 1,
            generation: 42,
            direction: Some("in".to_owned()),
            verdict: "drop".to_owned(),
            reason: Some("no_backend".to_owned()),
            service: Some("ledger".to_owned()),
            client: None,
            backend: None,
            nat_port: None,
            received: Some(image("172.16.1.55:51000", "172.16.1.103:9000")),
            sent: None,
        };
        assert_eq!(
            line(&dropped),
            "06:31:07.114377Z w1 in  TCP 172.16.1.55:51000 > 172.16.1.103:9000 [S] 60B  DROP no_backend \
             service=ledger\n"
        );
        let forwarded = CapturedPacket {
            verdict: "forward".to_owned(),
            reason: None,
            client: Some("172.16.1.55:51000".parse().unwrap()),
            backend: Some("172.16.1.2:9000".parse().unwrap()),
            sent: Some(image("172.16.1.103:31877", "172.16.1.2:9000")),
            ..dropped
        };
        assert_eq!(
            line(&forwarded),
            "06:31:07.114377Z w1 in  TCP 172.16.1.55:51000 > 172.16.1.103:9000 [S] 60B  =>  TCP 172.16.1.103:31877 > \
             172.16.1.2:9000 [S] 60B  forward service=ledger client=172.16.1.55:51000 backend=172.16.1.2:9000\n"
        );
    }
}
