//! Why a command gave no result, and its exit status.

use std::io;
use std::path::PathBuf;

use vl3lb_dataplane::SetupError;
use vl3lb_testbed::TestbedError;

use crate::compare::error::CompareError;
use crate::instructions::CountError;
use crate::load::error::{LoadError, PlanError};
use crate::pipeline::PipelineError;

/// The errors of all commands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Count(#[from] CountError),
    #[error(transparent)]
    Testbed(#[from] TestbedError),
    #[error(transparent)]
    Attach(#[from] SetupError),

    #[error("{attempt}: {cause}")]
    System {
        attempt: String,
        #[source]
        cause: io::Error,
    },

    #[error("read {}: {cause}{remedy}", path.display())]
    Document {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
        remedy: &'static str,
    },

    #[error("read results in {}: there are none", .0.display())]
    NoResults(PathBuf),

    #[error("draw {name}: {cause}")]
    Plot { name: String, cause: String },

    #[error("a {0} thread panicked; see above")]
    Panicked(&'static str),
}

impl Failure {
    /// For `map_err`: a system call for `attempt` failed.
    pub(crate) fn system<E: Into<io::Error>>(attempt: impl Into<String>) -> impl FnOnce(E) -> Self {
        let attempt = attempt.into();
        move |cause| Self::System {
            attempt,
            cause: cause.into(),
        }
    }

    /// For `map_err`: the plot `name` could not be drawn.
    pub(crate) fn plot(name: &str) -> impl FnOnce(Box<dyn std::error::Error>) -> Self {
        move |cause| Self::Plot {
            name: name.to_owned(),
            cause: cause.to_string(),
        }
    }

    /// The exit status: 2 for wrong arguments as in clap, 3 for an unreachable target, else 1.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Plan(_) => 2,
            Self::Compare(error) if error.is_usage() => 2,
            Self::Load(error) if error.is_unreachable() => 3,
            _ => 1,
        }
    }
}
