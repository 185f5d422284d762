//! Which build this is.

/// The release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The git revision that it was built from, or `unknown`.
pub const REVISION: &str = env!("VL3LB_REVISION");
/// Both, as `--version` shows them.
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("VL3LB_REVISION"), ")");
