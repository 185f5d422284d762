//! The signals that a running balancer follows.
//!
//! | signal | effect |
//! |---|---|
//! | SIGTERM, SIGINT, SIGQUIT | stops, after open flows had time to finish; a second one ends the wait |
//! | SIGHUP | reads the configuration file again |
//! | SIGUSR1, SIGUSR2 | logs everything, logs as configured |
//! | SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGSTKFLT | nothing but a line in the log |
//! | SIGCHLD | as the first process of a container: orphans that have ended are reaped |
//! | SIGPIPE, SIGURG, SIGWINCH, SIGCONT | nothing |
//! | all others | as the kernel has it: SIGKILL and faults end the process, SIGSTOP and SIGTSTP halt it |
//!
//! The same holds for the first process of a container (PID 1), for which the kernel would discard signals without a handler.

use std::io;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::process::{WaitOptions, getpid, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, warn};

/// The action of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// SIGTERM, SIGINT or SIGQUIT, by name.
    Stop(&'static str),
    /// SIGHUP: reads the configuration again.
    Reload,
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

/// What a handler is set for.
#[derive(Debug, Clone, Copy)]
enum Effect {
    Request(Request),
    Ignore(&'static str),
    Reap,
}

/// Names and numbers, which are the same on x86 and ARM.
const IGNORED: [(&str, i32); 6] = [
    ("SIGALRM", libc::SIGALRM),
    ("SIGVTALRM", libc::SIGVTALRM),
    ("SIGPROF", libc::SIGPROF),
    ("SIGIO", libc::SIGIO),
    ("SIGPWR", libc::SIGPWR),
    ("SIGSTKFLT", libc::SIGSTKFLT),
];

/// The signals, from [`Signals::subscribe`] on.
#[derive(Debug)]
pub(super) struct Signals(Vec<(Effect, Signal)>);

impl Signals {
    /// Takes over the signals: none that arrives from now on has its default effect or is lost.
    pub(super) fn subscribe() -> Result<Self, SignalError> {
        let requests = [
            ("SIGTERM", SignalKind::terminate(), Request::Stop("SIGTERM")),
            ("SIGINT", SignalKind::interrupt(), Request::Stop("SIGINT")),
            ("SIGQUIT", SignalKind::quit(), Request::Stop("SIGQUIT")),
            ("SIGHUP", SignalKind::hangup(), Request::Reload),
            ("SIGUSR1", SignalKind::user_defined1(), Request::LogEverything),
            ("SIGUSR2", SignalKind::user_defined2(), Request::LogAsConfigured),
        ]
        .map(|(name, kind, request)| (name, kind, Effect::Request(request)));
        let ignored =
            IGNORED.map(|(name, number)| (name, SignalKind::from_raw(number), Effect::Ignore(name)));
        // Elsewhere somebody else waits for our children, if there are any.
        let reaped = getpid()
            .is_init()
            .then(|| ("SIGCHLD", SignalKind::child(), Effect::Reap));
        let handled = requests.into_iter().chain(ignored).chain(reaped);
        let subscribe = |(name, kind, effect)| match signal(kind) {
            Ok(signal) => Ok((effect, signal)),
            Err(source) => Err(SignalError { name, source }),
        };
        handled.map(subscribe).collect::<Result<_, _>>().map(Self)
    }

    /// Waits for the next signal that asks for something. Cancel-safe.
    pub(super) async fn next(&mut self) -> Request {
        loop {
            let received = self.0.iter_mut().map(|(effect, signal)| {
                let effect = *effect;
                async move {
                    // Closed only when the runtime ends.
                    if signal.recv().await.is_none() {
                        std::future::pending::<()>().await;
                    }
                    effect
                }
            });
            let mut received: FuturesUnordered<_> = received.collect();
            match received.next().await {
                Some(Effect::Request(request)) => return request,
                Some(Effect::Ignore(name)) => warn!("{name}: ignored"),
                Some(Effect::Reap) => reap(),
                None => std::future::pending().await,
            }
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

/// Reaps all children that have ended: orphans of programs that were started in the container.
fn reap() {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        debug!("reaped process {}: {status:?}", pid.as_raw_nonzero());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal, kill_process};
    use tokio::time::timeout;

    use super::*;

    /// The signals of this process itself: in one test, as they are those of all threads.
    #[tokio::test]
    async fn each_signal_has_its_effect() {
        let mut signals = Signals::subscribe().unwrap();
        let raise = |signal| kill_process(getpid(), signal).unwrap();
        for ignored in [
            Signal::ALARM,
            Signal::VTALARM,
            Signal::PROF,
            Signal::IO,
            Signal::POWER,
            Signal::STKFLT,
            Signal::PIPE,
            Signal::URG,
            Signal::WINCH,
        ] {
            raise(ignored);
            let nothing = timeout(Duration::from_millis(20), signals.next()).await;
            assert!(nothing.is_err(), "{ignored:?}: {nothing:?}");
        }
        for (signal, request) in [
            (Signal::HUP, Request::Reload),
            (Signal::USR1, Request::LogEverything),
            (Signal::USR2, Request::LogAsConfigured),
            (Signal::TERM, Request::Stop("SIGTERM")),
            (Signal::INT, Request::Stop("SIGINT")),
            (Signal::QUIT, Request::Stop("SIGQUIT")),
        ] {
            raise(signal);
            let next = timeout(Duration::from_secs(20), signals.next()).await;
            assert_eq!(next, Ok(request));
        }
        // A reload is no second request to stop.
        raise(Signal::HUP);
        raise(Signal::TERM);
        assert_eq!(
            timeout(Duration::from_secs(20), signals.stop()).await,
            Ok("SIGTERM")
        );
    }
}
