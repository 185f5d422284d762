//! The signals that a running balancer follows.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// SIGTERM or SIGINT, by name: come to an end.
    End(&'static str),
    /// SIGUSR1, as in NSM's own commands.
    LogEverything,
    /// SIGUSR2, as in NSM's own commands.
    LogAsConfigured,
}

/// The signals, from [`Signals::listen`] on.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Takes over the signals: none that arrives from now on has its default effect or is lost.
    ///
    /// Errors: which signal, and why not.
    pub(crate) fn listen() -> Result<Self, String> {
        let listen = |name: &str, kind| signal(kind).map_err(|error| format!("listen to {name}: {error}"));
        Ok(Self {
            terminate: listen("SIGTERM", SignalKind::terminate())?,
            interrupt: listen("SIGINT", SignalKind::interrupt())?,
            user1: listen("SIGUSR1", SignalKind::user_defined1())?,
            user2: listen("SIGUSR2", SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal. Cancelling loses none.
    pub(crate) async fn next(&mut self) -> Wish {
        tokio::select! {
            Some(()) = self.terminate.recv() => Wish::End("SIGTERM"),
            Some(()) = self.interrupt.recv() => Wish::End("SIGINT"),
            Some(()) = self.user1.recv() => Wish::LogEverything,
            Some(()) = self.user2.recv() => Wish::LogAsConfigured,
            // All four are closed only when the runtime ends.
            else => std::future::pending().await,
        }
    }

    /// Waits for a signal that asks for the end; its name.
    pub(crate) async fn end(&mut self) -> &'static str {
        loop {
            if let Wish::End(name) = self.next().await {
                return name;
            }
        }
    }
}
