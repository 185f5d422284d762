use tokio::time::timeout;
use vl3lb_common::capture::CaptureVerdict;
use vl3lb_common::{DropReason, Timestamp};

use super::pace::{LONGEST, SHORTEST};
use super::*;
use crate::api::{CaptureCounts, CapturedPacket};
use crate::observe::report::fixture::{self, Live, at};

fn request(terms: &[(&str, &str)]) -> CaptureRequest {
    let mut filter = PacketFilter::default();
    for (name, value) in terms {
        assert!(filter.add(name, value).unwrap());
    }
    CaptureRequest {
        filter,
        sample: 1,
        snap_length: 64,
        payload: false,
        point: CapturePoint::Both,
        count: None,
        duration: Duration::from_secs(60),
    }
}

/// A reporter whose captures run.
fn live(workers: u16) -> Live {
    let live = fixture::live(workers);
    tokio::spawn(Arc::clone(live.reporter.captures()).run());
    live
}

/// As a worker does it: a packet for the captures with these bits.
fn push(feed: &CaptureFeed, captures: u8, time: Timestamp, service: Option<ServiceSlot>) {
    push_by(feed, captures, time, service, u64::MAX);
}

/// The same by the settings with this number.
fn push_by(feed: &CaptureFeed, captures: u8, time: Timestamp, service: Option<ServiceSlot>, settings: u64) {
    let packet = feed.take().map(|mut packet| {
        packet.captures = captures;
        packet.settings = settings;
        packet.at = time;
        packet.verdict = CaptureVerdict::Drop;
        packet.reason = Some(DropReason::NotSyn);
        packet.service = service;
        packet.received.bytes.extend([7; 60]);
        (packet.received.length, packet.received.headers) = (1_000, 54);
        packet
    });
    feed.push(captures, packet);
}

async fn next(events: &mut mpsc::Receiver<CaptureEvent>) -> CaptureEvent {
    let event = timeout(Duration::from_secs(120), events.recv()).await;
    event.expect("an event in time").expect("an event")
}

async fn next_packet(events: &mut mpsc::Receiver<CaptureEvent>) -> CapturedPacket {
    loop {
        match next(events).await {
            CaptureEvent::Packet(packet) => return *packet,
            CaptureEvent::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn end(events: &mut mpsc::Receiver<CaptureEvent>) -> CaptureCounts {
    loop {
        if let CaptureEvent::End { counts, .. } = next(events).await {
            assert!(events.recv().await.is_none(), "nothing follows");
            return counts;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn packets_of_all_workers_come_in_their_order_with_names() {
    let live = live(2);
    let feeds = &live.recorder.capture_feeds;
    let mut events = live.reporter.captures().start(request(&[])).unwrap();
    let slots = live.reporter.service_names();
    let (&slot, _) = slots.iter().find(|(_, name)| *name == "finance").unwrap();
    push(&feeds[0], 1, at(3_599), Some(slot));
    push(&feeds[1], 1, at(3_598), None);
    let first = next_packet(&mut events).await;
    assert_eq!((first.id, first.worker, first.service), (1, 1, None));
    let second = next_packet(&mut events).await;
    assert_eq!((second.id, second.worker), (2, 0));
    assert_eq!(second.service.as_deref(), Some("finance"));
    assert_eq!(
        (second.verdict.as_str(), second.reason.as_deref()),
        ("drop", Some("not_syn"))
    );
    let image = second.received.unwrap();
    assert_eq!((image.length, image.data.0.len()), (1_000, 54), "headers only");
    assert!(second.sent.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_capture_ends_after_a_number_of_packets() {
    let live = live(1);
    let feed = &live.recorder.capture_feeds[0];
    let mut events = live
        .reporter
        .captures()
        .start(CaptureRequest {
            count: Some(2),
            ..request(&[])
        })
        .unwrap();
    for _ in 0..5 {
        push(feed, 1, at(3_600), None);
    }
    for _ in 0..2 {
        next_packet(&mut events).await;
    }
    let counts = end(&mut events).await;
    assert_eq!(
        (counts.captured_total, counts.matched_total, counts.lost_total),
        (2, 5, 0)
    );
    // The workers see it.
    let mut version = 0;
    assert!(!feed.changed(&mut version).unwrap().is_active());
    assert_eq!(live.reporter.captures().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_capture_ends_in_time_or_with_its_reader() {
    let live = live(1);
    let captures = live.reporter.captures();
    let mut events = captures.start(request(&[])).unwrap();
    let reader = captures.start(request(&[])).unwrap();
    assert_eq!(captures.count(), 2);
    drop(reader);
    assert_eq!(end(&mut events).await, CaptureCounts::default());
    assert_eq!(captures.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_an_ended_capture_left_is_not_for_the_next_one_in_its_place() {
    let live = live(1);
    let feed = &live.recorder.capture_feeds[0];
    let captures = live.reporter.captures();
    let mut version = 0;
    for _ in 0..MAX_CAPTURES {
        drop(captures.start(request(&[])).unwrap());
        while captures.count() > 0 {
            sleep(SHORTEST).await;
        }
    }
    let former = feed.changed(&mut version).unwrap();
    assert!(!former.is_active());
    let mut events = captures.start(request(&[])).unwrap();
    let services = live.reporter.service_names();
    let finance = services
        .iter()
        .find(|(_, name)| *name == "finance")
        .map(|(slot, _)| *slot);
    // By a worker that has not seen the new settings.
    push_by(feed, 1, at(3_599), None, former.number);
    let settings = feed.changed(&mut version).unwrap();
    assert!(settings.captures[0].is_some());
    push_by(feed, 1, at(3_599), finance, settings.number);
    let packet = next_packet(&mut events).await;
    assert_eq!((packet.id, packet.service.as_deref()), (1, Some("finance")));
}

#[tokio::test(start_paused = true)]
async fn captures_have_their_own_filters_and_a_limit() {
    let live = live(1);
    let feed = &live.recorder.capture_feeds[0];
    let captures = live.reporter.captures();
    let mut readers: Vec<_> = (0..MAX_CAPTURES)
        .map(|_| {
            captures
                .start(request(&[("drops", "any"), ("service", "fin*")]))
                .unwrap()
        })
        .collect();
    assert!(captures.start(request(&[])).is_none());
    let mut version = 0;
    let settings = feed.changed(&mut version).unwrap();
    assert!(
        settings
            .captures
            .iter()
            .flatten()
            .all(|capture| capture.filter.drops.is_some())
    );
    push(feed, 0b1010, at(3_600), None);
    for place in [1, 3] {
        assert_eq!(next_packet(&mut readers[place]).await.id, 1);
    }
    readers.pop();
    while captures.count() == MAX_CAPTURES as u64 {
        sleep(SHORTEST).await;
    }
    assert!(captures.start(request(&[])).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_workers_and_a_slow_reader_lose_is_counted() {
    let live = live(1);
    let feed = &live.recorder.capture_feeds[0];
    let captures = live.reporter.captures();
    let mut events = captures.start(request(&[])).unwrap();
    for _ in 0..CAPTURE_BUFFERS + 3 {
        push(feed, 1, at(3_600), None);
    }
    assert_eq!(captures.lost(), 3);
    for _ in 0..CAPTURE_BUFFERS {
        next_packet(&mut events).await;
    }
    let CaptureEvent::Progress { counts, .. } = next(&mut events).await else {
        panic!("counts follow")
    };
    assert_eq!(
        (counts.captured_total, counts.lost_total),
        (CAPTURE_BUFFERS as u64, 3)
    );
    // Nobody reads any more.
    let mut rounds = 0;
    while captures.lost() == 3 {
        rounds += 1;
        assert!(rounds < 100);
        for _ in 0..CAPTURE_BUFFERS {
            push(feed, 1, at(3_600), None);
        }
        sleep(LONGEST + SHORTEST).await;
    }
    assert!(rounds * CAPTURE_BUFFERS > QUEUE / 2);
    // An ended capture's losses stay counted.
    let lost = captures.lost();
    drop(events);
    while captures.count() > 0 {
        sleep(SHORTEST).await;
    }
    assert_eq!(captures.lost(), lost);
}
