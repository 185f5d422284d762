//! The lines above the table of `top`: the verdict, totals, the busiest worker, and what is shown.

use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::rows;
use super::sample::Sample;
use super::screen::Screen;
use super::state::{Opened, State};
use crate::api::Worker;
use crate::cli::status;
use crate::cli::table::Tone;
use crate::number::{Digits, UNKNOWN, age, percent};
use crate::summary::direction;

/// Between two parts of a line.
const GAP: &str = "   ";

/// Text with its meaning.
type Part = (String, Tone);

/// The lines, each no longer than `width` where its parts allow.
pub(super) fn lines(screen: &Screen<'_>, width: u16) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Some((age, error)) = screen.gone_for() {
        let last = screen.shown.map_or_else(String::new, |shown| {
            format!("; below is the state of {}", shown.now.time)
        });
        lines.extend(packed(
            screen,
            &[
                (format!("GONE {age}"), Tone::Bad),
                (format!("{error}{last}"), Tone::Plain),
            ],
            width,
        ));
    }
    let Some(shown) = screen.shown else {
        if screen.gone.is_none() {
            lines.push("waiting for the balancer".into());
        }
        return lines;
    };
    lines.extend(packed(screen, &verdict(&shown.now, screen.view.digits), width));
    if screen.state.workers {
        let digits = screen.view.digits;
        lines.extend(shown.now.status.workers.iter().map(|w| worker(w, digits).into()));
    }
    lines.extend(packed(screen, &context(&shown.now, screen.state), width));
    lines
}

/// The verdict and totals.
pub(super) fn verdict(sample: &Sample, digits: Digits) -> Vec<Part> {
    let status = &sample.status;
    let totals = &status.totals;
    let mut parts = vec![
        (status.instance.clone(), Tone::Plain),
        (status.verdict().name().to_owned(), status::tone(status.verdict())),
    ];
    if let Some(reason) = &status.not_ready_reason {
        parts.push((reason.clone(), Tone::Plain));
    }
    let plain = [
        format!("up {}", age(sample.time.since(status.start_time))),
        direction("in", totals.inbound, digits),
        direction("out", totals.outbound, digits),
        format!(
            "drops {}/s ({})",
            digits.rate(totals.drops_per_second),
            percent(totals.drop_ratio)
        ),
        format!(
            "flows {} of {}",
            digits.count(totals.flows),
            digits.count(totals.flow_capacity)
        ),
        busiest(&status.workers),
    ];
    parts.extend(plain.into_iter().map(|text| (text, Tone::Plain)));
    parts
}

fn busiest(workers: &[Worker]) -> String {
    let busy = |worker: &&Worker| worker.busy_ratio.is_some();
    let busiest = workers.iter().filter(busy).max_by(|a, b| {
        let ratio = |worker: &Worker| worker.busy_ratio.unwrap_or_default();
        ratio(a).total_cmp(&ratio(b))
    });
    match busiest {
        Some(worker) => format!("busiest worker {} {}", worker.id, percent(worker.busy_ratio)),
        None => format!("busiest worker {UNKNOWN}"),
    }
}

/// One worker: `worker 0  core 2  busy 31%  31 packets a burst  24.1k of 524k flows`.
pub(super) fn worker(worker: &Worker, digits: Digits) -> String {
    let core = worker
        .core
        .map_or_else(|| UNKNOWN.to_owned(), |core| core.to_string());
    format!(
        "worker {}  core {core}  busy {}  {} packets a burst  {} of {} flows",
        worker.id,
        percent(worker.busy_ratio),
        digits.rate(worker.packets_per_burst),
        digits.count(worker.flow_table_entries),
        digits.count(worker.flow_table_capacity)
    )
}

/// What the table shows: `services 3 of 3   sort state   rates over 1.0s`.
fn context(sample: &Sample, state: &State) -> Vec<Part> {
    let table = state.table();
    let filter = state.active_filter();
    let shown = rows::keys(sample, state).len();
    let mut parts = Vec::new();
    match state.opened.last() {
        Some(Opened::Service(name)) => parts.push(format!("service {name}")),
        Some(Opened::Backend(key)) => parts.push(format!("backend {key}")),
        None => {}
    }
    if !matches!(state.opened.last(), Some(Opened::Backend(_))) {
        parts.push(format!(
            "{} {shown} of {}",
            table.name(),
            rows::count(sample, state)
        ));
        let reverse = if state.reverse { " reversed" } else { "" };
        parts.push(format!("sort {}{reverse}", state.order.name()));
    }
    if !filter.is_empty() {
        parts.push(format!("filter \"{filter}\""));
    }
    parts.push(match sample.window_seconds {
        Some(seconds) => format!("rates over {seconds:.1}s"),
        None => "rates from the next sample on".to_owned(),
    });
    let mut parts: Vec<_> = parts.into_iter().map(|text| (text, Tone::Plain)).collect();
    if state.paused {
        parts.push((format!("PAUSED at {}", sample.time), Tone::Warning));
    }
    parts
}

/// Puts the parts on as many lines as they need; words of one part stay together.
fn packed(screen: &Screen<'_>, parts: &[Part], width: u16) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    for (text, tone) in parts {
        let used = lines.last().map_or(0, Line::width);
        let needed = GAP.len() + text.chars().count();
        if used > 0 && used + needed > usize::from(width) {
            lines.push(Line::default());
        } else if used > 0
            && let Some(line) = lines.last_mut()
        {
            line.push_span(GAP);
        }
        let mut style = screen.style(*tone);
        if *tone != Tone::Plain {
            style = style.add_modifier(Modifier::BOLD);
        }
        if let Some(line) = lines.last_mut() {
            line.push_span(Span::styled(text.clone(), style));
        }
    }
    lines
}
