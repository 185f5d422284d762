//! Errors of `instructions`.

use std::io;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CountError {
    #[error("count instructions: valgrind is not installed (Debian: valgrind)")]
    NoValgrind,

    #[error("count instructions: a debug build is not the product; build with --release")]
    DebugBuild,

    #[error("count instructions of {kind}: {cause}")]
    Run {
        kind: String,
        #[source]
        cause: io::Error,
    },

    #[error("count instructions of {kind}: valgrind failed: {output}")]
    Failed { kind: String, output: String },

    #[error("count instructions of {kind}: no call of {function} was counted; was it renamed?")]
    Nothing { kind: String, function: &'static str },
}
