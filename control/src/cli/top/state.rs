//! What the user of `top` has chosen, and how each key changes it. Pure.

use clap::ValueEnum;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// The table in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pane {
    Services,
    Backends,
}

impl Pane {
    /// The word in the argument and on the screen.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Backends => "backends",
        }
    }

    /// The other one.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Services => Self::Backends,
            Self::Backends => Self::Services,
        }
    }
}

/// The order of rows; all but `state` and `name` have the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// The worst first
    State,
    Name,
    Flows,
    /// New flows per second
    New,
    /// Packets per second from clients
    Pps,
    /// Bits per second to clients
    Bps,
    /// Drops of services, failures of backends
    Drops,
}

impl Order {
    const ALL: [Self; 7] = [
        Self::State,
        Self::Name,
        Self::Flows,
        Self::New,
        Self::Pps,
        Self::Bps,
        Self::Drops,
    ];

    /// The word in the argument and on the screen.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Name => "name",
            Self::Flows => "flows",
            Self::New => "new",
            Self::Pps => "pps",
            Self::Bps => "bps",
            Self::Drops => "drops",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL
            .iter()
            .position(|&order| order == self)
            .unwrap_or_default();
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// Identity of a row: the name of a service, or service and address of a backend.
pub(super) type Key = String;

/// A row that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opened {
    /// The backends of this service, with its drop reasons and events.
    Service(Key),
    /// All details of this backend.
    Backend(Key),
}

/// How the user ended the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Quit,
    Interrupt,
}

/// The user's choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub pane: Pane,
    pub order: Order,
    pub reverse: bool,
    /// Part of the names of the rows that are shown, in any case; empty: all.
    pub filter: String,
    /// The filter while it is typed, and the one before.
    pub typed: Option<String>,
    /// Opened rows, the innermost last.
    pub opened: Vec<Opened>,
    pub paused: bool,
    /// Whether each worker has a line.
    pub workers: bool,
    pub help: bool,
    /// The highlighted row; the first one if it is gone.
    pub selected: Option<Key>,
}

impl State {
    /// As the arguments say.
    pub(super) const fn new(pane: Pane, order: Order, filter: String) -> Self {
        Self {
            pane,
            order,
            reverse: false,
            filter,
            typed: None,
            opened: Vec::new(),
            paused: false,
            workers: false,
            help: false,
            selected: None,
        }
    }

    /// The table that is shown: an opened service has its backends.
    pub(super) fn table(&self) -> Pane {
        match self.opened.last() {
            Some(Opened::Service(_)) => Pane::Backends,
            _ => self.pane,
        }
    }

    /// The filter that is in force, as far as it is typed.
    pub(super) fn active_filter(&self) -> &str {
        self.typed.as_deref().unwrap_or(&self.filter)
    }

    /// Takes a key; `keys` are those of the rows on the screen, in their order, and `page` their number on one screen.
    pub(super) fn press(&mut self, key: KeyEvent, keys: &[Key], page: usize) -> Option<End> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(End::Interrupt);
        }
        if self.typed.is_some() {
            self.type_filter(key.code);
            return None;
        }
        match key.code {
            KeyCode::Char('q') => return Some(End::Quit),
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => self.back(),
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            _ if self.help => self.help = false,
            KeyCode::Tab | KeyCode::BackTab => {
                self.opened.clear();
                self.pane = self.pane.other();
                self.selected = None;
            }
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('1') => self.workers = !self.workers,
            KeyCode::Char('/') => self.typed = Some(self.filter.clone()),
            KeyCode::Enter | KeyCode::Right => self.open(keys),
            KeyCode::Up | KeyCode::Char('k') => self.select(keys, |at| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(keys, |at| at + 1),
            KeyCode::PageUp => self.select(keys, |at| at.saturating_sub(page)),
            KeyCode::PageDown => self.select(keys, |at| at + page),
            KeyCode::Home => self.select(keys, |_| 0),
            KeyCode::End => self.select(keys, |_| usize::MAX),
            _ => {}
        }
        None
    }

    /// The place of the highlighted row among `keys`.
    pub(super) fn place(&self, keys: &[Key]) -> usize {
        let selected = self.selected.as_ref();
        selected
            .and_then(|selected| keys.iter().position(|key| key == selected))
            .unwrap_or(0)
    }

    fn select(&mut self, keys: &[Key], place: impl Fn(usize) -> usize) {
        if let Some(last) = keys.len().checked_sub(1) {
            self.selected = Some(keys[place(self.place(keys)).min(last)].clone());
        }
    }

    fn open(&mut self, keys: &[Key]) {
        if matches!(self.opened.last(), Some(Opened::Backend(_))) {
            return;
        }
        let Some(key) = keys.get(self.place(keys)).cloned() else {
            return;
        };
        self.opened.push(match self.table() {
            Pane::Services => Opened::Service(key),
            Pane::Backends => Opened::Backend(key),
        });
        self.selected = None;
    }

    /// Closes the innermost opened row, which is highlighted again; else removes the filter.
    fn back(&mut self) {
        match self.opened.pop() {
            Some(Opened::Service(key) | Opened::Backend(key)) => self.selected = Some(key),
            None => self.filter.clear(),
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        let Some(typed) = &mut self.typed else {
            return;
        };
        match code {
            KeyCode::Char(letter) => typed.push(letter),
            KeyCode::Backspace => {
                typed.pop();
            }
            KeyCode::Enter => self.filter = self.typed.take().unwrap_or_default(),
            KeyCode::Esc => self.typed = None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::new(Pane::Services, Order::State, String::new())
    }

    fn press(state: &mut State, codes: &[KeyCode]) -> Option<End> {
        let keys = ["ledger", "dns", "finance"].map(str::to_owned);
        codes
            .iter()
            .find_map(|&code| state.press(KeyEvent::from(code), &keys, 2))
    }

    fn typed(text: &str) -> Vec<KeyCode> {
        text.chars().map(KeyCode::Char).collect()
    }

    #[test]
    fn each_key_does_what_the_help_says() {
        let mut s = state();
        assert_eq!(press(&mut s, &typed("srp1")), None);
        assert_eq!(
            (s.order, s.reverse, s.paused, s.workers),
            (Order::Name, true, true, true)
        );
        assert_eq!(press(&mut s, &typed("ssssssrp1")), None);
        assert_eq!(
            (s.order, s.reverse, s.paused, s.workers),
            (Order::State, false, false, false)
        );
        press(&mut s, &[KeyCode::Tab]);
        assert_eq!(s.pane, Pane::Backends);
        press(&mut s, &typed("?"));
        assert!(s.help);
        press(&mut s, &typed("s"));
        assert_eq!(
            (s.help, s.order),
            (false, Order::State),
            "any key closes the help, and does no more"
        );
        assert_eq!(press(&mut s, &typed("q")), Some(End::Quit));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(s.press(interrupt, &[], 1), Some(End::Interrupt));
    }

    #[test]
    fn a_filter_is_typed_taken_and_given_up() {
        let mut s = state();
        press(&mut s, &typed("/fqn"));
        assert_eq!(
            (s.active_filter(), s.filter.as_str()),
            ("fqn", ""),
            "q is a letter here"
        );
        press(
            &mut s,
            &[
                KeyCode::Backspace,
                KeyCode::Backspace,
                KeyCode::Char('i'),
                KeyCode::Enter,
            ],
        );
        assert_eq!((s.active_filter(), s.typed.is_none()), ("fi", true));
        press(&mut s, &typed("/x"));
        press(&mut s, &[KeyCode::Esc]);
        assert_eq!(s.active_filter(), "fi");
        press(&mut s, &[KeyCode::Esc]);
        assert_eq!(s.active_filter(), "");
    }

    #[test]
    fn the_highlighted_row_moves_within_the_rows_and_survives_a_new_order() {
        let mut s = state();
        for (code, want) in [
            (KeyCode::Down, "dns"),
            (KeyCode::Up, "ledger"),
            (KeyCode::Up, "ledger"),
            (KeyCode::PageDown, "finance"),
            (KeyCode::Down, "finance"),
            (KeyCode::Home, "ledger"),
            (KeyCode::End, "finance"),
            (KeyCode::PageUp, "ledger"),
        ] {
            press(&mut s, &[code]);
            assert_eq!(s.selected.as_deref(), Some(want), "{code:?}");
        }
        let others = ["dns", "ledger"].map(str::to_owned);
        assert_eq!(s.place(&others), 1);
        assert_eq!(s.place(&others[..1]), 0, "it is gone");
    }

    #[test]
    fn enter_opens_a_row_and_escape_closes_it() {
        let mut s = state();
        press(&mut s, &[KeyCode::Down, KeyCode::Enter]);
        assert_eq!(s.opened, [Opened::Service("dns".to_owned())]);
        assert_eq!(s.table(), Pane::Backends);
        let backends = ["dns 10.0.0.1:53".to_owned()];
        s.press(KeyEvent::from(KeyCode::Enter), &backends, 2);
        assert_eq!(s.opened.len(), 2);
        press(&mut s, &[KeyCode::Enter]);
        assert_eq!(s.opened.len(), 2, "a backend is the innermost");
        press(&mut s, &[KeyCode::Esc, KeyCode::Esc]);
        assert_eq!((s.opened.len(), s.selected.as_deref()), (0, Some("dns")));
        let mut empty = state();
        empty.press(KeyEvent::from(KeyCode::Enter), &[], 2);
        empty.press(KeyEvent::from(KeyCode::Down), &[], 2);
        assert_eq!(empty, state());
    }
}
