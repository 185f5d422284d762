use std::sync::Arc;

use super::*;
use vl3lb_common::flow_feed::FlowFeed;

#[test]
fn a_finished_flow_that_makes_room_says_so_unless_its_end_was_told() {
    for (counted, expected) in [(false, &[Some(CloseCause::Reclaimed), None][..]), (true, &[None])] {
        let mut table = FlowTable::new(1, PORTS, SEED).unwrap();
        let feed = Arc::new(FlowFeed::default());
        feed.subscribe();
        let old = open(&mut table, &new_flow(1, 1), at(0)).id;
        table.touch(old, State::Finished, at(1), Duration::from_secs(240));
        if counted {
            table.entry_mut(old).set_counted();
        }
        table.set_feed(FeedWriter {
            feed: Arc::clone(&feed),
            worker: 3,
            timeouts: Timeouts::default(),
        });
        open(&mut table, &new_flow(2, 1), at(2));
        let told: Vec<_> = std::iter::from_fn(|| feed.pop()).collect();
        let causes: Vec<_> = told.iter().map(|change| change.closed).collect();
        assert_eq!(causes, expected);
        assert!(told.iter().all(|change| change.flow.worker == 3));
    }
}
