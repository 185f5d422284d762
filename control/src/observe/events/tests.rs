use std::time::{Duration, UNIX_EPOCH};

use tokio::time::timeout;

use super::ring::CAPACITY;
use super::*;

fn at(seconds: u64) -> Time {
    Time(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn event(number: usize) -> Event {
    Event::new(EventCode::ConfigRead, number.to_string())
}

fn numbers(events: &[api::Event]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

#[test]
fn event_code_names_match_their_json() {
    for code in EventCode::ALL {
        assert_eq!(serde_json::json!(code), code.name());
    }
}

#[test]
fn the_newest_events_are_kept_and_numbered_without_gaps() {
    let events = Events::default();
    events.append(at(1), (0..CAPACITY + 10).map(event));
    let kept = events.kept();
    assert_eq!(kept.len(), CAPACITY);
    let all = CAPACITY as u64 + 10;
    assert_eq!(numbers(&kept), (11..=all).collect::<Vec<_>>());
    assert_eq!(kept[0].text, "10");
    assert_eq!(events.total(), all);
    assert_eq!(events.lost(), 0, "no subscription");
}

#[tokio::test]
async fn a_subscription_reads_every_event_once() {
    let events: Arc<Events> = Arc::default();
    events.append(at(1), (0..3).map(event));
    let mut subscription = events.subscribe();
    assert_eq!(numbers(&subscription.next().await.events), [1, 2, 3]);
    let waiting = tokio::spawn(async move {
        let batch = subscription.next().await;
        (batch, subscription)
    });
    tokio::task::yield_now().await;
    events.append(at(2), [event(3)]);
    let waited = timeout(Duration::from_secs(30), waiting).await;
    let (batch, mut subscription) = waited.expect("a notification").unwrap();
    assert_eq!((batch.lost, numbers(&batch.events)), (0, vec![4]));
    events.append(at(3), (4..6).map(event));
    assert_eq!(numbers(&subscription.next().await.events), [5, 6]);
}

#[tokio::test]
async fn a_slow_subscription_counts_and_reports_lost_events() {
    let events: Arc<Events> = Arc::default();
    events.append(at(1), (0..2).map(event));
    let mut subscription = events.subscribe();
    assert_eq!(subscription.next().await.loss(at(1)), None);
    events.append(at(2), (0..CAPACITY + 7).map(event));
    let batch = subscription.next().await;
    assert_eq!((batch.lost, batch.events.len()), (7, CAPACITY));
    let loss = batch.loss(at(2)).unwrap();
    assert_eq!(loss.code, EventCode::EventsLost);
    assert!(loss.text.starts_with("7 events were missed"), "{}", loss.text);
    assert_eq!(loss.sequence + 1, batch.events[0].sequence);
    assert_eq!(events.lost(), 7);
}

#[tokio::test]
async fn a_new_subscription_has_lost_nothing() {
    let events: Arc<Events> = Arc::default();
    events.append(at(1), (0..CAPACITY + 7).map(event));
    let batch = events.subscribe().next().await;
    assert_eq!((batch.lost, batch.events.len()), (0, CAPACITY));
}
