use std::time::{Duration, UNIX_EPOCH};

use vl3lb_common::addr::Protocol;
use vl3lb_common::flow_query::FlowState;
use vl3lb_common::stats::CloseCause;

use super::ipfix::Packer;
use super::*;
use crate::api::{Flow, FlowTraffic, Time};

/// 2026-11-24T06:31:00.250Z.
fn time() -> Time {
    Time(UNIX_EPOCH + Duration::from_millis(1_795_501_860_250))
}

fn flow(number: u16, v6: bool) -> Flow {
    let address = |v4: &str, v6_text: &str| if v6 { v6_text } else { v4 }.parse().unwrap();
    Flow {
        protocol: Protocol::Tcp,
        client: address("172.16.1.100", "2001:db8::64"),
        client_port: 40_000 + number,
        service: Some("finance".to_owned()),
        service_address: address("172.16.1.103", "2001:db8::67"),
        service_port: 8080,
        nat_port: 20_000 + number,
        backend: address("172.16.1.2", "2001:db8::2"),
        backend_port: 8081,
        state: FlowState::Closing.name().to_owned(),
        age_seconds: 12.5,
        idle_seconds: 0.0,
        expires_seconds: 0.0,
        inbound: FlowTraffic {
            packets_total: 7,
            bytes_total: 700,
        },
        outbound: FlowTraffic {
            packets_total: 9,
            bytes_total: 9_000,
        },
        worker: 0,
        fast: false,
    }
}

fn close(number: u16, v6: bool, cause: CloseCause) -> FlowEvent {
    FlowEvent::Close {
        time: time(),
        cause: cause.name().to_owned(),
        flow: flow(number, v6),
    }
}

fn open(number: u16) -> FlowEvent {
    FlowEvent::Open {
        time: time(),
        flow: flow(number, false),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The sets of a message: identifier and content.
fn sets(message: &[u8]) -> Vec<(u16, &[u8])> {
    assert_eq!(u16_at(message, 0), 10, "the version of IPFIX");
    assert_eq!(usize::from(u16_at(message, 2)), message.len());
    let (mut rest, mut sets) = (&message[16..], Vec::new());
    while !rest.is_empty() {
        let (set, after) = rest.split_at(u16_at(rest, 2).into());
        sets.push((u16_at(set, 0), &set[4..]));
        rest = after;
    }
    sets
}

/// The elements of each template: identifier with the enterprise bit, and length.
fn templates(mut set: &[u8]) -> Vec<(u16, Vec<(u16, u16)>)> {
    let mut templates = Vec::new();
    while !set.is_empty() {
        let (id, count) = (u16_at(set, 0), u16_at(set, 2));
        set = &set[4..];
        let mut elements = Vec::new();
        for _ in 0..count {
            let element = (u16_at(set, 0), u16_at(set, 2));
            set = &set[4..];
            if element.0 & 1 << 15 != 0 {
                assert_eq!(u32_at(set, 0), 29_305, "reverse elements");
                set = &set[4..];
            }
            elements.push(element);
        }
        templates.push((id, elements));
    }
    templates
}

/// Reads one record by its template; the values by element.
fn record<'a>(elements: &[(u16, u16)], bytes: &mut &'a [u8]) -> Vec<(u16, &'a [u8])> {
    elements
        .iter()
        .map(|&(id, length)| {
            let length = if length == u16::MAX {
                let length = bytes[0];
                *bytes = &bytes[1..];
                length.into()
            } else {
                usize::from(length)
            };
            let (value, rest) = bytes.split_at(length);
            *bytes = rest;
            (id, value)
        })
        .collect()
}

#[test]
fn a_closed_flow_is_a_record_of_its_template() {
    let events = [
        close(1, false, CloseCause::Fin),
        close(2, true, CloseCause::Idle),
        open(3),
    ];
    let messages = Packer::new(7).pack(events.iter(), time(), true);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].records, 3);
    let bytes = &messages[0].bytes;
    assert_eq!(u32_at(bytes, 4), 1_795_501_860, "export time");
    assert_eq!([u32_at(bytes, 8), u32_at(bytes, 12)], [0, 7], "sequence, domain");
    let sets = sets(bytes);
    assert_eq!(sets[0].0, 2);
    let templates = templates(sets[0].1);
    let values = |at: usize| {
        let (set, mut content) = sets[at];
        let (_, elements) = templates.iter().find(|(id, _)| *id == set).unwrap();
        let values = record(elements, &mut content);
        assert!(content.is_empty(), "{content:?}");
        values
    };
    let value = |values: &[(u16, &[u8])], id: u16| {
        let found = values.iter().find(|(other, _)| *other == id);
        found.unwrap_or_else(|| panic!("element {id}")).1.to_vec()
    };
    let closed = values(1);
    for (id, wanted) in [
        (4, vec![6]),
        (8, vec![172, 16, 1, 100]),
        (7, 40_001_u16.to_be_bytes().to_vec()),
        (12, vec![172, 16, 1, 103]),
        (11, 8080_u16.to_be_bytes().to_vec()),
        (225, vec![172, 16, 1, 103]),
        (227, 20_001_u16.to_be_bytes().to_vec()),
        (226, vec![172, 16, 1, 2]),
        (228, 8081_u16.to_be_bytes().to_vec()),
        (230, vec![5]),
        (96, b"finance".to_vec()),
        (323, 1_795_501_860_250_u64.to_be_bytes().to_vec()),
        (152, 1_795_501_847_750_u64.to_be_bytes().to_vec()),
        (153, 1_795_501_860_250_u64.to_be_bytes().to_vec()),
        (1, 700_u64.to_be_bytes().to_vec()),
        (2, 7_u64.to_be_bytes().to_vec()),
        (1 | 1 << 15, 9_000_u64.to_be_bytes().to_vec()),
        (2 | 1 << 15, 9_u64.to_be_bytes().to_vec()),
        (136, vec![3]),
    ] {
        assert_eq!(value(&closed, id), wanted, "element {id}");
    }
    let v6 = values(2);
    let client: std::net::Ipv6Addr = "2001:db8::64".parse().unwrap();
    assert_eq!(value(&v6, 27), client.octets());
    assert_eq!(value(&v6, 136), [1], "idle timeout");
    assert!(
        v6.iter().all(|(id, _)| *id != 230),
        "RFC 8158 has no event for it"
    );
    let opened = values(3);
    assert_eq!(value(&opened, 230), [4]);
    assert!(opened.iter().all(|(id, _)| *id != 136));
}

#[test]
fn each_cause_has_its_end_reason() {
    for cause in CloseCause::ALL {
        let messages = Packer::new(0).pack([close(1, false, cause)].iter(), time(), false);
        let last = *messages[0].bytes.last().unwrap();
        let wanted = match cause {
            CloseCause::Idle => 1,
            CloseCause::Fin | CloseCause::Rst => 3,
            CloseCause::Reclaimed | CloseCause::Evicted => 5,
            _ => 4,
        };
        assert_eq!(last, wanted, "{cause:?}");
    }
}

#[test]
fn messages_fit_any_path_and_count_their_records() {
    let mut packer = Packer::new(0);
    let mut expected = 0;
    for (count, templates) in [(1_u16, true), (100, true), (100, false), (0, false), (3, false)] {
        let events: Vec<_> = (0..count)
            .map(|number| {
                let mut event = close(number, number % 3 == 0, CloseCause::Fin);
                if let FlowEvent::Close { flow, .. } = &mut event
                    && number % 5 == 0
                {
                    flow.service = Some("ü".repeat(200));
                }
                event
            })
            .collect();
        let messages = packer.pack(events.iter(), time(), templates);
        for (number, message) in messages.iter().enumerate() {
            assert!(message.bytes.len() <= 1232, "{} bytes", message.bytes.len());
            assert_eq!(u32_at(&message.bytes, 8), expected);
            expected += u32::try_from(message.records).unwrap();
            let has_templates = sets(&message.bytes)[0].0 == 2;
            assert_eq!(has_templates, templates && number == 0);
        }
        let records: u64 = messages.iter().map(|message| message.records).sum();
        assert_eq!(records, u64::from(count));
    }
}

#[test]
fn opened_flows_are_sampled_and_closed_ones_are_not() {
    for (every, taken) in [(0, 0), (1, 12), (5, 2)] {
        let mut sampler = Sampler::new(every);
        let opened = (0..12).filter(|&number| sampler.takes(&open(number))).count();
        assert_eq!(opened, taken, "one of {every}");
        assert!(sampler.takes(&close(1, false, CloseCause::Fin)));
    }
}

#[tokio::test]
async fn what_is_logged_and_what_is_lost_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.jsonl");
    let collector = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = config_with(&format!(
        "{{file: {}, collector: {}}}",
        path.display(),
        collector.local_addr().unwrap()
    ));
    config.sample_opened = 1;
    let live = crate::observe::report::fixture::live(1);
    let stats = Arc::new(FlowLogStats::new(&config));
    let mut log = FlowLog::start(&config, live.reporter.flow_events(), Arc::clone(&stats))
        .await
        .unwrap();
    let events = || vec![Arc::new(open(1)), Arc::new(close(1, false, CloseCause::Fin))];
    log.export(&events()).await;
    assert!(log.write(events()).await);
    let mut datagram = [0; 2048];
    let length = collector.recv(&mut datagram).await.unwrap();
    assert_eq!(sets(&datagram[..length]).len(), 3);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<FlowEvent> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, [open(1), close(1, false, CloseCause::Fin)]);
    let report = stats.report();
    assert_eq!(
        (report.written_total, report.sent_total, report.lost_total()),
        (2, 2, 0)
    );

    // Nobody listens: the kernel says so with the message after the refused one.
    drop(collector);
    while stats.report().lost_total() == 0 {
        log.export(&events()).await;
        tokio::task::yield_now().await;
    }
    let lost = |reason: &str| {
        let report = stats.report();
        let loss = report.lost.iter().find(|loss| loss.reason == reason);
        loss.unwrap().flows_total
    };
    assert_eq!((lost("collector"), lost("file")), (2, 0));

    // The file is full, and its folder is gone.
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let target = config::FlowLogFile::Path(inner.join("flows.jsonl"));
    log.file = Some(LineFile::open(target, 10, 1).unwrap());
    assert!(log.write(events()).await);
    std::fs::remove_dir_all(&inner).unwrap();
    assert!(log.write(events()).await);
    assert_eq!((lost("file"), stats.report().written_total), (2, 4));
}

fn config_with(text: &str) -> config::FlowLog {
    let text = format!("flowLog: {text}");
    let loaded = config::Config::parse(Some(&text), "test", &|_| None, &(32_768..=60_999));
    loaded.unwrap().config.flow_log.unwrap()
}
