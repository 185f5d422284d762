//! `top` on a terminal: samples, keys and signals change what is shown, until the user or a signal ends it.

use std::io::Stdout;
use std::panic::resume_unwind;
use std::time::Duration;

use crossterm::event::{Event, EventStream};
use futures_util::StreamExt;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::rows;
use super::sample::Sample;
use super::screen::{Gone, Screen, Shown};
use super::state::{End, State};
use crate::api::Time;
use crate::cli::client::Client;
use crate::cli::exit::{Failure, FailureKind};
use crate::cli::view::View;

/// How often the age of what is gone is drawn anew.
const REDRAW: Duration = Duration::from_secs(1);

/// Shows samples until the user quits or a signal arrives. The terminal is as before afterwards, in every case.
pub(super) async fn run(client: &Client, state: State, delay: Duration, view: View) -> Result<(), Failure> {
    // Before the terminal changes, so that no signal leaves it changed.
    let mut signals = Signals::new()?;
    let mut terminal = Screened::new()?;
    let mut session = Session {
        state,
        shown: None,
        held: None,
        gone: None,
        view,
    };
    let (send, mut samples) = mpsc::channel(1);
    let mut sampler = tokio::spawn(sample(client.clone(), delay, send));
    let mut events = EventStream::new();
    let mut redraw = interval(REDRAW);
    let end = loop {
        if let Err(error) = terminal.0.draw(|frame| session.screen().draw(frame)) {
            break Err(error.into());
        }
        tokio::select! {
            end = signals.next() => break Err(end),
            Some(answer) = samples.recv() => session.take(answer),
            _ = redraw.tick() => {}
            // The terminal is not ours any more: the hook has restored it.
            Err(failed) = &mut sampler => resume_unwind(failed.into_panic()),
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) => {
                    let size = terminal.0.size().unwrap_or_default();
                    let page = session.screen().page(size.into());
                    let keys = session.keys();
                    match session.state.press(key, &keys, page) {
                        Some(End::Quit) => break Ok(()),
                        Some(End::Interrupt) => break Err(Failure::new(FailureKind::Interrupted, "")),
                        None => session.pause(),
                    }
                }
                // A change of the size, which the next drawing asks for.
                Some(Ok(_)) => {}
                Some(Err(error)) => break Err(error.into()),
                // The terminal is closed.
                None => break Ok(()),
            },
        }
    };
    sampler.abort();
    end
}

/// Samples the balancer each `delay`, until nobody reads.
async fn sample(client: Client, delay: Duration, send: mpsc::Sender<Result<Sample, Failure>>) {
    let mut ticks = interval(delay);
    // Rates are over the true time between two samples.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if send.send(Sample::fetch(&client).await).await.is_err() {
            return;
        }
    }
}

/// What is known and chosen.
struct Session {
    state: State,
    shown: Option<Shown>,
    /// What stands still during a pause.
    held: Option<Shown>,
    gone: Option<Gone>,
    view: View,
}

impl Session {
    fn visible(&self) -> Option<&Shown> {
        self.held.as_ref().or(self.shown.as_ref())
    }

    fn screen(&self) -> Screen<'_> {
        Screen {
            state: &self.state,
            shown: self.visible(),
            gone: self.gone.as_ref(),
            now: Time::now(),
            view: self.view,
        }
    }

    fn keys(&self) -> Vec<String> {
        self.visible()
            .map(|shown| rows::keys(&shown.now, &self.state))
            .unwrap_or_default()
    }

    /// Holds what is shown while the user pauses.
    fn pause(&mut self) {
        match (self.state.paused, &self.held) {
            (true, None) => self.held.clone_from(&self.shown),
            (false, Some(_)) => self.held = None,
            _ => {}
        }
    }

    fn take(&mut self, answer: Result<Sample, Failure>) {
        match answer {
            Ok(sample) => {
                self.gone = None;
                let before = self.shown.take().map(|shown| shown.now);
                let now = sample.since(before.as_ref());
                self.shown = Some(Shown { now, before });
            }
            Err(failure) => {
                let since = self.gone.take().map_or_else(Time::now, |gone| gone.since);
                self.gone = Some(Gone {
                    since,
                    error: failure.error,
                });
            }
        }
    }
}

/// The signals that end a program at a terminal.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them.
    async fn next(&mut self) -> Failure {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => FailureKind::Interrupted,
            _ = self.terminate.recv() => FailureKind::Terminated,
            _ = self.hangup.recv() => FailureKind::Terminated,
        };
        Failure::new(kind, "")
    }
}

/// The terminal in raw mode, with the screen of its own that programs in full screen have. Dropping it restores what was; so
/// does a panic before it is reported (ratatui's hook).
struct Screened(Terminal<CrosstermBackend<Stdout>>);

impl Screened {
    fn new() -> std::io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screened {
    fn drop(&mut self) {
        // The terminal may be gone, and then there is nothing to restore.
        self.0.show_cursor().ok();
        // To leave the other screen twice would move the cursor to where it was before, above the report of a panic.
        if !std::thread::panicking() {
            ratatui::try_restore().ok();
        }
    }
}
