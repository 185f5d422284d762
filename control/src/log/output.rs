//! Where events become lines: formatted, folded and written one after the other.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::line::{Form, Line};
use super::repeats::Repeats;

/// The last layer of the log: what its filters let through goes to `W`, unless it is folded.
#[derive(Debug)]
pub(super) struct Output<W> {
    form: Form,
    inner: Arc<Mutex<Inner<W>>>,
}

#[derive(Debug)]
struct Inner<W> {
    writer: W,
    repeats: Repeats,
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
    /// Lines in `form` to `writer`; all of them until [`Self::fold`].
    pub(super) fn new(form: Form, writer: W) -> Self {
        let repeats = Repeats::default();
        Self {
            form,
            inner: Arc::new(Mutex::new(Inner { writer, repeats })),
        }
    }

    /// From now on lines are folded, and told by [`Self::tell_due`].
    pub(super) fn fold(&self) {
        self.inner().repeats.fold();
    }

    /// Writes what is known about lines folded ten seconds ago or longer.
    pub(super) fn tell_due(&self, now: Instant) {
        let mut inner = self.inner();
        let due = inner.repeats.due(now);
        inner.write_all(&due, self.form);
    }

    /// Writes what is known about all folded lines.
    pub(super) fn tell_rest(&self, now: Instant) {
        let mut inner = self.inner();
        let rest = inner.repeats.rest(now);
        inner.write_all(&rest, self.form);
    }

    fn take(&self, code: Identifier, line: &Line, now: Instant) {
        let mut inner = self.inner();
        if inner.repeats.admit(code, line, now) {
            inner.write_all(std::slice::from_ref(line), self.form);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<W>> {
        // Nothing that is done under the lock leaves it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write> Inner<W> {
    fn write_all(&mut self, lines: &[Line], form: Form) {
        for line in lines {
            // Where nobody reads the log there is nobody to tell.
            self.writer.write_all(line.written(form).as_bytes()).ok();
        }
    }
}

impl<S: Subscriber, W: Write + Send + 'static> Layer<S> for Output<W> {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let line = Line::of(event, self.form);
        self.take(event.metadata().callsite(), &line, Instant::now());
    }
}
