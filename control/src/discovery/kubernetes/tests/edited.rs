//! Edits of the file of services.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::following::{Following, seen};
use super::*;
use crate::discovery::{Desired, SourceStatus};
use crate::kubernetes::testing::{ApiServer, Cut};

/// A file of services, and a source that follows it and namespace `web`.
struct Edited {
    following: Following,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Edited {
    /// With FINANCE in the file, pod `a` of app finance and pod `b` of tier ledger.
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lb.yaml");
        let server = ApiServer::start().await;
        server.apply(&ready("a", "10.0.0.1"));
        server.apply(&with(
            ready("b", "10.0.0.2"),
            "/metadata/labels",
            json!({"tier": "ledger"}),
        ));
        write(&path, FINANCE);
        let mut following = Following::start(server, config("{}", FINANCE), Some(path.clone()));
        following.backends(&["10.0.0.1"]).await;
        Self {
            following,
            path,
            _directory: directory,
        }
    }

    fn edit(&self, service: &str) {
        write(&self.path, service);
    }
}

fn write(path: &std::path::Path, service: &str) {
    fs::write(path, format!("{{discovery: kubernetes, services: [{service}]}}")).unwrap();
}

const LEDGER: &str = "{name: finance, port: 8080, targetPort: 9000, selector: {tier: ledger}}";

#[tokio::test]
async fn an_edit_of_the_file_is_applied_without_a_new_list() {
    let mut edited = Edited::start().await;
    edited.edit("{name: finance, port: 8080, targetPort: 9000, selector: {app: finance}}");
    let moved =
        |desired: &Option<Arc<Desired>>| desired.as_ref().unwrap().services[0].backends[0].port == 9000;
    seen(&mut edited.following.desired, moved).await;

    // A label that no service selected by before.
    edited.edit(LEDGER);
    edited.following.backends(&["10.0.0.2"]).await;
    assert_eq!(edited.following.server.requests("limit=").len(), 1, "one list");

    // A bad edit is the file's error, and changes nothing.
    edited.edit("{name: finance, port: 8080}");
    let refused = |status: &SourceStatus| status.error.is_some();
    seen(&mut edited.following.file, refused).await;
    assert!(edited.following.status.borrow().synced);
    edited.following.backends(&["10.0.0.2"]).await;
}

#[tokio::test]
async fn an_edit_of_selectors_is_applied_while_the_server_is_away() {
    let mut edited = Edited::start().await;
    edited.following.synced().await;
    edited.following.server.disappear().await;
    edited.following.error().await;
    edited.edit(LEDGER);
    edited.following.backends(&["10.0.0.2"]).await;

    edited.following.server.listen().await;
    let other = ready("c", "10.0.0.3");
    edited
        .following
        .server
        .apply(&with(other, "/metadata/labels", json!({"tier": "ledger"})));
    edited.following.backends(&["10.0.0.2", "10.0.0.3"]).await;
    edited.following.synced().await;
}

#[tokio::test]
async fn an_edit_is_applied_while_the_credentials_are_refused() {
    let mut edited = Edited::start().await;
    edited.following.server.watching(1).await;
    edited.following.server.demand("another token");
    edited.following.server.cut(Cut::Orderly);
    let error = edited.following.error().await;
    assert!(error.contains("does not accept the credentials"), "{error}");
    // The credentials are read again, and everything is listed with them.
    edited.following.server.requested("limit=", 2).await;
    edited.edit(LEDGER);
    edited.following.backends(&["10.0.0.2"]).await;
    assert!(!edited.following.status.borrow().synced);
}
