//! What is emitted of flows that open and close.

use super::*;
use vl3lb_common::flow_feed::{FEED_CAPACITY, FlowChange, FlowFeed};
use vl3lb_common::flow_query::FlowState;
use vl3lb_common::stats::CloseCause;

const CLIENT: &str = "172.16.1.100:40000";
const BACKEND: &str = "172.16.1.2:8081";

fn world() -> (World, Arc<FlowFeed>) {
    let mut world = World::new(Setup {
        backends: vec![(BACKEND, BackendState::Active)],
        ..Setup::default()
    });
    let feed = Arc::new(FlowFeed::default());
    world.engines[0].set_flow_feed(Arc::clone(&feed));
    (world, feed)
}

fn emitted(feed: &FlowFeed) -> Vec<FlowChange> {
    std::iter::from_fn(|| feed.pop()).collect()
}

/// Both ends close a connection in order.
fn finish(world: &mut World, seen: &Seen) {
    for packet in [
        world.client_tcp(CLIENT, flags::FIN | flags::ACK, b""),
        world.backend_tcp(seen, flags::FIN | flags::ACK, b""),
        world.client_tcp(CLIENT, flags::ACK, b""),
    ] {
        world.forward(&packet);
    }
}

#[test]
fn nothing_is_emitted_without_a_subscriber() {
    let (mut world, feed) = world();
    let seen = world.connect(CLIENT);
    feed.subscribe();
    feed.unsubscribe();
    finish(&mut world, &seen);
    assert_eq!((emitted(&feed), feed.lost()), (Vec::new(), 0));
}

#[test]
fn a_flow_is_emitted_when_it_opens_and_when_it_finishes() {
    let (mut world, feed) = world();
    feed.subscribe();
    let seen = world.connect(CLIENT);
    let opened = emitted(&feed).pop().expect("one change");
    assert_eq!((opened.at, opened.closed), (world.now, None));
    let flow = &opened.flow;
    assert_eq!(SocketAddr::new(flow.client, flow.client_port).to_string(), CLIENT);
    assert_eq!(
        (flow.service_address.to_string(), flow.service_port, flow.nat_port),
        ("172.16.1.103".to_owned(), 8080, seen.source.port())
    );
    assert_eq!(SocketAddr::new(flow.backend, flow.backend_port), seen.destination);
    assert_eq!(
        (flow.service, flow.backend_slot),
        (ServiceSlot(0), BackendSlot(0))
    );
    assert_eq!(
        (flow.state, flow.age_micros, flow.packets_in),
        (FlowState::Opening, 0, 0)
    );

    world.pass(Duration::from_secs(5));
    finish(&mut world, &seen);
    let closed = emitted(&feed).pop().expect("one change");
    assert_eq!((closed.at, closed.closed), (world.now, Some(CloseCause::Fin)));
    let FlowChange { flow: end, .. } = closed;
    assert_eq!(
        (end.state, end.age_micros, end.idle_micros),
        (FlowState::Closing, 5_000_000, 0)
    );
    // As the table has it: the last packet is counted in.
    let slice = world.engines[0].flow_slice(0, 16, world.now);
    assert_eq!(slice.flows, [end]);
    assert_eq!((slice.flows[0].packets_in, slice.flows[0].packets_out), (4, 2));

    // Its entry goes later, without an event.
    world.pass(Duration::from_secs(3_600));
    world.sweep();
    assert_eq!((world.flows(), emitted(&feed)), (0, Vec::new()));
}

#[test]
fn each_end_is_emitted_once_with_its_cause() {
    type End = fn(&mut World, &Seen);
    let ends: [(CloseCause, End); 6] = [
        (CloseCause::Fin, finish),
        (CloseCause::Rst, |world, seen| {
            let reset = world.backend_tcp(seen, flags::RST | flags::ACK, b"");
            world.forward(&reset);
            // The client minds, which does not bring the flow back.
            let data = world.client_tcp(CLIENT, flags::ACK, b"x");
            world.forward(&data);
            world.pass(Duration::from_secs(8_000));
            world.sweep();
        }),
        (CloseCause::Idle, |world, _| {
            world.pass(Duration::from_secs(8_000));
            world.sweep();
        }),
        (CloseCause::Drain, |world, _| {
            world.publish_backends(vec![(BACKEND, BackendState::Gone)]);
            world.sweep();
        }),
        (CloseCause::BackendDown, |world, _| {
            world.publish_backends(vec![(BACKEND, BackendState::Down)]);
            let data = world.client_tcp(CLIENT, flags::ACK, b"x");
            assert_eq!(world.send(&data).0, Verdict::Reject);
        }),
        (CloseCause::Idle, |world, _| {
            // Expired, and found by the next connection from the same port.
            world.pass(Duration::from_secs(8_000));
            let syn = world.client_tcp(CLIENT, flags::SYN, b"");
            world.forward(&syn);
        }),
    ];
    for (cause, end) in ends {
        let (mut world, feed) = world();
        let seen = world.connect(CLIENT);
        feed.subscribe();
        end(&mut world, &seen);
        let closed: Vec<_> = emitted(&feed).iter().filter_map(|change| change.closed).collect();
        assert_eq!(closed, [cause]);
        let counted = world.stats[0].service(ServiceSlot(0)).flows_closed[cause as usize].get();
        assert_eq!(counted, 1, "{cause:?}");
    }
}

#[test]
fn a_replaced_flow_is_emitted_before_its_successor() {
    let (mut world, feed) = world();
    let seen = world.connect(CLIENT);
    // The last FIN is not acknowledged, so that the flow has not finished.
    for packet in [
        world.client_tcp(CLIENT, flags::FIN | flags::ACK, b""),
        world.backend_tcp(&seen, flags::FIN | flags::ACK, b""),
    ] {
        world.forward(&packet);
    }
    feed.subscribe();
    world.connect(CLIENT);
    let causes: Vec<_> = emitted(&feed).iter().map(|change| change.closed).collect();
    assert_eq!(causes, [Some(CloseCause::Fin), None]);
}

#[test]
fn changes_beyond_the_ring_are_counted_and_traffic_goes_on() {
    let (mut world, feed) = world();
    feed.subscribe();
    let flows = FEED_CAPACITY as u64 + 5;
    for number in 0..flows {
        let syn = world.client_tcp(CLIENT, flags::SYN, b"");
        let seen = world.forward(&syn);
        if number + 1 < flows {
            let reset = world.backend_tcp(&seen, flags::RST | flags::ACK, b"");
            world.forward(&reset);
        }
    }
    let (changes, all) = (emitted(&feed), 2 * flows - 1);
    assert_eq!(changes.len(), FEED_CAPACITY);
    assert_eq!(feed.lost(), all - FEED_CAPACITY as u64);
    let stats = world.stats[0].service(ServiceSlot(0));
    assert_eq!(stats.flows_opened.get(), flows);
}
