//! Errors of the testbed.

use std::error::Error;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// A testbed could not be set up, or a program in it failed.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    #[error("make a network namespace: needs root; run this as root")]
    NotRoot,

    #[error("{attempt}: {cause}")]
    System {
        attempt: String,
        #[source]
        cause: io::Error,
    },

    #[error("run {program}: {cause}; is it installed?")]
    Start {
        program: String,
        #[source]
        cause: io::Error,
    },

    /// `output` is the program's standard output and error, or the end of its log.
    #[error("{program}: {status}: {output}")]
    Failed {
        program: String,
        status: ExitStatus,
        output: String,
    },

    #[error("{program} did not end within {limit:?}")]
    StillRunning { program: String, limit: Duration },
}

impl TestbedError {
    /// For `map_err`: a system call that was made for `attempt` failed.
    pub fn system<E: Into<io::Error>>(attempt: impl Into<String>) -> impl FnOnce(E) -> Self {
        let attempt = attempt.into();
        move |cause| Self::System {
            attempt,
            cause: cause.into(),
        }
    }
}

/// Panics with an error's message: for tests, which fail where they cannot run.
pub trait OrPanic<T> {
    /// The value; panics with the message of the error.
    fn or_panic(self) -> T;
}

impl<T, E: Error> OrPanic<T> for Result<T, E> {
    #[track_caller]
    fn or_panic(self) -> T {
        match self {
            Ok(value) => value,
            Err(error) => panic!("{error}"),
        }
    }
}
