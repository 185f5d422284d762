//! Golden files: the tables, JSON and metrics of one fixed report.
//!
//! `UPDATE_GOLDEN=1 cargo test -p vl3lb-control` writes them anew; the difference is for review.

use std::path::Path;

/// Compares `actual` with `control/golden/NAME`.
pub(crate) fn check(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} is not what is written now:\n{actual}\nUPDATE_GOLDEN=1 writes it anew",
        path.display()
    );
}
