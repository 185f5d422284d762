//! The signals that a running balancer follows.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The action of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// SIGTERM or SIGINT, by name.
    Stop(&'static str),
    /// SIGUSR1, as in NSM's own commands.
    LogEverything,
    /// SIGUSR2, as in NSM's own commands.
    LogAsConfigured,
}

/// A signal whose handler could not be set.
#[derive(Debug, thiserror::Error)]
#[error("handle {name}: {source}")]
pub(super) struct SignalError {
    name: &'static str,
    source: io::Error,
}

/// The signals, from [`Signals::subscribe`] on.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Takes over the signals: none that arrives from now on has its default effect or is lost.
    pub(super) fn subscribe() -> Result<Self, SignalError> {
        let subscribe = |name, kind| signal(kind).map_err(|source| SignalError { name, source });
        Ok(Self {
            terminate: subscribe("SIGTERM", SignalKind::terminate())?,
            interrupt: subscribe("SIGINT", SignalKind::interrupt())?,
            user1: subscribe("SIGUSR1", SignalKind::user_defined1())?,
            user2: subscribe("SIGUSR2", SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            Some(()) = self.terminate.recv() => Request::Stop("SIGTERM"),
            Some(()) = self.interrupt.recv() => Request::Stop("SIGINT"),
            Some(()) = self.user1.recv() => Request::LogEverything,
            Some(()) = self.user2.recv() => Request::LogAsConfigured,
            // All four are closed only when the runtime ends.
            else => std::future::pending().await,
        }
    }

    /// Waits for a signal that asks to stop; its name.
    pub(super) async fn stop(&mut self) -> &'static str {
        loop {
            if let Request::Stop(name) = self.next().await {
                return name;
            }
        }
    }
}
