//! The screen of `top`: a pure function of two samples and the user's choices.

use std::collections::HashMap;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::detail;
use super::head;
use super::rows::{self, Fit};
use super::sample::Sample;
use super::state::{Opened, State};
use crate::api::Time;
use crate::cli::table::{Align, Tone};
use crate::cli::view::View;
use crate::number::age;

/// Lines of the parts at the bottom, with their headings.
const BOTTOM: u16 = 6;
/// From this width on, drops and events are side by side.
const SIDE_BY_SIDE: u16 = 110;
/// The table has at least so many lines before there is a bottom.
const TABLE: u16 = 5;

const KEYS: &str =
    "q quit  Tab pane  s sort  r reverse  / filter  Enter open  Esc back  p pause  1 workers  ? help";

const HELP: [&str; 15] = [
    "Tab          services or backends",
    "Up, Down     highlight a row (also k and j, Page Up and Down, Home, End)",
    "Enter        open it: a service with its backends, drop reasons and events, or all about a backend",
    "Esc          close it, or remove the filter",
    "s            next sort key: state, name, flows, new, pps, bps, drops (failures of backends)",
    "r            reverse the order",
    "/            show only names with this part: Enter takes it, Esc gives it up",
    "p            pause: the screen stands still, the balancer goes on",
    "1            one line per worker",
    "q            quit; Ctrl-C too, with exit status 130",
    "?            this help; any key closes it",
    "",
    "Rates are those since the sample before; - is unknown, as in the first sample and of new objects.",
    "Numbers that have not changed are dim. In and out are directions as clients see the service:",
    "in is from client to backend, out the reply.",
];

/// A sample and the one before.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub now: Sample,
    pub before: Option<Sample>,
}

/// The balancer does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone {
    pub since: Time,
    pub error: String,
}

/// What is on the screen.
#[derive(Debug)]
pub(super) struct Screen<'a> {
    pub state: &'a State,
    /// `None` before the first answer.
    pub shown: Option<&'a Shown>,
    pub gone: Option<&'a Gone>,
    /// The time here, for the age of what is gone.
    pub now: Time,
    pub view: View,
}

impl Screen<'_> {
    /// Draws everything. Terminals of any size get what fits.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let head = head::lines(self, area.width);
        let height = u16::try_from(head.len()).unwrap_or(u16::MAX);
        let bottom = self.bottom(area, height);
        let [top, middle, low, keys] = Layout::vertical([
            Constraint::Length(height),
            Constraint::Fill(1),
            Constraint::Length(bottom),
            Constraint::Length(1),
        ])
        .areas(area);
        put(frame, top, head);
        if self.state.help {
            put(frame, middle, HELP.iter().map(|&line| line.into()).collect());
        } else if let Some(shown) = self.shown {
            let lines = match self.state.opened.last() {
                Some(Opened::Backend(key)) => detail::backend(&shown.now, key, self.view),
                _ => self.table(shown, middle),
            };
            put(frame, middle, lines);
            self.draw_bottom(frame, low, &shown.now);
        }
        put(frame, keys, vec![self.footer()]);
        if self.gone.is_some() {
            // What is shown is the past.
            let rest = Rect {
                y: area.y + top.height,
                height: area.height.saturating_sub(top.height),
                ..area
            };
            frame.buffer_mut().set_style(rest, Modifier::DIM);
        }
    }

    /// Rows of the table that are on the screen at a time.
    pub(super) fn page(&self, area: Rect) -> usize {
        let head = u16::try_from(head::lines(self, area.width).len()).unwrap_or(u16::MAX);
        let taken = head.saturating_add(self.bottom(area, head)).saturating_add(2);
        usize::from(area.height.saturating_sub(taken)).max(1)
    }

    /// The lines of drops and events: as many as leave room for the table.
    fn bottom(&self, area: Rect, head: u16) -> u16 {
        let room = area.height.saturating_sub(head + 1);
        let wanted = if area.width >= SIDE_BY_SIDE {
            BOTTOM
        } else {
            2 * BOTTOM
        };
        [wanted, BOTTOM]
            .into_iter()
            .find(|lines| room >= lines + TABLE)
            .filter(|_| !self.state.help)
            .unwrap_or(0)
    }

    fn draw_bottom(&self, frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
        if area.height == 0 {
            return;
        }
        let drops = detail::drops(sample, self.state, self.view);
        let events = detail::events(sample, self.state, self);
        if area.width >= SIDE_BY_SIDE {
            let [left, right] = Layout::horizontal([Constraint::Length(42), Constraint::Fill(1)]).areas(area);
            put(frame, left, drops);
            put(frame, right, events);
        } else if area.height > BOTTOM {
            let [upper, lower] =
                Layout::vertical([Constraint::Length(BOTTOM), Constraint::Fill(1)]).areas(area);
            put(frame, upper, drops);
            put(frame, lower, events);
        } else {
            put(frame, area, events);
        }
    }

    fn table(&self, shown: &Shown, area: Rect) -> Vec<Line<'static>> {
        let columns = rows::columns(self.state, self.view);
        let rows = rows::rows(&shown.now, self.state, self.view);
        let before: HashMap<_, _> = shown
            .before
            .iter()
            .flat_map(|before| rows::rows(before, self.state, self.view))
            .map(|row| (row.key, row.cells))
            .collect();
        // Room for the mark of the highlighted row.
        let fit = Fit::new(&columns, &rows, usize::from(area.width).saturating_sub(2));
        let mut heading = String::from("  ");
        for (place, &(index, _)) in fit.columns.iter().enumerate() {
            heading.push_str(&fit.padded(place, columns[index].heading(), columns[index].align()));
        }
        let heading = Line::styled(heading, Modifier::BOLD);
        let keys: Vec<_> = rows.iter().map(|row| row.key.clone()).collect();
        let selected = self.state.place(&keys);
        let visible = usize::from(area.height).saturating_sub(1).max(1);
        let first = selected.saturating_sub(visible - 1);
        let lines = rows
            .iter()
            .enumerate()
            .skip(first)
            .take(visible)
            .map(|(number, row)| {
                let earlier = before.get(&row.key);
                let mut spans = vec![Span::raw(if number == selected { "> " } else { "  " })];
                for (place, &(index, _)) in fit.columns.iter().enumerate() {
                    let (cell, column) = (&row.cells[index], &columns[index]);
                    let mut style = self.style(cell.tone());
                    let unchanged = earlier.is_some_and(|earlier| earlier[index].text() == cell.text());
                    if unchanged && column.align() == Align::Right {
                        style = style.add_modifier(Modifier::DIM);
                    }
                    spans.push(Span::styled(
                        fit.padded(place, cell.text(), column.align()),
                        style,
                    ));
                }
                let line = Line::from(spans);
                if number == selected {
                    line.style(Modifier::REVERSED)
                } else {
                    line
                }
            });
        std::iter::once(heading).chain(lines).collect()
    }

    fn footer(&self) -> Line<'static> {
        match &self.state.typed {
            Some(typed) => Line::from(format!("filter: {typed}_   Enter take  Esc give up")),
            None => Line::styled(KEYS, Modifier::DIM),
        }
    }

    /// The style of a meaning: none without colours.
    pub(super) fn style(&self, tone: Tone) -> Style {
        let color = match tone {
            Tone::Plain => return Style::new(),
            Tone::Good => Color::Green,
            Tone::Warning => Color::Yellow,
            Tone::Bad => Color::Red,
        };
        if self.view.color {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    }

    /// How long the balancer has been gone.
    pub(super) fn gone_for(&self) -> Option<(String, &str)> {
        let gone = self.gone?;
        Some((age(self.now.since(gone.since)), gone.error.as_str()))
    }
}

fn put(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>) {
    for (line, row) in lines.into_iter().zip(area.rows()) {
        frame.render_widget(line, row);
    }
}
