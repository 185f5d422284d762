//! A server that refuses.

use std::fs;

use super::following::Following;
use super::*;
use crate::kubernetes::testing::{ApiServer, Cut, Reply};

#[tokio::test]
async fn a_refused_list_is_reported_until_it_is_allowed() {
    for (code, expected) in [
        (
            403,
            "list pods in namespace web: forbidden (it is Forbidden); allow this service account to list \
             and watch pods there",
        ),
        (
            401,
            "list pods in namespace web: the API server does not accept the credentials (it is Unauthorized); is \
             the token of this service account still valid?",
        ),
    ] {
        let server = ApiServer::start().await;
        server.apply(&ready("a", "10.0.0.1"));
        server.reply("list", "web", Reply::Refused(code));
        let mut following = Following::start(server, config("{}", FINANCE), None);
        assert_eq!(following.error().await, expected);
        following.status(|status| status.errors.total() >= 2).await;
        assert_eq!(*following.desired.borrow(), None);
        following.server.reply("list", "web", Reply::Good);
        following.backends(&["10.0.0.1"]).await;
        following.synced().await;
    }
}

#[tokio::test]
async fn a_refused_namespace_does_not_stop_updates_of_another() {
    let server = ApiServer::start().await;
    server.apply(&ready("a", "10.0.0.1"));
    let mut following = Following::start(server, config("{namespaces: [web, api]}", FINANCE_OF_ALL), None);
    following.backends(&["10.0.0.1"]).await;
    following.server.watching(2).await;
    following.server.reply("list", "/api/pods", Reply::Refused(403));
    following.server.apply(&ready("b", "10.0.0.2"));
    following.server.compact(true);
    following.server.cut(Cut::Orderly);
    let error = following.error().await;
    assert!(
        error.starts_with("list pods in namespace api: forbidden"),
        "{error}"
    );
    following.server.apply(&ready("c", "10.0.0.3"));
    following.backends(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]).await;
    assert!(following.error().await.contains("namespace api"));
}

#[tokio::test]
async fn a_new_token_is_read_after_the_old_one_expired() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    fs::write(&path, "old").unwrap();
    let server = ApiServer::start().await;
    server.apply(&ready("a", "10.0.0.1"));
    server.demand("old");
    let mut client = server.config();
    client.auth_info.token_file = Some(path.display().to_string());
    let mut following = Following::start_with(server, client, config("{}", FINANCE), None, |source| source);
    following.backends(&["10.0.0.1"]).await;
    following.server.watching(1).await;

    following.server.demand("new");
    following.server.cut(Cut::Orderly);
    let error = following.error().await;
    assert!(error.contains("does not accept the credentials"), "{error}");
    following.backends(&["10.0.0.1"]).await;
    fs::write(&path, "new").unwrap();
    following.server.apply(&ready("b", "10.0.0.2"));
    following.backends(&["10.0.0.1", "10.0.0.2"]).await;
    following.synced().await;
}
