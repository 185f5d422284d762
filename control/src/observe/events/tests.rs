use std::time::{Duration, UNIX_EPOCH};

use vl3lb_common::DropReason;

use super::ring::CAPACITY;
use super::*;
use crate::observe::report::sample;
use crate::state;

fn at(seconds: u64) -> Time {
    Time(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn happening(number: usize) -> Happening {
    Happening::new(EventCode::ConfigRead, number.to_string())
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

#[test]
fn a_code_has_one_name_everywhere() {
    for code in EventCode::ALL {
        assert_eq!(serde_json::json!(code), code.name());
    }
}

#[test]
fn the_newest_are_kept_and_numbered_without_a_gap() {
    let events = Events::default();
    events.keep(at(1), (0..CAPACITY + 10).map(happening));
    let kept = events.kept();
    assert_eq!(kept.len(), CAPACITY);
    let all = CAPACITY as u64 + 10;
    assert_eq!(numbers(&kept), (11..=all).collect::<Vec<_>>());
    assert_eq!(kept[0].text, "10");
    assert_eq!(events.total(), all);
    assert_eq!(events.lost(), 0, "nobody followed");
}

#[tokio::test]
async fn a_follower_gets_every_event_once() {
    let events: Arc<Events> = Arc::default();
    events.keep(at(1), (0..3).map(happening));
    let mut follower = events.follow();
    assert_eq!(numbers(&follower.next().await.events), [1, 2, 3]);
    let waiting = tokio::spawn(async move {
        let batch = follower.next().await;
        (batch, follower)
    });
    tokio::task::yield_now().await;
    events.keep(at(2), [happening(3)]);
    let (batch, mut follower) = waiting.await.unwrap();
    assert_eq!((batch.lost, numbers(&batch.events)), (0, vec![4]));
    events.keep(at(3), (4..6).map(happening));
    assert_eq!(numbers(&follower.next().await.events), [5, 6]);
}

#[tokio::test]
async fn what_a_slow_follower_missed_is_counted_and_told() {
    let events: Arc<Events> = Arc::default();
    events.keep(at(1), (0..2).map(happening));
    let mut follower = events.follow();
    assert_eq!(follower.next().await.loss(at(1)), None);
    events.keep(at(2), (0..CAPACITY + 7).map(happening));
    let batch = follower.next().await;
    assert_eq!((batch.lost, batch.events.len()), (7, CAPACITY));
    let loss = batch.loss(at(2)).unwrap();
    assert_eq!(loss.code, EventCode::EventsLost);
    assert!(loss.text.starts_with("7 events were missed"), "{}", loss.text);
    assert_eq!(loss.sequence + 1, batch.events[0].sequence);
    assert_eq!(events.lost(), 7);
}

#[tokio::test]
async fn a_late_follower_has_missed_nothing_by_coming_late() {
    let events: Arc<Events> = Arc::default();
    events.keep(at(1), (0..CAPACITY + 7).map(happening));
    let batch = events.follow().next().await;
    assert_eq!((batch.lost, batch.events.len()), (0, CAPACITY));
}

#[test]
fn a_backend_that_fails_is_a_warning_and_a_service_without_any_an_error() {
    let backend = |to| {
        Happening::from(&state::Event::Backend {
            service: "ledger".to_owned(),
            backend: "172.16.1.9:9000".parse().unwrap(),
            from: "up",
            to,
            reason: "tcp connect refused (2 of 2)".into(),
        })
    };
    let down = backend("down");
    assert_eq!(
        down.text,
        "backend ledger/172.16.1.9:9000 up -> down: tcp connect refused (2 of 2)"
    );
    assert_eq!(down.severity, Severity::Warn);
    assert_eq!(
        (down.from.as_deref(), down.to.as_deref()),
        (Some("up"), Some("down"))
    );
    assert_eq!(backend("draining").severity, Severity::Info);
    let severities: Vec<_> = sample::happenings()
        .into_iter()
        .filter(|happening| happening.code == EventCode::ServiceState)
        .map(|happening| (happening.severity, happening.text))
        .collect();
    assert_eq!(
        severities,
        [
            (
                Severity::Error,
                "service ledger ok -> down: no backend up (0 of 2); new flows are refused".to_owned()
            ),
            (
                Severity::Info,
                "service ledger down -> ok: 2 of 2 backends up".to_owned()
            ),
        ]
    );
}

#[test]
fn a_limit_is_told_when_it_is_reached_and_when_there_is_room_again() {
    let mut capacity = Capacity::default();
    let mut report = sample::report();
    // One backend's ports are nearly all in use: another limit.
    report.status.warnings.clear();
    let mut told = |report: &mut crate::api::Report, seconds, rate| {
        report.time = at(seconds);
        let finance = report
            .services
            .iter_mut()
            .find(|service| service.name == "finance");
        let drops = &mut finance.unwrap().drops;
        drops[DropReason::NatPortsExhausted.index()].packets_per_second = Some(rate);
        let happenings = capacity.follow(report).into_iter();
        happenings
            .map(|happening| (happening.code, happening.service))
            .collect::<Vec<_>>()
    };
    let finance = || Some("finance".to_owned());
    assert_eq!(told(&mut report, 0, 0.0), []);
    assert_eq!(told(&mut report, 1, 3.0), [(EventCode::CapacityShort, finance())]);
    assert_eq!(told(&mut report, 2, 5.0), [], "once");
    assert_eq!(told(&mut report, 3, 0.0), [], "it may come again");
    assert_eq!(told(&mut report, 4, 1.0), []);
    assert_eq!(told(&mut report, 13, 0.0), []);
    assert_eq!(told(&mut report, 14, 0.0), [(EventCode::CapacityBack, finance())]);
    assert_eq!(told(&mut report, 15, 0.0), []);
}

#[test]
fn a_table_that_fills_is_told_with_its_name() {
    let mut capacity = Capacity::default();
    let mut report = sample::report();
    report.status.warnings = vec![crate::api::Warning {
        severity: Severity::Warn,
        code: "flow_table_filling".to_owned(),
        subject: Some("1".to_owned()),
        since: None,
        text: "flow table of worker 1 is 85% full".to_owned(),
        next: None,
    }];
    let texts = |happenings: Vec<Happening>| -> Vec<String> {
        happenings.into_iter().map(|happening| happening.text).collect()
    };
    assert_eq!(
        texts(capacity.follow(&report)),
        ["flow table of worker 1 is 85% full"]
    );
    report.status.warnings.clear();
    report.time = Time(report.time.0 + Duration::from_secs(10));
    assert_eq!(
        texts(capacity.follow(&report)),
        ["flow table of worker 1: there is room again"]
    );
}
