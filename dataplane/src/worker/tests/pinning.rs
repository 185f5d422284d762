//! A worker that is kept from running leaves its core.

use vl3lb_common::Duration;

use super::{Pinning, Team, request};

impl Team {
    /// Rounds of this length in a flood of new flows, most of which are lost.
    fn flood(&mut self, rounds: u16, length: Duration) {
        for round in 0..rounds {
            for client in 0..32 {
                let packet = request(1024 + round % 1000 * 32 + client, b"x");
                assert!(self.port(0).push_packet(&packet));
            }
            self.port(0).lose(1000);
            self.now = self.now + length;
            self.workers[0].step(self.now);
            self.transmitted();
        }
    }

    /// The core of the worker, by its counters, and the number of moves.
    fn core(&self) -> (u64, u64) {
        (self.stats[0].core.get(), self.stats[0].core_moves.get())
    }
}

#[test]
fn a_flood_that_keeps_the_worker_from_running_makes_it_leave_its_core() {
    let cores = core_affinity::get_core_ids().unwrap();
    let [home, .., spare] = cores[..] else {
        panic!("two cores are needed: {cores:?}");
    };
    let mut team = Team::new(1);
    team.stats[0].core.set(home.id as u64);
    team.workers[0].pinning = Pinning::new(home.id, vec![spare.id]);
    team.flood(100, Duration::from_micros(300));
    assert_eq!(team.core(), (home.id as u64, 0));
    team.flood(10, Duration::from_millis(26));
    assert_eq!(team.core(), (spare.id as u64, 1));
    let here = core_affinity::get_core_ids().unwrap();
    assert_eq!(here, [spare]);
    team.close();
}
