//! The last layer of the log: formats, throttles and writes events.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::line::{Form, Line};
use super::throttle::LogThrottle;

/// Writes the events that pass the filters to `W`, unless they are suppressed.
#[derive(Debug)]
pub(super) struct Output<W> {
    form: Form,
    inner: Arc<Mutex<Inner<W>>>,
}

#[derive(Debug)]
struct Inner<W> {
    writer: W,
    throttle: LogThrottle,
}

impl<W> Clone for Output<W> {
    /// Another handle of the same output.
    fn clone(&self) -> Self {
        Self {
            form: self.form,
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<W: Write> Output<W> {
    /// Lines in `form` to `writer`; all of them until [`Self::throttle`].
    pub(super) fn new(form: Form, writer: W) -> Self {
        let throttle = LogThrottle::default();
        Self {
            form,
            inner: Arc::new(Mutex::new(Inner { writer, throttle })),
        }
    }

    /// Suppresses repeated lines from now on; [`Self::write_due`] summarizes them.
    pub(super) fn throttle(&self) {
        self.inner().throttle.enable();
    }

    /// Writes the summaries of lines that have been suppressed for ten seconds.
    pub(super) fn write_due(&self, now: Instant) {
        let mut inner = self.inner();
        let due = inner.throttle.due(now);
        inner.write_all(&due, self.form);
    }

    /// Writes the summaries of all suppressed lines.
    pub(super) fn write_rest(&self, now: Instant) {
        let mut inner = self.inner();
        let rest = inner.throttle.rest(now);
        inner.write_all(&rest, self.form);
    }

    fn write(&self, call_site: Identifier, line: &Line, now: Instant) {
        let mut inner = self.inner();
        if inner.throttle.admit(call_site, line, now) {
            inner.write_all(std::slice::from_ref(line), self.form);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<W>> {
        // Consistent after every step, so a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write> Inner<W> {
    fn write_all(&mut self, lines: &[Line], form: Form) {
        for line in lines {
            // A log that cannot be written has nowhere to report it.
            self.writer.write_all(line.written(form).as_bytes()).ok();
        }
    }
}

impl<S: Subscriber, W: Write + Send + 'static> Layer<S> for Output<W> {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let line = Line::of(event, self.form);
        self.write(event.metadata().callsite(), &line, Instant::now());
    }
}
