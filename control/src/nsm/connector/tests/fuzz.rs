//! Fuzz target: changed messages of the Workload API and certificates of peers, from the wire to connections and tokens. See
//! `vl3lb_testbed::fuzz`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::HeaderMap;
use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustls::pki_types::{CertificateDer, UnixTime};
use vl3lb_testbed::mutation::{change_bytes, change_text};

use crate::error_chain::chain;
use crate::nsm::connector::credentials::Credentials;
use crate::nsm::connector::tls::{self, SvidVerifier};
use crate::nsm::identity::{Leaf, X509Context};
use crate::nsm::proto::workload::X509svidResponse;
use crate::nsm::testing::{Authority, CLIENT, Issued, Key, LIMITS, Leaf as NewLeaf, MANAGER, message};

/// Seeds that have failed.
const CORPUS: &[u64] = &[];
/// Messages of one seed.
const MESSAGES: u64 = 60;
/// Far above what the slowest message takes.
const LONGEST: Duration = Duration::from_secs(5);

#[test]
fn any_identity_is_used_or_refused_and_no_changed_peer_is_trusted() {
    let world = World::new();
    vl3lb_testbed::fuzz::run("identity", 8, CORPUS, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..MESSAGES {
            let begin = Instant::now();
            world.attempt(&mut rng);
            assert!(begin.elapsed() < LONGEST, "{:?}", begin.elapsed());
        }
        MESSAGES
    });
}

/// What an agent and a manager have.
struct World {
    authorities: [Authority; 3],
    svids: Vec<Issued>,
    manager: Issued,
}

impl World {
    fn new() -> Self {
        let authorities = ["k8s.nsm", "k8s.nsm", "east.nsm"].map(Authority::new);
        let leaf = |leaf: NewLeaf<'_>| authorities[0].issue_leaf(&leaf);
        let good = || NewLeaf {
            uris: &[CLIENT],
            ..NewLeaf::default()
        };
        let svids = vec![
            leaf(good()),
            leaf(good()),
            leaf(NewLeaf {
                uris: &[CLIENT, MANAGER],
                ..good()
            }),
            leaf(NewLeaf {
                key: Key::Rsa,
                ..good()
            }),
            leaf(NewLeaf {
                is_authority: true,
                ..good()
            }),
        ];
        let manager = authorities[0].issue(MANAGER);
        Self {
            authorities,
            svids,
            manager,
        }
    }

    /// One message, and a peer that shows a certificate.
    fn attempt(&self, rng: &mut StdRng) {
        let svid = &self.svids[rng.random_range(0..self.svids.len())];
        let authorities: Vec<_> = self.authorities.iter().filter(|_| rng.random()).collect();
        let mut message = message(svid, &authorities);
        for _ in 0..rng.random_range(0..4) {
            self.change(rng, &mut message);
        }
        if rng.random_range(0..4) == 0 {
            let mut bytes = message.encode_to_vec();
            change_bytes(rng, &mut bytes);
            match X509svidResponse::decode(&*bytes) {
                Ok(changed) => message = changed,
                Err(_) => return,
            }
        }
        // Any run of the key's bytes, as `Debug` would show them.
        let key = format!("{:?}", &svid.key[60..90]);
        let key = key.trim_matches(['[', ']']);
        match X509Context::parse(&message) {
            Ok(context) => {
                assert!(!format!("{context:?}").contains(key), "the key is shown");
                self.connect(rng, Arc::new(context));
            }
            Err(error) => {
                let text = chain(&error);
                assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
                assert!(!format!("{error:?} {text}").contains(key), "the key is shown");
            }
        }
    }

    /// One change of a part of the message.
    fn change(&self, rng: &mut StdRng, message: &mut X509svidResponse) {
        let place = rng.random_range(0..8);
        if place == 0 {
            let mut name = "spiffe://east.nsm".to_owned();
            let mut bundle = message.federated_bundles.remove(&name).unwrap_or_default();
            if rng.random() {
                change_text(rng, &mut name);
            }
            if rng.random() {
                change_bytes(rng, &mut bundle);
            }
            message.federated_bundles.insert(name, bundle);
            return;
        }
        let Some(svid) = message.svids.first_mut() else {
            return;
        };
        match place {
            1 => change_text(rng, &mut svid.spiffe_id),
            2 => change_bytes(rng, &mut svid.x509_svid),
            3 => change_bytes(rng, &mut svid.x509_svid_key),
            4 => change_bytes(rng, &mut svid.bundle),
            5 => {
                let other = &self.svids[rng.random_range(0..self.svids.len())];
                svid.x509_svid_key.clone_from(&other.key);
            }
            6 => svid.x509_svid.extend_from_slice(&self.authorities[1].certificate),
            _ => {
                let mut second = svid.clone();
                change_bytes(rng, &mut second.x509_svid);
                message.svids.push(second);
            }
        }
    }

    /// What a connection does with the identity: TLS, the judgement of a peer, a token for it.
    fn connect(&self, rng: &mut StdRng, context: Arc<X509Context>) {
        tls::config(&context).expect("an SVID for TLS");
        let good = &self.manager.certificate;
        let mut peer = good.to_vec();
        for _ in 0..rng.random_range(0..3) {
            change_bytes(rng, &mut peer);
        }
        let is_changed = peer != good.as_ref();
        let peer = CertificateDer::from(peer);
        let verifier = SvidVerifier::new(context.bundles.clone());
        let now = SystemTime::now();
        let at = |time: SystemTime| {
            UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap())
        };
        let verified = verifier.verify(&peer, &[], at(now));
        assert!(
            !(is_changed && verified.is_ok()),
            "a changed certificate is trusted: {peer:02x?}"
        );
        if let Err(error) = &verified {
            let text = chain(error);
            assert!(!text.contains(char::is_control), "{text:?}");
        }
        for late in [now - Duration::from_secs(7_200), now + Duration::from_secs(7_200)] {
            assert!(
                verifier.verify(&peer, &[], at(late)).is_err(),
                "it is not valid then"
            );
        }
        let Ok(leaf) = Leaf::parse(&peer) else { return };
        let mut headers = HeaderMap::new();
        Credentials::new(context, leaf, LIMITS.max_token_lifetime)
            .apply(&mut headers)
            .expect("a token");
        let token = headers["nsm-client-token"].to_str().unwrap();
        assert_eq!(token.split('.').count(), 3, "{token}");
        let expires = headers["nsm-client-token-expires"].to_str().unwrap();
        humantime::parse_rfc3339(expires).expect("a time");
    }
}
