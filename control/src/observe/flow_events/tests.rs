use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use vl3lb_common::stats::CloseCause;

use super::*;
use crate::observe::report::sample::{self, Live, at, flow, live};

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
async fn take(follower: &mut Follower, count: usize) -> Vec<Arc<FlowEvent>> {
    let mut events = Vec::new();
    while events.len() < count {
        let more = timeout(Duration::from_secs(60), follower.next()).await;
        events.extend(more.expect("events that were told"));
    }
    events
}

fn events(live: &Live) -> &Arc<FlowEvents> {
    live.reporter.flow_events()
}

#[tokio::test(start_paused = true)]
async fn a_follower_gets_what_it_asked_for_from_all_workers() {
    let live = live(2);
    let feeds = &live.recorder.flow_feeds;
    assert!(!feeds[0].is_followed());
    let mut all = events(&live).follow(filter(&[])).unwrap();
    let mut one = events(&live)
        .follow(filter(&[
            ("service", "finance"),
            ("worker", "1"),
            ("port", "8080"),
        ]))
        .unwrap();
    assert!(feeds[0].is_followed() && feeds[1].is_followed());
    assert_eq!(events(&live).followers(), 2);
    let later = FlowChange {
        at: at(3601),
        ..change(0, 7, Some(CloseCause::Idle))
    };
    feeds[0].push(later);
    feeds[1].push(change(1, 8, None));

    let told = take(&mut all, 2).await;
    assert_eq!(
        [port(&told[0]), port(&told[1])],
        [40_008, 40_007],
        "in their order"
    );
    let FlowEvent::Close { cause, flow, .. } = &*told[1] else {
        panic!("{told:?}")
    };
    assert_eq!(
        (cause.as_str(), flow.service.as_deref()),
        ("idle", Some("finance"))
    );
    let told = take(&mut one, 1).await;
    assert_eq!((told[0].name(), port(&told[0])), ("open", 40_008));
    assert_eq!(events(&live).lost(), 0);
}

#[tokio::test(start_paused = true)]
async fn workers_are_left_alone_when_the_last_follower_is_gone() {
    let live = live(1);
    let feed = &live.recorder.flow_feeds[0];
    for _ in 0..2 {
        let follower = events(&live).follow(filter(&[])).unwrap();
        assert!(feed.is_followed());
        drop(follower);
        timeout(Duration::from_secs(60), async {
            while feed.is_followed() {
                tokio::time::sleep(ROUND).await;
            }
        })
        .await
        .expect("nobody follows");
        assert_eq!(events(&live).followers(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn one_who_does_not_read_misses_events_and_holds_up_nobody() {
    let live = live(1);
    let feed = &live.recorder.flow_feeds[0];
    let mut slow = events(&live).follow(filter(&[])).unwrap();
    let mut quick = events(&live).follow(filter(&[])).unwrap();
    let rounds = 3;
    let each = QUEUE / 2;
    for _ in 0..rounds {
        (0..each).for_each(|_| feed.push(change(0, 1, None)));
        assert_eq!(take(&mut quick, each).await.len(), each);
    }
    let missed = each * rounds - QUEUE;
    assert_eq!(events(&live).lost(), missed as u64);
    // All that waits for it, and in one event what it missed.
    let told = take(&mut slow, QUEUE + 1).await;
    let lost: Vec<_> = told.iter().filter(|event| event.name() == "lost").collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(port(lost[0]), missed as u64);
    assert!(
        timeout(Duration::from_secs(10), slow.next()).await.is_err(),
        "told once"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_could_not_tell_is_told_to_all() {
    let live = live(1);
    let feed = &live.recorder.flow_feeds[0];
    let mut follower = events(&live).follow(filter(&[("client", "10.0.0.0/8")])).unwrap();
    for _ in 0..FEED_CAPACITY + 5 {
        feed.push(change(0, 1, None));
    }
    let told = take(&mut follower, 1).await;
    assert_eq!((told[0].name(), port(&told[0])), ("lost", 5));
    assert_eq!(events(&live).lost(), 5);
    // One who comes later has not missed them.
    let mut late = events(&live).follow(filter(&[])).unwrap();
    assert!(timeout(Duration::from_secs(10), late.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn there_is_a_limit_to_followers() {
    let live = live(1);
    let mut followers: Vec<_> = (0..MOST_FOLLOWERS)
        .map(|_| events(&live).follow(filter(&[])).unwrap())
        .collect();
    assert!(events(&live).follow(filter(&[])).is_none());
    followers.pop();
    assert!(events(&live).follow(filter(&[])).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_came_while_following_is_known_by_name() {
    let recorder = Arc::new(sample::Recorder::new(1));
    let (current, receiver) = watch::channel(None);
    let events = Arc::new(FlowEvents::new(
        Arc::<sample::Recorder>::clone(&recorder),
        receiver,
    ));
    let mut follower = events.follow(filter(&[])).unwrap();
    let mut named = async |number| {
        recorder.flow_feeds[0].push(change(0, number, None));
        match &*take(&mut follower, 1).await[0] {
            FlowEvent::Open { flow, .. } => flow.service.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(named(1).await, None);
    current.send_replace(Some(Arc::new(sample::current(sample::directory()))));
    assert_eq!(named(2).await.as_deref(), Some("finance"));
}
