use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::nsm::testing::{Authority, FakeWorkloadApi, Issued, Key, Leaf as NewLeaf, message};

const CLIENT: &str = "spiffe://k8s.nsm/ns/test/pod/c1";

struct Agent {
    authority: Authority,
    api: FakeWorkloadApi,
    identity: Identity,
    folder: tempfile::TempDir,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let api = FakeWorkloadApi::start(&folder.path().join("agent.sock"));
        let (identity, client) = Identity::new(&api.url()).unwrap();
        tokio::spawn(client.run());
        Self {
            authority: Authority::new("k8s.nsm"),
            api,
            identity,
            folder,
        }
    }

    fn message(&self) -> X509svidResponse {
        message(&self.authority.issue(CLIENT), &[&self.authority])
    }

    async fn until(&mut self, wanted: impl Fn(&IdentityStatus) -> bool) -> IdentityStatus {
        loop {
            let status = self.identity.status();
            if wanted(&status) {
                return status;
            }
            self.identity.changed().await;
        }
    }
}

#[tokio::test]
async fn the_first_message_is_the_identity() {
    let agent = Agent::start();
    assert_eq!(agent.identity.status(), IdentityStatus::default());
    assert!(agent.identity.current().is_none());
    agent.api.send(agent.message());
    let context = agent.identity.context().await;
    let leaf = context.svid.leaf();
    assert_eq!(leaf.id.to_string(), CLIENT);
    assert!(context.bundles.roots(&leaf.id).is_some());
    let life = leaf.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(
        life > Duration::from_secs(3590) && life <= Duration::from_secs(3600),
        "{life:?}"
    );
    let status = agent.identity.status();
    assert_eq!(status.spiffe_id.as_deref(), Some(CLIENT));
    assert_eq!(status.expires, Some(leaf.not_after));
    assert_eq!(status.authorities, 1);
    assert_eq!(status.error, None);
}

#[tokio::test]
async fn rotation_replaces_svid_and_bundles() {
    let mut agent = Agent::start();
    agent.api.send(agent.message());
    let first = agent.identity.context().await;
    let second_root = Authority::new("k8s.nsm");
    let next = agent.authority.issue(CLIENT);
    agent.api.send(message(&next, &[&agent.authority, &second_root]));
    let status = agent.until(|status| status.authorities == 2).await;
    assert_eq!(status.error, None);
    let second = agent.identity.context().await;
    assert_ne!(
        first.svid.certified_key().unwrap().cert[0],
        second.svid.certified_key().unwrap().cert[0]
    );
    assert_eq!(second.svid.certified_key().unwrap().cert[0], next.certificate);
}

#[tokio::test]
async fn the_identity_outlives_the_agent_and_follows_the_next_one() {
    let mut agent = Agent::start();
    agent.api.send(agent.message());
    agent.identity.context().await;
    // A clean end of the stream.
    agent.api.end();
    let status = agent.until(|status| status.error.is_some()).await;
    assert!(status.error.unwrap().contains("ended its stream"));
    assert_eq!(status.spiffe_id.as_deref(), Some(CLIENT));
    // A broken one, and then no socket.
    let path = agent.folder.path().join("agent.sock");
    drop(std::mem::replace(
        &mut agent.api,
        FakeWorkloadApi::start(&agent.folder.path().join("other.sock")),
    ));
    std::fs::remove_file(&path).unwrap();
    let status = agent
        .until(|status| {
            status
                .error
                .as_ref()
                .is_some_and(|error| error.contains("connect to"))
        })
        .await;
    let error = status.error.unwrap();
    assert!(error.contains("SPIFFE_ENDPOINT_SOCKET: No such file"), "{error}");
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert_eq!(status.spiffe_id.as_deref(), Some(CLIENT));
    // It is back, with another SVID.
    agent.api = FakeWorkloadApi::start(&path);
    agent.api.send(message(
        &agent.authority.issue("spiffe://k8s.nsm/ns/test/pod/c2"),
        &[&agent.authority],
    ));
    let status = agent.until(|status| status.error.is_none()).await;
    assert_eq!(
        status.spiffe_id.as_deref(),
        Some("spiffe://k8s.nsm/ns/test/pod/c2")
    );
}

#[tokio::test]
async fn an_unregistered_process_learns_how_to_register() {
    let mut agent = Agent::start();
    agent.api.reject();
    let status = agent.until(|status| status.error.is_some()).await;
    let error = status.error.unwrap();
    assert!(error.contains("no identity issued"), "{error}");
    assert!(error.contains("spiffe.io/spiffe-id: \"true\""), "{error}");
    // It is registered while the client waits.
    agent.api.send(agent.message());
    assert_eq!(agent.identity.context().await.svid.leaf().id.to_string(), CLIENT);
}

#[tokio::test]
async fn a_useless_message_does_not_replace_the_identity() {
    let mut agent = Agent::start();
    agent.api.send(agent.message());
    let known = agent.identity.context().await;
    let rsa = agent.authority.issue_leaf(&NewLeaf {
        uris: &[CLIENT],
        key: Key::Rsa,
        ..NewLeaf::default()
    });
    agent.api.send(message(&rsa, &[&agent.authority]));
    let status = agent.until(|status| status.error.is_some()).await;
    let error = status.error.unwrap();
    assert!(error.contains("has an RSA key"), "{error}");
    assert!(
        error.contains("workload_x509_svid_key_type = \"ec-p256\""),
        "{error}"
    );
    assert!(Arc::ptr_eq(&known, &agent.identity.context().await));
    // The stream is still open.
    agent.api.send(agent.message());
    agent.until(|status| status.error.is_none()).await;
}

fn parse(message: &X509svidResponse) -> Result<X509Context, String> {
    X509Context::parse(message).map_err(|error| chain(&error))
}

#[test]
fn rejected_svids_say_why() {
    let authority = Authority::new("k8s.nsm");
    let leaf = |leaf: NewLeaf<'_>| message(&authority.issue_leaf(&leaf), &[&authority]);
    let good = || message(&authority.issue(CLIENT), &[&authority]);
    let with = |change: &dyn Fn(&mut X509svidResponse)| {
        let mut message = good();
        change(&mut message);
        message
    };
    for (case, message, reason) in [
        (
            "no SVID",
            X509svidResponse::default(),
            "the Workload API sent no SVID",
        ),
        (
            "P-384",
            leaf(NewLeaf {
                uris: &[CLIENT],
                key: Key::P384,
                ..NewLeaf::default()
            }),
            "has a key of type 1.3.132.0.34",
        ),
        (
            "no name",
            with(&|message| {
                message.svids[0].x509_svid = authority.issue_leaf(&NewLeaf::default()).certificate.to_vec()
            }),
            "0 URI names and not one SPIFFE ID",
        ),
        (
            "two names",
            leaf(NewLeaf {
                uris: &[CLIENT, "spiffe://k8s.nsm/b"],
                ..NewLeaf::default()
            }),
            "2 URI names and not one SPIFFE ID",
        ),
        (
            "another scheme",
            with(&|message| {
                let web = NewLeaf {
                    uris: &["https://k8s.nsm/a"],
                    ..NewLeaf::default()
                };
                message.svids[0].x509_svid = authority.issue_leaf(&web).certificate.to_vec();
            }),
            "URI name \"https://k8s.nsm/a\" is no SPIFFE ID",
        ),
        (
            "an authority",
            leaf(NewLeaf {
                uris: &[CLIENT],
                is_authority: true,
                ..NewLeaf::default()
            }),
            "may sign others",
        ),
        (
            "the key of another",
            with(&|message| message.svids[0].x509_svid_key = authority.issue(CLIENT).key),
            "do not belong together",
        ),
        (
            "no key",
            with(&|message| message.svids[0].x509_svid_key.clear()),
            "no PKCS#8 EC P-256 key",
        ),
        (
            "no certificate",
            with(&|message| message.svids[0].x509_svid.clear()),
            "the certificate chain is empty",
        ),
        (
            "half a certificate",
            with(&|message| message.svids[0].x509_svid.truncate(100)),
            "the certificate chain is malformed",
        ),
        (
            "half a bundle",
            with(&|message| message.svids[0].bundle.truncate(100)),
            "the trust bundle of k8s.nsm is malformed",
        ),
        (
            "a bundle of something",
            with(&|message| message.svids[0].bundle = vec![0x30, 0x00]),
            "the trust bundle of k8s.nsm has an authority that cannot be used",
        ),
        (
            "a trust domain with blanks",
            with(&|message| {
                message
                    .federated_bundles
                    .insert("my domain".to_owned(), Vec::new());
            }),
            "\"my domain\" is no trust domain",
        ),
    ] {
        let error = parse(&message).map(|_| ()).unwrap_err();
        assert!(error.contains(reason), "{case}: {error}");
    }
    parse(&good()).unwrap();
}

#[test]
fn chains_and_bundles_hold_several_certificates() {
    let (first, second) = (Authority::new("k8s.nsm"), Authority::new("k8s.nsm"));
    let far = Authority::new("east.nsm");
    let svid = first.issue(CLIENT);
    let mut message = message(&svid, &[&first, &second, &far]);
    message.svids[0].x509_svid.extend_from_slice(&first.certificate);
    let context = parse(&message).unwrap();
    let chain = context.svid.certified_key().unwrap().cert;
    assert_eq!(chain, [svid.certificate, first.certificate]);
    let roots = |id: &str| {
        let id = SpiffeId::new(id).unwrap();
        context.bundles.roots(&id).map(|roots| roots.len())
    };
    assert_eq!(roots(CLIENT), Some(2));
    assert_eq!(roots("spiffe://east.nsm/a"), Some(1));
    assert_eq!(roots("spiffe://west.nsm/a"), None);
    assert_eq!(context.bundles.authorities(), 3);
}

#[test]
fn debug_shows_no_key() {
    let authority = Authority::new("k8s.nsm");
    let svid: Issued = authority.issue(CLIENT);
    let context = parse(&message(&svid, &[&authority])).unwrap();
    let text = format!("{context:?}");
    let key = format!("{:?}", svid.key);
    assert!(text.contains("/ns/test/pod/c1"), "{text}");
    // Any run of its bytes, as Debug would show them.
    assert!(!text.contains(&key[60..90]), "{text}");
}

proptest! {
    /// A message is data from another process: damage ends in an error, or is not seen.
    #[test]
    fn damaged_messages_do_not_panic(position: Index, byte: u8, cut: Option<Index>) {
        let authority = Authority::new("k8s.nsm");
        let mut message = message(&authority.issue(CLIENT), &[&authority]);
        let svid = &mut message.svids[0];
        for part in [&mut svid.x509_svid, &mut svid.x509_svid_key, &mut svid.bundle] {
            let index = position.index(part.len());
            part[index] = byte;
            if let Some(cut) = cut {
                part.truncate(cut.index(part.len()));
            }
        }
        X509Context::parse(&message).ok();
    }
}
