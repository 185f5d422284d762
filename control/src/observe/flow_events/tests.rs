use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use vl3lb_common::stats::CloseCause;

use super::*;
use crate::observe::report::fixture::{self, Live, at, flow};

fn change(worker: u16, number: u16, closed: Option<CloseCause>) -> FlowChange {
    FlowChange {
        at: at(3600),
        closed,
        flow: flow(worker, number),
    }
}

fn filter(terms: &[(&str, &str)]) -> FlowFilter {
    let mut filter = FlowFilter::default();
    for (name, value) in terms {
        assert!(filter.add(name, value).unwrap());
    }
    filter
}

/// The client's port of an open or close; the number of what was lost.
fn port(event: &FlowEvent) -> u64 {
    match event {
        FlowEvent::Open { flow, .. } | FlowEvent::Close { flow, .. } => flow.client_port.into(),
        FlowEvent::Lost { events, .. } => *events,
    }
}

/// Waits for `count` events.
async fn take(subscription: &mut Subscription, count: usize) -> Vec<Arc<FlowEvent>> {
    let mut events = Vec::new();
    while events.len() < count {
        let more = timeout(Duration::from_secs(60), subscription.next()).await;
        events.extend(more.expect("events in time"));
    }
    events
}

/// A reporter whose flow events are served.
fn live(workers: u16) -> Live {
    let live = fixture::live(workers);
    tokio::spawn(Arc::clone(live.reporter.flow_events()).run());
    live
}

fn events(live: &Live) -> &Arc<FlowEvents> {
    live.reporter.flow_events()
}

#[tokio::test(start_paused = true)]
async fn feeds_that_appear_after_a_subscription_are_read_too() {
    let live = live(1);
    let feed = &live.recorder.flow_feeds[0];
    let mut subscription = events(&live).subscribe(filter(&[])).unwrap();
    // As the first attachment makes it.
    feed.unsubscribe();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(feed.is_subscribed());
    feed.push(change(0, 1, None));
    assert_eq!(take(&mut subscription, 1).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_reads_the_flows_of_its_filter_from_all_workers() {
    let live = live(2);
    let feeds = &live.recorder.flow_feeds;
    assert!(!feeds[0].is_subscribed());
    let mut all = events(&live).subscribe(filter(&[])).unwrap();
    let mut one = events(&live)
        .subscribe(filter(&[
            ("service", "finance"),
            ("worker", "1"),
            ("port", "8080"),
        ]))
        .unwrap();
    assert!(feeds[0].is_subscribed() && feeds[1].is_subscribed());
    assert_eq!(events(&live).subscriber_count(), 2);
    let later = FlowChange {
        at: at(3601),
        ..change(0, 7, Some(CloseCause::Idle))
    };
    feeds[0].push(later);
    feeds[1].push(change(1, 8, None));

    let read = take(&mut all, 2).await;
    assert_eq!(
        [port(&read[0]), port(&read[1])],
        [40_008, 40_007],
        "in their order"
    );
    let FlowEvent::Close { cause, flow, .. } = &*read[1] else {
        panic!("{read:?}")
    };
    assert_eq!(
        (cause.as_str(), flow.service.as_deref()),
        ("idle", Some("finance"))
    );
    let read = take(&mut one, 1).await;
    assert_eq!((read[0].name(), port(&read[0])), ("open", 40_008));
    assert_eq!(events(&live).lost(), 0);
}

#[tokio::test(start_paused = true)]
async fn feeds_stop_with_the_last_subscription() {
    let live = live(1);
    let feed = &live.recorder.flow_feeds[0];
    for _ in 0..2 {
        let subscription = events(&live).subscribe(filter(&[])).unwrap();
        assert!(feed.is_subscribed());
        drop(subscription);
        timeout(Duration::from_secs(60), async {
            while feed.is_subscribed() {
                tokio::time::sleep(ROUND).await;
            }
        })
        .await
        .expect("feeds stop");
        assert_eq!(events(&live).subscriber_count(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_subscription_loses_events_and_delays_nobody() {
    let live = live(1);
    let feed = &live.recorder.flow_feeds[0];
    let mut slow = events(&live).subscribe(filter(&[])).unwrap();
    let mut quick = events(&live).subscribe(filter(&[])).unwrap();
    let rounds = 3;
    let each = QUEUE / 2;
    for _ in 0..rounds {
        (0..each).for_each(|_| feed.push(change(0, 1, None)));
        assert_eq!(take(&mut quick, each).await.len(), each);
    }
    let missed = each * rounds - QUEUE;
    assert_eq!(events(&live).lost(), missed as u64);
    // Its whole queue, and one event with the number of the lost ones.
    let read = take(&mut slow, QUEUE + 1).await;
    let lost: Vec<_> = read.iter().filter(|event| event.name() == "lost").collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(port(lost[0]), missed as u64);
    assert!(
        timeout(Duration::from_secs(10), slow.next()).await.is_err(),
        "reported once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_ring_is_a_loss_of_every_subscription() {
    let live = live(1);
    let feed = &live.recorder.flow_feeds[0];
    let mut subscription = events(&live)
        .subscribe(filter(&[("client", "10.0.0.0/8")]))
        .unwrap();
    for _ in 0..FEED_CAPACITY + 5 {
        feed.push(change(0, 1, None));
    }
    let read = take(&mut subscription, 1).await;
    assert_eq!((read[0].name(), port(&read[0])), ("lost", 5));
    assert_eq!(events(&live).lost(), 5);
    // A later subscription has not missed them.
    let mut late = events(&live).subscribe(filter(&[])).unwrap();
    assert!(timeout(Duration::from_secs(10), late.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_limited() {
    let live = live(1);
    let mut subscriptions: Vec<_> = (0..MAX_SUBSCRIBERS)
        .map(|_| events(&live).subscribe(filter(&[])).unwrap())
        .collect();
    assert!(events(&live).subscribe(filter(&[])).is_none());
    subscriptions.pop();
    assert!(events(&live).subscribe(filter(&[])).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_service_added_later_has_its_name_in_events() {
    let recorder = Arc::new(fixture::Recorder::new(1));
    let (current, receiver) = watch::channel(None);
    let events = Arc::new(FlowEvents::new(
        Arc::<fixture::Recorder>::clone(&recorder),
        receiver,
    ));
    tokio::spawn(Arc::clone(&events).run());
    let mut subscription = events.subscribe(filter(&[])).unwrap();
    let mut named = async |number| {
        recorder.flow_feeds[0].push(change(0, number, None));
        match &*take(&mut subscription, 1).await[0] {
            FlowEvent::Open { flow, .. } => flow.service.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(named(1).await, None);
    current.send_replace(Some(Arc::new(fixture::current(fixture::directory()))));
    assert_eq!(named(2).await.as_deref(), Some("finance"));
}
