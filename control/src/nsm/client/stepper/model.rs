//! The stepper against a model of manager, endpoint and data plane that fail at random, on a virtual clock.

use proptest::prelude::*;

use super::*;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The real check takes this long to notice.
const SILENT_AFTER: Duration = Duration::from_secs(3);
const ABSENT_AFTER: Duration = Duration::from_millis(300);

/// What happens to the world.
#[derive(Debug, Clone)]
enum Action {
    Wait(Duration),
    ManagerStops,
    ManagerStarts,
    /// The manager answers, but the rest of the chain fails.
    ChainFails,
    ChainWorks,
    Latency(Duration),
    MonitorIsCut,
    MonitorIsDenied,
    MonitorIsAllowed,
    Signal(Signal),
    /// Another client closes the connection.
    ForeignClose,
    /// The endpoint forgets the connection, and is silent until it is requested anew.
    EndpointRestarts,
    /// The interface is removed; the next Request brings it back if the forwarder knows about it.
    InterfaceGoes {
        known: bool,
    },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1_u64..90_000).prop_map(|millis| Action::Wait(Duration::from_millis(millis))),
        2 => (1_u64..500).prop_map(|millis| Action::Wait(Duration::from_millis(millis))),
        1 => Just(Action::ManagerStops),
        2 => Just(Action::ManagerStarts),
        1 => Just(Action::ChainFails),
        2 => Just(Action::ChainWorks),
        2 => (0_u64..20_000).prop_map(|millis| Action::Latency(Duration::from_millis(millis))),
        1 => Just(Action::MonitorIsCut),
        1 => Just(Action::MonitorIsDenied),
        1 => Just(Action::MonitorIsAllowed),
        1 => prop_oneof![
            Just(Signal::Up),
            Just(Signal::Down),
            Just(Signal::Missing),
            Just(Signal::RefreshRequested)
        ].prop_map(Action::Signal),
        1 => Just(Action::ForeignClose),
        1 => Just(Action::EndpointRestarts),
        1 => any::<bool>().prop_map(|known| Action::InterfaceGoes { known }),
    ]
}

/// What the servers know of the connection.
#[derive(Debug, Clone, Copy)]
struct Connection {
    address: u32,
    /// When the servers close it.
    end: Instant,
    interface: bool,
    answers: bool,
}

struct World {
    stepper: Stepper,
    now: Instant,
    life: Duration,
    manager: bool,
    chain: bool,
    latency: Duration,
    monitor_allowed: bool,
    connection: Option<Connection>,
    /// With its end, and whether it had time enough.
    in_flight: Option<(Call, Instant, bool)>,
    monitor: bool,
    monitor_opens: Option<Instant>,
    dead_since: Option<Instant>,
    addresses: u32,
    /// The last times at which calls began.
    begun: Vec<Instant>,
    server_closed: u32,
    reselects: u32,
    /// Whether the data plane was ever reported dead, or the servers closed the connection.
    excused: bool,
    forwarder_knows: bool,
}

impl World {
    fn new(life: Duration) -> Self {
        let now = Instant::now();
        Self {
            stepper: Stepper::new(REQUEST_TIMEOUT, now),
            now,
            life,
            manager: true,
            chain: true,
            latency: Duration::from_millis(80),
            monitor_allowed: true,
            connection: None,
            in_flight: None,
            monitor: false,
            monitor_opens: None,
            dead_since: None,
            addresses: 0,
            begun: Vec::new(),
            server_closed: 0,
            reselects: 0,
            excused: false,
            forwarder_knows: true,
        }
    }

    fn data_plane(&mut self) -> DataPlane {
        let state = match self.connection {
            Some(connection) if !connection.interface => Some(DataPlane::Absent),
            Some(connection) if connection.answers => None,
            Some(_) => Some(DataPlane::Silent),
            None => Some(DataPlane::Absent),
        };
        let Some(state) = state else {
            self.dead_since = None;
            return DataPlane::Alive;
        };
        let since = *self.dead_since.get_or_insert(self.now);
        let after = match state {
            DataPlane::Absent => ABSENT_AFTER,
            _ => SILENT_AFTER,
        };
        if self.now - since < after {
            return DataPlane::Unknown;
        }
        self.excused = true;
        state
    }

    /// The next change of the data plane's verdict.
    fn verdict_due(&self) -> Option<Instant> {
        let since = self.dead_since?;
        [ABSENT_AFTER, SILENT_AFTER]
            .into_iter()
            .map(|after| since + after)
            .find(|&due| due > self.now)
    }

    /// Carries out steps until the next one is to wait. Returns until when.
    fn drive(&mut self) -> Option<Instant> {
        for _ in 0..20 {
            let data_plane = self.data_plane();
            self.stepper.data_plane(data_plane);
            match self.stepper.step(self.now) {
                Step::Call(call, limit) => {
                    assert!(self.in_flight.is_none(), "two calls at once");
                    assert!(limit <= REQUEST_TIMEOUT && !limit.is_zero());
                    if call == Call::Request(Content::Reselect) {
                        self.reselects += 1;
                        assert!(self.excused, "replaced although the data plane was never dead");
                    }
                    let took = if self.manager {
                        self.latency.min(limit)
                    } else {
                        Duration::ZERO
                    };
                    self.in_flight = Some((call, self.now + took, self.latency < limit));
                    if call == Call::Close {
                        (self.monitor, self.monitor_opens) = (false, None);
                    }
                    self.begun.push(self.now);
                }
                Step::Cancel => assert!(self.in_flight.take().is_some()),
                Step::OpenMonitor => {
                    assert!(!self.monitor && self.monitor_opens.is_none(), "two monitors");
                    self.monitor_opens = Some(self.now + Duration::from_millis(5));
                }
                Step::Wait(wake) => {
                    assert!(
                        wake.is_some() || self.in_flight.is_some(),
                        "no next action: {:?}",
                        self.stepper
                    );
                    assert!(wake.is_none_or(|wake| wake > self.now), "a wait that is over");
                    return wake;
                }
                Step::Done { .. } => return None,
            }
        }
        panic!("no end of steps at one time: {:?}", self.stepper);
    }

    fn finish_call(&mut self, call: Call, in_time: bool) {
        let works = self.manager && self.chain && in_time;
        match call {
            Call::Restore if !self.manager || !in_time => self.stepper.restored(Restored::Failed, self.now),
            Call::Restore => {
                let restored = match self.connection {
                    Some(connection) => Restored::Found(connection.end - self.now + REQUEST_TIMEOUT),
                    None => Restored::Nothing,
                };
                self.stepper.restored(restored, self.now);
            }
            Call::Request(_) if !works => self.stepper.request_failed(self.now),
            Call::Request(content) => {
                let end = self.now + self.life - REQUEST_TIMEOUT;
                match (&mut self.connection, content) {
                    (Some(connection), Content::Keep) => {
                        connection.end = end;
                        connection.interface |= self.forwarder_knows;
                    }
                    (None, Content::Keep) | (_, Content::First | Content::Reselect) => {
                        if content != Content::Keep {
                            self.addresses += 1;
                        }
                        self.forwarder_knows = true;
                        self.connection = Some(Connection {
                            address: self.addresses,
                            end,
                            interface: true,
                            answers: true,
                        });
                    }
                }
                self.stepper.granted(self.life, self.now);
            }
            Call::Close => {
                if works {
                    self.connection = None;
                }
                self.stepper.closed(works, self.now);
            }
        }
    }

    fn cut_monitor(&mut self) {
        if self.monitor || self.monitor_opens.is_some() {
            (self.monitor, self.monitor_opens) = (false, None);
            self.stepper.monitor_ended(self.now);
        }
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let wake = self.drive();
            let next = [
                wake,
                self.in_flight.map(|(_, done, _)| done),
                self.monitor_opens,
                self.connection.map(|connection| connection.end),
                self.verdict_due(),
            ];
            let Some(next) = next.into_iter().flatten().min().filter(|&next| next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if let Some((call, done, in_time)) = self.in_flight
                && done <= self.now
            {
                self.in_flight = None;
                self.finish_call(call, in_time);
            }
            if self.monitor_opens.is_some_and(|opens| opens <= self.now) {
                self.monitor_opens = None;
                if self.manager && self.monitor_allowed {
                    self.monitor = true;
                    self.stepper.monitor_opened(self.now);
                    if self.connection.is_none() {
                        self.stepper.monitor_signal(Signal::Missing);
                    }
                } else {
                    self.stepper.monitor_ended(self.now);
                }
            }
            if self
                .connection
                .is_some_and(|connection| connection.end <= self.now)
            {
                self.server_closed += 1;
                self.close();
            }
            let recent = self.now.checked_sub(Duration::from_secs(10));
            self.begun.retain(|&begun| Some(begun) > recent);
            // Five in a second, and what follows from each other.
            assert!(self.begun.len() <= 55, "{} calls in 10 s", self.begun.len());
        }
    }

    /// The servers close the connection.
    fn close(&mut self) {
        self.excused = true;
        self.connection = None;
        if self.monitor {
            self.stepper.monitor_signal(Signal::Closed);
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Wait(time) => self.run(*time),
            Action::ManagerStops => {
                self.manager = false;
                self.cut_monitor();
            }
            Action::ManagerStarts => self.manager = true,
            Action::ChainFails => self.chain = false,
            Action::ChainWorks => self.chain = true,
            Action::Latency(latency) => self.latency = *latency,
            Action::MonitorIsCut => self.cut_monitor(),
            Action::MonitorIsDenied => self.monitor_allowed = false,
            Action::MonitorIsAllowed => self.monitor_allowed = true,
            Action::Signal(signal) if self.monitor => self.stepper.monitor_signal(*signal),
            Action::Signal(_) => {}
            Action::ForeignClose => self.close(),
            Action::EndpointRestarts => {
                if let Some(connection) = &mut self.connection {
                    connection.answers = false;
                }
            }
            Action::InterfaceGoes { known } => {
                if let Some(connection) = &mut self.connection {
                    connection.interface = false;
                    self.forwarder_knows = *known;
                }
            }
        }
    }

    fn repair_everything(&mut self) {
        (self.manager, self.chain, self.monitor_allowed) = (true, true, true);
        self.latency = Duration::from_millis(80);
    }

    fn is_served(&self) -> bool {
        let carries = |connection: Connection| connection.interface && connection.answers;
        self.connection.is_some_and(carries)
            && self.stepper.state() == State::Connected
            && self.stepper.is_monitored()
    }
}

fn lives() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(30), Just(60), Just(600)].prop_map(Duration::from_secs)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_fault_that_ends_is_healed(
        life in lives(),
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let mut world = World::new(life);
        for action in &actions {
            world.act(action);
        }
        world.repair_everything();
        // A hanging call, an interface to bring back, a Close, and the longest pause of the monitor.
        world.run(REQUEST_TIMEOUT + REPAIR_LIMIT + CLOSE_LIMIT + LONGEST_MONITOR_PAUSE + Duration::from_secs(5));
        prop_assert!(world.is_served(), "{:?} {:?}", world.stepper, world.connection);
    }

    #[test]
    fn a_connection_never_expires_while_calls_succeed(
        life in lives(),
        latencies in prop::collection::vec(0_u64..5_000, 1..40),
    ) {
        let mut world = World::new(life);
        for millis in latencies {
            world.latency = Duration::from_millis(millis);
            world.run(life / 3);
        }
        prop_assert_eq!((world.server_closed, world.reselects, world.addresses), (0, 0, 1));
    }

    #[test]
    fn the_address_is_kept_while_the_data_plane_answers(
        outages in prop::collection::vec((0_u64..60_000, 1_u64..200_000), 1..20),
    ) {
        let mut world = World::new(Duration::from_secs(600));
        world.run(Duration::from_secs(1));
        for (outage, calm) in outages {
            world.act(&Action::ManagerStops);
            world.run(Duration::from_millis(outage));
            world.act(&Action::ManagerStarts);
            world.run(Duration::from_millis(calm));
        }
        prop_assert_eq!((world.server_closed, world.reselects), (0, 0));
        prop_assert_eq!(world.connection.map(|connection| connection.address), Some(1));
    }

    #[test]
    fn leaving_ends_within_its_limit(
        actions in prop::collection::vec(action(), 0..30),
        limit in 1_u64..8,
    ) {
        let mut world = World::new(Duration::from_secs(60));
        for action in &actions {
            world.act(action);
        }
        let limit = Duration::from_secs(limit);
        // A Close that replaces the connection is not begun anew; one that fails leaves less time for the next, which
        // begins after a pause.
        let late = world.now + limit;
        let slow_close = world.in_flight.is_some_and(|(call, end, in_time)| {
            let closed = if in_time { end } else { end + LONGEST_PAUSE + world.latency };
            call == Call::Close && closed >= late
        });
        world.stepper.leave(limit, world.now);
        world.run(limit);
        let step = world.stepper.step(world.now);
        let Step::Done { closed } = step else {
            return Err(TestCaseError::fail(format!("{step:?}")));
        };
        let answers = world.manager && world.chain && world.latency < limit && !slow_close;
        prop_assert!(!answers || closed);
        prop_assert!(!closed || world.connection.is_none() || world.addresses == 0);
    }
}
