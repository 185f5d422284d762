//! Single situations.

use super::*;

const TIMEOUT: Duration = Duration::from_secs(15);
const LIFE: Duration = Duration::from_secs(600);

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn request(content: Content) -> Step {
    Step::Call(Call::Request(content), TIMEOUT)
}

/// A stepper with a connection and a monitor.
fn connected(now: Instant) -> Stepper {
    let mut stepper = Stepper::new(TIMEOUT, now);
    assert_eq!(stepper.step(now), Step::Call(Call::Restore, TIMEOUT));
    stepper.restored(Restored::Nothing, now);
    assert_eq!(stepper.step(now), request(Content::First));
    assert_eq!(stepper.state(), State::Requesting);
    stepper.granted(LIFE, now);
    assert_eq!(stepper.step(now), Step::OpenMonitor);
    stepper.monitor_opened(now);
    stepper.data_plane(DataPlane::Alive);
    assert_eq!(stepper.step(now), Step::Wait(Some(now + seconds(120.0))));
    assert_eq!(stepper.state(), State::Connected);
    stepper
}

#[test]
fn a_connection_is_refreshed_after_a_fifth_of_its_life() {
    let start = Instant::now();
    let mut stepper = connected(start);
    let due = start + seconds(120.0);
    assert_eq!(stepper.step(due - seconds(0.001)), Step::Wait(Some(due)));
    assert_eq!(stepper.step(due), request(Content::Keep));
    assert_eq!(stepper.step(due), Step::Wait(None), "one call at a time");
    let late = due + seconds(2.0);
    stepper.granted(LIFE, late);
    assert_eq!(stepper.step(late), Step::Wait(Some(late + seconds(120.0))));
}

#[test]
fn a_restarted_container_continues_with_its_connection() {
    let now = Instant::now();
    for (restored, next) in [
        (Restored::Found(LIFE), request(Content::Keep)),
        (Restored::Nothing, request(Content::First)),
        (Restored::Unfit, Step::Call(Call::Close, CLOSE_LIMIT)),
        (Restored::Failed, Step::Wait(Some(now + FIRST_PAUSE))),
    ] {
        let mut stepper = Stepper::new(TIMEOUT, now);
        stepper.step(now);
        stepper.restored(restored, now);
        assert_eq!(stepper.step(now), next, "{restored:?}");
    }
}

#[test]
fn an_unfit_connection_is_closed_before_the_first_request() {
    let now = Instant::now();
    let mut stepper = Stepper::new(TIMEOUT, now);
    stepper.step(now);
    stepper.restored(Restored::Unfit, now);
    stepper.step(now);
    stepper.closed(false, now);
    assert_eq!(stepper.step(now), request(Content::First));
}

#[test]
fn failed_calls_are_repeated_at_the_protocols_pace() {
    let start = Instant::now();
    let mut now = start;
    let mut stepper = Stepper::new(TIMEOUT, now);
    stepper.step(now);
    stepper.restored(Restored::Nothing, now);
    let quick = [0.2; QUICK as usize];
    for pause in quick.into_iter().chain([0.4, 0.8, 1.0, 1.0]) {
        assert_eq!(stepper.step(now), request(Content::First));
        stepper.request_failed(now);
        let next = now + seconds(pause);
        assert_eq!(stepper.step(now), Step::Wait(Some(next)));
        now = next;
    }
}

#[test]
fn a_signal_of_the_monitor_refreshes_at_once_and_keeps_everything() {
    for (signal, trigger) in [
        (Signal::Down, Trigger::Down),
        (Signal::Missing, Trigger::Missing),
        (Signal::RefreshRequested, Trigger::RefreshRequested),
    ] {
        let now = Instant::now();
        let mut stepper = connected(now);
        stepper.monitor_signal(signal);
        assert_eq!(stepper.state(), State::Healing(trigger));
        assert_eq!(stepper.step(now), request(Content::Keep));
        assert_eq!(stepper.state(), State::Healing(trigger));
        stepper.granted(LIFE, now);
        assert_eq!(stepper.state(), State::Connected);
    }
    let now = Instant::now();
    let mut stepper = connected(now);
    stepper.monitor_signal(Signal::Up);
    assert_eq!(stepper.state(), State::Connected);
}

#[test]
fn a_lost_monitor_heals_first_and_is_opened_again_after_that() {
    let now = Instant::now();
    let mut stepper = connected(now);
    let lost = now + seconds(60.0);
    stepper.monitor_ended(lost);
    assert_eq!(stepper.step(lost), request(Content::Keep));
    stepper.request_failed(lost);
    let retry = lost + FIRST_PAUSE;
    assert_eq!(stepper.step(lost), Step::Wait(Some(retry)));
    assert_eq!(stepper.state(), State::Healing(Trigger::MonitorLost));
    assert_eq!(stepper.step(retry), request(Content::Keep), "not the monitor");
    stepper.granted(LIFE, retry);
    assert_eq!(stepper.step(retry + seconds(0.4)), Step::OpenMonitor);
}

#[test]
fn a_monitor_that_never_opens_causes_no_requests() {
    let mut now = Instant::now();
    let mut stepper = connected(now);
    now += seconds(1.0);
    stepper.monitor_ended(now);
    stepper.step(now);
    stepper.granted(LIFE, now);
    let mut pauses = Vec::new();
    while pauses.len() < 10 {
        match stepper.step(now) {
            Step::OpenMonitor => stepper.monitor_ended(now),
            Step::Wait(Some(until)) => {
                pauses.push((until - now).as_secs_f64());
                now = until;
            }
            step => panic!("{step:?}"),
        }
    }
    assert_eq!(pauses, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]);
}

#[test]
fn a_silent_endpoint_is_replaced_without_address() {
    let now = Instant::now();
    let mut stepper = connected(now);
    stepper.data_plane(DataPlane::Silent);
    assert_eq!(stepper.step(now), Step::Call(Call::Close, CLOSE_LIMIT));
    assert_eq!(stepper.state(), State::Replacing(Loss::Silent));
    stepper.closed(false, now);
    assert_eq!(stepper.step(now), request(Content::Reselect));
    stepper.granted(LIFE, now);
    assert_eq!(stepper.step(now), Step::OpenMonitor);
}

#[test]
fn a_closed_connection_is_replaced_since_its_address_is_free() {
    let now = Instant::now();
    let mut stepper = connected(now);
    stepper.monitor_signal(Signal::Closed);
    assert_eq!(stepper.step(now), Step::Call(Call::Close, CLOSE_LIMIT));
    assert_eq!(stepper.state(), State::Replacing(Loss::Closed));
    stepper.closed(true, now);
    // The answer to the own Close.
    stepper.monitor_signal(Signal::Closed);
    assert_eq!(stepper.step(now), request(Content::Reselect));
    stepper.granted(LIFE, now);
    assert_eq!(stepper.state(), State::Connected);
}

#[test]
fn a_connection_that_was_closed_during_a_refresh_is_replaced_too() {
    for succeeds in [true, false] {
        let now = Instant::now();
        let mut stepper = connected(now);
        let due = now + seconds(120.0);
        assert_eq!(stepper.step(due), request(Content::Keep));
        stepper.monitor_signal(Signal::Closed);
        assert_eq!(stepper.step(due), Step::Wait(None));
        if succeeds {
            stepper.granted(LIFE, due);
        } else {
            stepper.request_failed(due);
        }
        assert_eq!(
            stepper.step(due),
            Step::Call(Call::Close, CLOSE_LIMIT),
            "{succeeds}"
        );
    }
}

#[test]
fn an_absent_interface_is_requested_before_the_connection_is_replaced() {
    let now = Instant::now();
    let mut stepper = connected(now);
    stepper.data_plane(DataPlane::Absent);
    assert_eq!(stepper.step(now), request(Content::Keep));
    stepper.granted(LIFE, now);
    let repaired = now + seconds(1.0);
    stepper.data_plane(DataPlane::Alive);
    assert!(matches!(stepper.step(repaired), Step::Wait(_)));
    assert_eq!(stepper.state(), State::Connected);

    stepper.data_plane(DataPlane::Absent);
    assert_eq!(stepper.step(repaired), request(Content::Keep));
    stepper.granted(LIFE, repaired);
    let end = repaired + REPAIR_GRACE;
    stepper.step(end - FIRST_PAUSE);
    assert_eq!(stepper.state(), State::Connected);
    assert_eq!(stepper.step(end), Step::Call(Call::Close, CLOSE_LIMIT));
}

#[test]
fn an_absent_interface_is_not_requested_for_ever() {
    let start = Instant::now();
    let mut now = start;
    let mut stepper = connected(now);
    stepper.data_plane(DataPlane::Absent);
    loop {
        match stepper.step(now) {
            Step::Call(Call::Request(Content::Keep), _) => stepper.request_failed(now),
            Step::Wait(Some(until)) => now = until,
            Step::Call(Call::Close, _) => break,
            step => panic!("{step:?}"),
        }
    }
    let took = now - start;
    assert!(
        REPAIR_LIMIT <= took && took <= REPAIR_LIMIT + LONGEST_PAUSE,
        "{took:?}"
    );
}

#[test]
fn expired_tokens_replace_a_connection_only_if_nothing_speaks_for_it() {
    for (data_plane, replaced) in [(DataPlane::Alive, false), (DataPlane::Unknown, true)] {
        let start = Instant::now();
        let mut now = start;
        let mut stepper = connected(now);
        stepper.data_plane(data_plane);
        let end = start + LIFE + seconds(10.0);
        let mut closed = false;
        while now < end && !closed {
            match stepper.step(now) {
                Step::Call(Call::Request(Content::Keep), _) => stepper.request_failed(now),
                Step::Wait(Some(until)) => now = until,
                Step::Call(Call::Close, _) => closed = true,
                step => panic!("{step:?}"),
            }
        }
        assert_eq!(closed, replaced, "{data_plane:?}");
        assert!(now >= start + LIFE);
    }
}

#[test]
fn tokens_that_expired_elsewhere_do_not_replace_a_working_connection() {
    let now = Instant::now();
    let mut stepper = connected(now);
    stepper.data_plane(DataPlane::Unknown);
    let due = now + seconds(120.0);
    stepper.step(due);
    stepper.granted(Duration::ZERO, due);
    assert_eq!(stepper.step(due), Step::Wait(Some(due + SHORTEST_REFRESH)));
    assert_eq!(stepper.state(), State::Connected);
}

#[test]
fn leaving_cancels_a_request_and_closes_within_the_limit() {
    let now = Instant::now();
    let mut stepper = connected(now);
    let due = now + seconds(120.0);
    stepper.step(due);
    stepper.leave(seconds(5.0), due);
    assert_eq!(stepper.step(due), Step::Cancel);
    assert_eq!(stepper.step(due), Step::Call(Call::Close, seconds(5.0)));
    let failed = due + seconds(4.9);
    stepper.closed(false, failed);
    assert_eq!(stepper.step(failed), Step::Wait(Some(due + seconds(5.0))));
    assert_eq!(stepper.step(due + seconds(5.0)), Step::Done { closed: false });

    let mut stepper = connected(now);
    stepper.leave(seconds(5.0), now);
    stepper.step(now);
    stepper.closed(true, now);
    assert_eq!(stepper.step(now), Step::Done { closed: true });
}

#[test]
fn leaving_without_a_request_has_nothing_to_close() {
    let now = Instant::now();
    let mut stepper = Stepper::new(TIMEOUT, now);
    stepper.step(now);
    stepper.leave(seconds(5.0), now);
    assert_eq!(stepper.step(now), Step::Done { closed: true });
}
