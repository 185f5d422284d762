use std::time::UNIX_EPOCH;

use crate::api::{PacketData, PreciseTime, Time};

use super::*;

fn start() -> CaptureStart {
    CaptureStart {
        time: Time(UNIX_EPOCH),
        version: "1.4.0".to_owned(),
        revision: "3f2c1a9".to_owned(),
        instance: "lb".to_owned(),
        generation: Some(42),
        interface: "nsm-1".to_owned(),
        link: "raw-ip".to_owned(),
        attach: "generic".to_owned(),
        snap_length: 128,
        filter: "service=finance".to_owned(),
        names: vec![AddressNames {
            address: "172.16.1.103".parse().unwrap(),
            names: vec!["finance".to_owned(), "dns".to_owned()],
        }],
    }
}

fn packet(id: u64) -> CapturedPacket {
    let image = PacketImage {
        protocol: None,
        source: None,
        destination: None,
        tcp_flags: None,
        length: 1_000,
        data: PacketData(vec![0x45; 21]),
    };
    CapturedPacket {
        time: PreciseTime(UNIX_EPOCH),
        id,
        worker: 1,
        generation: 42,
        direction: Some("in".to_owned()),
        verdict: "forward".to_owned(),
        reason: None,
        service: Some("finance".to_owned()),
        client: None,
        backend: None,
        nat_port: None,
        received: Some(image.clone()),
        sent: Some(image),
    }
}

/// The types of all blocks, whose lengths must agree.
fn blocks(file: &[u8]) -> Vec<u32> {
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    let (mut at, mut kinds) = (0, Vec::new());
    while at < file.len() {
        let length = word(at + 4) as usize;
        assert_eq!(length % 4, 0);
        assert_eq!(word(at + length - 4) as usize, length);
        kinds.push(word(at));
        at += length;
    }
    kinds
}

#[test]
fn a_file_has_its_blocks_in_order() {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, "vl3-lb capture".to_owned(), 1 << 20);
    assert!(writer.event(&CaptureEvent::Start(start())).unwrap());
    assert!(writer.event(&CaptureEvent::Packet(Box::new(packet(1)))).unwrap());
    writer.finish(&CaptureCounts::default()).unwrap();
    assert_eq!(
        blocks(&file),
        [
            SECTION_HEADER,
            INTERFACE,
            INTERFACE,
            NAME_RESOLUTION,
            ENHANCED_PACKET,
            ENHANCED_PACKET,
            INTERFACE_STATISTICS,
            INTERFACE_STATISTICS
        ]
    );
    let text = String::from_utf8_lossy(&file);
    for part in [
        "verdict=forward direction=in service=finance worker=1 generation=42",
        "nsm-1/rx",
        "after translation",
        "finance\0dns\0",
        "vl3-lb 1.4.0 (3f2c1a9)",
    ] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn only_packets_before_translation_have_the_steer_programs_verdict() {
    for (mode, reason, kind, returned, count) in [
        (AttachMode::Native, None, 2, 4_u64, 1),
        (AttachMode::Generic, None, 2, 4, 1),
        (AttachMode::Companion, None, 1, 7, 1),
        (AttachMode::Native, Some(DropReason::NoBackend), 2, 4, 1),
        // The program may have dropped it.
        (AttachMode::Native, Some(DropReason::Overload), 2, 4, 0),
    ] {
        let attach = mode.name();
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, String::new(), 1 << 20);
        let start = CaptureStart {
            attach: attach.to_owned(),
            ..start()
        };
        writer.event(&CaptureEvent::Start(start)).unwrap();
        let packet = CapturedPacket {
            reason: reason.map(|reason| reason.name().to_owned()),
            ..packet(1)
        };
        writer.event(&CaptureEvent::Packet(Box::new(packet))).unwrap();
        writer.finish(&CaptureCounts::default()).unwrap();
        // Code, length of kind and result, kind, result.
        let mut option = [VERDICT.to_ne_bytes(), 9_u16.to_ne_bytes()].concat();
        option.push(kind);
        option.extend(returned.to_ne_bytes());
        let found = file.windows(option.len()).filter(|bytes| *bytes == option);
        assert_eq!(found.count(), count, "{attach} {reason:?}");
    }
}

#[test]
fn a_full_file_ends_with_whole_blocks() {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, String::new(), 2_000);
    assert!(writer.event(&CaptureEvent::Start(start())).unwrap());
    let written = (1..).take_while(|&id| {
        let event = CaptureEvent::Packet(Box::new(packet(id)));
        writer.event(&event).unwrap()
    });
    let packets = written.count();
    writer.finish(&CaptureCounts::default()).unwrap();
    let kinds = blocks(&file);
    assert_eq!(
        kinds.iter().filter(|&&kind| kind == ENHANCED_PACKET).count(),
        2 * packets
    );
    assert!(
        packets > 1 && file.len() < 2_000 + 300,
        "{packets} {}",
        file.len()
    );
}
