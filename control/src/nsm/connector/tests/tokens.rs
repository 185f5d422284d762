//! Tokens: ours, and what a manager does with bent ones.
//!
//! Each row was run against the real SDK, v1.13.0 and v1.14.0, with the same result. They show that the manager of
//! these tests would notice if we sent one of them.

use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::request;
use crate::nsm::channel::Channel;
use crate::nsm::connector::descriptor_stream::DescriptorStream;
use crate::nsm::connector::{Connector, Limits, NetworkNamespace, tls};
use crate::nsm::identity::Identity;
use crate::nsm::proto::networkservice::NetworkServiceRequest;
use crate::nsm::proto::networkservice::network_service_client::NetworkServiceClient;
use crate::nsm::proto::registry::NetworkServiceEndpointQuery;
use crate::nsm::target::Target;
use crate::nsm::testing::{
    CLIENT, FakeWorkloadApi, Issued, LIMITS, Leaf, MANAGER, Manager, Node, claims, jwt, message,
};

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_token_is_for_the_peer_of_its_connection() {
    let node = Node::start();
    let other = "spiffe://k8s.nsm/ns/nsm-system/pod/nsmgr-1";
    let second = Manager::start(
        &node.socket("second.sock"),
        &node.authority.issue(other),
        &[&node.authority],
    );
    for (manager, id) in [(&node.manager, MANAGER), (&second, other)] {
        let before = SystemTime::now();
        let session = node
            .connector()
            .connect(&manager.url().parse().unwrap())
            .await
            .unwrap();
        let query = NetworkServiceEndpointQuery::default();
        session.registry().find(query).await.unwrap();
        let received = manager.received().pop().unwrap();
        let claims = claims(&received.token).unwrap();
        let exp = claims["exp"].as_u64().unwrap();
        assert_eq!(claims, json!({"sub": CLIENT, "aud": [id], "exp": exp}));
        let lifetime = LIMITS.max_token_lifetime;
        let (earliest, latest) = (before + lifetime, SystemTime::now() + lifetime);
        assert!((seconds(earliest)..=seconds(latest)).contains(&exp), "{exp}");
        let expires = humantime::parse_rfc3339(&received.expires).unwrap();
        assert!((earliest..=latest).contains(&expires), "{}", received.expires);
    }
}

/// Lives in seconds: of our SVID, of the manager's, the limit of tokens; then of `exp` and of the metadata.
#[tokio::test]
async fn a_token_ends_with_the_certificates() {
    let node = Node::start();
    let now = SystemTime::now();
    for (own, peer, limit, exp, metadata) in [
        (3600, 3600, 600, 600, 600),
        (300, 3600, 600, 300, 300),
        // `exp` does not know the peer's certificate (sdk/pkg/tools/spiffejwt).
        (3600, 300, 600, 600, 300),
        (200, 300, 600, 200, 200),
    ] {
        let issue = |id: &str, life| {
            node.authority.issue_leaf(&Leaf {
                uris: &[id],
                not_after: now + Duration::from_secs(life),
                ..Leaf::default()
            })
        };
        let api = FakeWorkloadApi::start(&node.socket("own.sock"));
        api.send(message(&issue(CLIENT, own), &[&node.authority]));
        let (identity, client) = Identity::new(&api.url()).unwrap();
        tokio::spawn(client.run());
        let manager = Manager::start(
            &node.socket("peer.sock"),
            &issue(MANAGER, peer),
            &[&node.authority],
        );
        let limits = Limits {
            max_token_lifetime: Duration::from_secs(limit),
            ..LIMITS
        };
        let session = Connector::new(identity, limits)
            .connect(&manager.url().parse().unwrap())
            .await
            .unwrap();
        let query = NetworkServiceEndpointQuery::default();
        session.registry().find(query).await.unwrap();
        let received = manager.received().pop().unwrap();
        let claimed = claims(&received.token).unwrap()["exp"].as_u64().unwrap();
        let expires = seconds(humantime::parse_rfc3339(&received.expires).unwrap());
        // Certificates have whole seconds, and calls take some milliseconds.
        for (ends, life) in [(claimed, exp), (expires, metadata)] {
            let expected = seconds(now) + life;
            assert!(
                (expected..=expected + 2).contains(&ends),
                "{own} {peer}: {ends} {expected}"
            );
        }
    }
}

/// How a Request is bent.
struct Bent {
    svid: Issued,
    claims: Value,
    /// In place of the token that the claims make.
    token: Option<String>,
    /// How often the token is sent.
    tokens: usize,
    expires: Option<String>,
    request: NetworkServiceRequest,
}

/// Sends it on a connection of its own, and returns what the manager says.
async fn send(node: &Node, bend: impl FnOnce(&mut Bent)) -> Result<(), Status> {
    let context = node.identity.context().await;
    let namespace = NetworkNamespace::own().unwrap();
    let later = SystemTime::now() + Duration::from_secs(600);
    let mut bent = Bent {
        svid: node.svid(),
        claims: json!({"sub": CLIENT, "aud": [MANAGER], "exp": seconds(later)}),
        token: None,
        tokens: 1,
        expires: Some(humantime::format_rfc3339_nanos(later).to_string()),
        request: request(&namespace),
    };
    bend(&mut bent);
    let target: Target = node.manager.url().parse().unwrap();
    let Target::Unix(path) = &target else {
        panic!("{target}")
    };
    let descriptor = std::fs::File::open("/proc/self/ns/net").unwrap();
    let stream = UnixStream::connect(path).await.unwrap();
    let descriptor = descriptor.as_fd().try_clone_to_owned().unwrap();
    let stream = DescriptorStream::new(stream, Some(descriptor.into()));
    let (stream, _) = tls::connect(stream, &context).await.unwrap();
    let channel = Channel::open(stream, target.into(), None).await.unwrap();
    let origin = channel.origin();
    let mut request = tonic::Request::new(bent.request);
    request.set_timeout(Duration::from_millis(200));
    let token = bent.token.unwrap_or_else(|| jwt(&bent.svid, &bent.claims));
    for _ in 0..bent.tokens {
        let token: MetadataValue<_> = token.parse().unwrap();
        request.metadata_mut().append("nsm-client-token", token);
    }
    if let Some(expires) = bent.expires {
        let expires = expires.parse().unwrap();
        request.metadata_mut().insert("nsm-client-token-expires", expires);
    }
    NetworkServiceClient::with_origin(channel, origin)
        .request(request)
        .await
        .map(|_| ())
}

type Bend = Box<dyn FnOnce(&mut Bent)>;

fn bend(bend: impl FnOnce(&mut Bent) + 'static) -> Bend {
    Box::new(bend)
}

#[tokio::test]
async fn bent_requests_are_refused() {
    let node = Node::start();
    let past = seconds(SystemTime::now()) - 60;
    let stranger = node.authority.issue(CLIENT);
    let refused: Vec<(&str, Code, Bend)> = vec![
        ("no token", Code::PermissionDenied, bend(|bent| bent.tokens = 0)),
        (
            "no expires",
            Code::PermissionDenied,
            bend(|bent| bent.expires = None),
        ),
        (
            "expires in seconds",
            Code::PermissionDenied,
            bend(|bent| bent.expires = Some("1795502364".to_owned())),
        ),
        ("two tokens", Code::PermissionDenied, bend(|bent| bent.tokens = 2)),
        (
            "no JWT",
            Code::PermissionDenied,
            bend(|bent| bent.token = Some("token".to_owned())),
        ),
        (
            "aud a string",
            Code::PermissionDenied,
            bend(|bent| bent.claims["aud"] = json!(MANAGER)),
        ),
        (
            "aud of another",
            Code::PermissionDenied,
            bend(|bent| bent.claims["aud"] = json!([CLIENT])),
        ),
        (
            "no aud",
            Code::PermissionDenied,
            bend(|bent| drop(bent.claims.as_object_mut().unwrap().remove("aud"))),
        ),
        (
            "exp past",
            Code::PermissionDenied,
            bend(move |bent| bent.claims["exp"] = json!(past)),
        ),
        (
            "no exp",
            Code::PermissionDenied,
            bend(|bent| drop(bent.claims.as_object_mut().unwrap().remove("exp"))),
        ),
        (
            "signed by another key",
            Code::PermissionDenied,
            bend(move |bent| bent.svid = stranger),
        ),
        (
            "no connection",
            Code::PermissionDenied,
            bend(|bent| bent.request.connection = None),
        ),
        (
            "no path",
            Code::PermissionDenied,
            bend(|bent| bent.request.connection.as_mut().unwrap().path = None),
        ),
        (
            "the manager's name",
            Code::PermissionDenied,
            bend(|bent| bent.segment().name = "nsmgr-0".to_owned()),
        ),
        (
            "another id in the path",
            Code::Unknown,
            bend(|bent| bent.segment().id = "c2-0".to_owned()),
        ),
        (
            "an index past the path",
            Code::Unknown,
            bend(|bent| {
                bent.request
                    .connection
                    .as_mut()
                    .unwrap()
                    .path
                    .as_mut()
                    .unwrap()
                    .index = 1
            }),
        ),
        (
            "no mechanism",
            Code::Unknown,
            bend(|bent| bent.request.mechanism_preferences.clear()),
        ),
        (
            "no inodeURL",
            Code::Unknown,
            bend(|bent| bent.request.mechanism_preferences[0].parameters.clear()),
        ),
        (
            "another inode",
            Code::DeadlineExceeded,
            bend(|bent| {
                let parameters = &mut bent.request.mechanism_preferences[0].parameters;
                parameters.insert("inodeURL".to_owned(), "inode://4/1".to_owned());
            }),
        ),
    ];
    for (case, code, bend) in refused {
        let status = send(&node, bend).await.unwrap_err();
        assert_eq!(status.code(), code, "{case}: {status}");
    }
    let accepted: Vec<(&str, Bend)> = vec![
        ("straight", bend(|_| ())),
        (
            "two audiences",
            bend(|bent| bent.claims["aud"] = json!([CLIENT, MANAGER])),
        ),
        ("more claims", bend(|bent| bent.claims["jti"] = json!("1"))),
        // Nothing ties the subject to the certificate.
        ("another sub", bend(|bent| bent.claims["sub"] = json!(MANAGER))),
        (
            "no context",
            bend(|bent| bent.request.connection.as_mut().unwrap().context = None),
        ),
        ("an empty name", bend(|bent| bent.segment().name.clear())),
    ];
    for (case, bend) in accepted {
        send(&node, bend)
            .await
            .unwrap_or_else(|status| panic!("{case}: {status}"));
    }
}

impl Bent {
    fn segment(&mut self) -> &mut crate::nsm::proto::connection::PathSegment {
        let path = self.request.connection.as_mut().unwrap().path.as_mut().unwrap();
        &mut path.path_segments[0]
    }
}
