use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use super::screen::{Gone, Screen, Shown};
use super::state::{Order, Pane, State};
use super::*;
use crate::api::{BackendState, Time};
use crate::cli::tests::TABLE;
use crate::golden;
use crate::observe::report::fixture;
use sample::Sample;

/// The fixture's report, as the first sample.
fn first() -> Sample {
    let report = fixture::report();
    let events = fixture::event_list(&report);
    Sample {
        time: report.time,
        window_seconds: None,
        status: report.status,
        services: report.services,
        backends: report.backends,
        events: events.envelope.items,
    }
    .since(None)
}

/// Two seconds later: traffic of one service and one backend, and drops.
fn second() -> Sample {
    let mut sample = first();
    sample.time = Time(sample.time.0 + Duration::from_secs(2));
    let finance = sample
        .services
        .iter_mut()
        .find(|service| service.name == "finance")
        .unwrap();
    finance.inbound.packets_total += 2_000;
    finance.inbound.bytes_total += 250_000;
    finance.flows_opened_total += 40;
    let no_backend = finance
        .drops
        .iter_mut()
        .find(|drop| drop.reason == "no_backend")
        .unwrap();
    no_backend.packets_total += 10;
    let up = |backend: &&mut crate::api::Backend| backend.state == BackendState::Up;
    let backend = sample.backends.iter_mut().find(up).unwrap();
    backend.inbound.packets_total += 3_000;
    backend.failures.reset += 4;
    sample.status.totals.inbound.packets_total += 5_000;
    sample.status.workers[0].busy_seconds_total += 1.0;
    sample
}

fn state() -> State {
    State::new(Pane::Services, Order::State, String::new())
}

fn shown() -> Shown {
    let before = first();
    Shown {
        now: second().since(Some(&before)),
        before: Some(before),
    }
}

fn screen<'a>(state: &'a State, shown: &'a Shown) -> Screen<'a> {
    Screen {
        state,
        shown: Some(shown),
        gone: None,
        now: shown.now.time,
        view: TABLE,
    }
}

fn drawn(screen: &Screen<'_>, width: u16, height: u16) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().clone()
}

/// The text of a screen, without spaces at the ends of lines.
fn text(backend: &TestBackend) -> String {
    let buffer = backend.buffer();
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn text_of(screen: &Screen<'_>, width: u16, height: u16) -> String {
    text(&drawn(screen, width, height))
}

#[test]
fn screens_are_as_they_were() {
    let shown = shown();
    let services = state();
    golden::check("top-services.txt", &text_of(&screen(&services, &shown), 160, 24));
    let backends = State {
        pane: Pane::Backends,
        workers: true,
        ..state()
    };
    golden::check("top-backends.txt", &text_of(&screen(&backends, &shown), 140, 24));
    let help = State {
        help: true,
        ..state()
    };
    golden::check("top-help.txt", &text_of(&screen(&help, &shown), 100, 24));
    golden::check("top-narrow.txt", &text_of(&screen(&services, &shown), 60, 24));
    let mut opened = state();
    opened.press(KeyEvent::from(KeyCode::Enter), &["ledger".to_owned()], 1);
    golden::check("top-service.txt", &text_of(&screen(&opened, &shown), 120, 24));
    let keys = rows::keys(&shown.now, &opened);
    opened.press(KeyEvent::from(KeyCode::Enter), &keys, 1);
    golden::check("top-backend.txt", &text_of(&screen(&opened, &shown), 120, 30));
    golden::check(
        "top-batch.txt",
        &(batch::block(&first(), &services, TABLE) + &batch::block(&shown.now, &services, TABLE)),
    );
}

#[test]
fn rates_are_those_between_two_samples() {
    let (before, now) = (first(), second());
    assert_eq!(before.status.totals.inbound.packets_per_second, None);
    assert!(
        before
            .services
            .iter()
            .all(|service| service.new_flows_per_second.is_none())
    );
    let now = now.since(Some(&before));
    assert_eq!(now.window_seconds, Some(2.0));
    let finance = now
        .services
        .iter()
        .find(|service| service.name == "finance")
        .unwrap();
    assert_eq!(finance.inbound.packets_per_second, Some(1_000.0));
    assert_eq!(finance.inbound.bytes_per_second, Some(125_000.0));
    assert_eq!(finance.outbound.packets_per_second, Some(0.0));
    assert_eq!(finance.new_flows_per_second, Some(20.0));
    assert_eq!(finance.drops_per_second, Some(5.0));
    let backend = now
        .backends
        .iter()
        .find(|backend| backend.failures_per_second > Some(0.0))
        .unwrap();
    assert_eq!(
        (backend.failures_per_second, backend.inbound.packets_per_second),
        (Some(2.0), Some(1_500.0))
    );
    assert_eq!(now.status.totals.inbound.packets_per_second, Some(2_500.0));
    let busy = now.status.workers[0].busy_ratio.unwrap();
    assert!((busy - 0.5).abs() < 1e-9, "{busy}");
}

#[test]
fn rates_are_unknown_after_a_restart_of_new_objects_and_of_counters_that_began_anew() {
    let before = first();
    let mut restarted = second();
    restarted.status.start_time = restarted.time;
    let restarted = restarted.since(Some(&before));
    assert_eq!(restarted.window_seconds, None);
    assert_eq!(restarted.status.totals.drops_per_second, None);

    let mut changed = second();
    changed.services[0].name = "new".to_owned();
    changed.services[1].flows_opened_total = 0;
    let changed = changed.since(Some(&before));
    assert_eq!(changed.services[0].new_flows_per_second, None);
    assert_eq!(changed.services[0].drops_per_second, None);
    assert_eq!(changed.services[1].new_flows_per_second, None);
    assert_eq!(changed.services[1].drops_per_second, Some(0.0));
}

#[test]
fn rows_are_sorted_reversed_and_filtered() {
    let shown = shown();
    let keys = |state: &State| rows::keys(&shown.now, state);
    assert_eq!(keys(&state()), ["ledger", "dns", "finance"], "the worst first");
    let named = State {
        order: Order::Name,
        ..state()
    };
    assert_eq!(keys(&named), ["dns", "finance", "ledger"]);
    assert_eq!(
        keys(&State {
            reverse: true,
            ..named
        }),
        ["ledger", "finance", "dns"]
    );
    for order in [Order::Flows, Order::New, Order::Pps, Order::Drops] {
        assert_eq!(keys(&State { order, ..state() })[0], "finance", "{order:?}");
    }
    let filtered = State {
        filter: "FIN".to_owned(),
        ..state()
    };
    assert_eq!(keys(&filtered), ["finance"]);
    let backends = State {
        pane: Pane::Backends,
        ..filtered
    };
    assert!(keys(&backends).iter().all(|key| key.starts_with("finance ")));
    let by_failures = State {
        pane: Pane::Backends,
        order: Order::Drops,
        ..state()
    };
    let most = shown
        .now
        .backends
        .iter()
        .find(|backend| backend.failures_per_second > Some(0.0))
        .unwrap();
    assert_eq!(keys(&by_failures)[0], rows::key(most));
}

#[test]
fn states_are_words_and_colours_can_be_off() {
    let shown = shown();
    let state = state();
    let colors = |color: bool| {
        let mut screen = screen(&state, &shown);
        screen.view.color = color;
        let backend = drawn(&screen, 160, 24);
        assert!(text(&backend).contains("  down  "));
        let cells = backend.buffer().content();
        [Color::Red, Color::Yellow, Color::Green].map(|color| cells.iter().any(|cell| cell.fg == color))
    };
    assert_eq!(colors(true), [true, true, true]);
    assert_eq!(colors(false), [false, false, false]);
}

#[test]
fn unchanged_numbers_are_dim_and_the_highlighted_row_is_marked() {
    let shown = shown();
    let state = state();
    let backend = drawn(&screen(&state, &shown), 160, 24);
    let buffer = backend.buffer();
    let text = text(&backend);
    let (y, line) = text
        .lines()
        .enumerate()
        .find(|(_, line)| line.contains("finance "))
        .unwrap();
    let dim = |part: &str| {
        let x = line.find(part).unwrap() + part.len() - 1;
        let (x, y) = (u16::try_from(x).unwrap(), u16::try_from(y).unwrap());
        buffer[(x, y)].modifier.contains(Modifier::DIM)
    };
    assert!(dim("1/2"), "{line}");
    assert!(!dim("1.0k") && !dim("finance"), "{line}");
    let marked: Vec<_> = text.lines().filter(|line| line.starts_with("> ")).collect();
    assert_eq!(marked.len(), 1);
    assert!(marked[0].starts_with("> ledger"));
}

#[test]
fn a_balancer_that_is_gone_is_said_in_words_over_the_last_state() {
    let shown = shown();
    let state = state();
    let gone = Gone {
        since: shown.now.time,
        error: "balancer not running or still starting (/run/vl3-lb/admin.sock)".to_owned(),
    };
    let mut screen = screen(&state, &shown);
    screen.gone = Some(&gone);
    screen.now = Time(shown.now.time.0 + Duration::from_secs(12));
    let backend = drawn(&screen, 160, 24);
    let text = text(&backend);
    let first = text.lines().next().unwrap();
    assert!(
        first.starts_with("GONE 12s   balancer not running or still starting"),
        "{first}"
    );
    assert!(
        first.contains(&format!("below is the state of {}", shown.now.time)),
        "{first}"
    );
    assert!(text.contains("ledger"));
    let last = &backend.buffer()[(2, 22)];
    assert!(last.modifier.contains(Modifier::DIM));
    screen.shown = None;
    let text = text_of(&screen, 80, 24);
    assert!(text.starts_with("GONE 12s") && !text.contains("ledger"), "{text}");
    screen.gone = None;
    assert!(text_of(&screen, 80, 24).starts_with("waiting for the balancer"));
}

/// No size panics, and the state stays readable as long as there is room for a name.
#[test]
fn a_terminal_of_any_size_shows_what_fits() {
    let shown = shown();
    for pane in [Pane::Services, Pane::Backends] {
        let state = State {
            pane,
            workers: true,
            ..state()
        };
        let screen = screen(&state, &shown);
        for width in [1, 2, 3, 5, 8, 13, 20, 30, 40, 47, 60, 80, 109, 110, 180] {
            for height in [1, 2, 3, 5, 8, 12, 16, 24, 40] {
                let text = text_of(&screen, width, height);
                if width >= 40 && height >= 24 {
                    for word in ["DEGRADED", "STATE", " down"] {
                        assert!(text.contains(word), "{width}x{height}: no {word}:\n{text}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_long_list_scrolls_to_the_highlighted_row() {
    let mut shown = shown();
    let one = shown.now.services[0].clone();
    shown.now.services = (0..500)
        .map(|number| crate::api::Service {
            name: format!("service-{number:03}"),
            ..one.clone()
        })
        .collect();
    let mut state = state();
    let keys = rows::keys(&shown.now, &state);
    let page = screen(&state, &shown).page(ratatui::layout::Rect::new(0, 0, 160, 24));
    state.press(KeyEvent::from(KeyCode::PageDown), &keys, page);
    let text = text_of(&screen(&state, &shown), 160, 24);
    assert!(text.contains(&format!("> service-{page:03}")), "{text}");
    state.press(KeyEvent::from(KeyCode::End), &keys, page);
    let text = text_of(&screen(&state, &shown), 160, 24);
    assert!(
        text.contains("> service-499") && text.contains("services 500 of 500"),
        "{text}"
    );
}

#[test]
fn flags_that_top_cannot_follow_are_refused() {
    use clap::Parser;

    let refused = |line: &str| {
        let cli = crate::cli::args::Cli::parse_from(line.split(' '));
        let crate::cli::args::Command::Top(args) = &cli.command else {
            panic!("{line}")
        };
        validate(args, &cli.global).err().map(|failure| failure.error)
    };
    assert_eq!(refused("vl3-lb top -b -n 3 -d 500ms"), None);
    assert_eq!(refused("vl3-lb top -b -o wide"), None);
    assert_eq!(
        refused("vl3-lb top -b -o jsonl").as_deref(),
        Some("top: shows no JSON")
    );
    for line in [
        "vl3-lb top -b -w",
        "vl3-lb top -n 3",
        "vl3-lb top -b -n 0",
        "vl3-lb top -d 10ms",
        "vl3-lb top -d 2h",
    ] {
        assert!(
            crate::cli::args::Cli::try_parse_from(line.split(' ')).is_err(),
            "{line}"
        );
    }
}
