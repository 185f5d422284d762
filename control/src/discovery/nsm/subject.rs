//! The identity that a client's token names.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The longest SPIFFE ID ("SPIFFE-ID", section 2.3).
const LONGEST: usize = 2048;

/// The claim `sub` of a token: a SPIFFE ID. It is the client's own word: the signature of a token is checked, that its
/// subject is the signer is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Subject(String);

impl Subject {
    /// The subject of `token`, a JSON Web Token (RFC 7519), whose signature is not checked; `None` if it has none.
    pub(super) fn read(token: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Claims {
            sub: String,
        }
        let payload = token.split('.').nth(1)?;
        let json = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let Claims { sub } = serde_json::from_slice(&json).ok()?;
        let is_plain = sub.len() <= LONGEST && sub.chars().all(|c| c.is_ascii_graphic());
        (is_plain && sub.starts_with("spiffe://")).then_some(Self(sub))
    }

    /// The pod's namespace, if the ID has the form `spiffe://TRUST-DOMAIN/ns/NAMESPACE/...`.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.component("ns")
    }

    /// The pod's name, if the ID has the form `spiffe://TRUST-DOMAIN/ns/NAMESPACE/pod/NAME`.
    pub(super) fn pod(&self) -> Option<&str> {
        self.component("pod")
    }

    fn component(&self, name: &str) -> Option<&str> {
        let (_, path) = self.0.strip_prefix("spiffe://")?.split_once('/')?;
        let parts: Vec<&str> = path.split('/').collect();
        let mut pairs = parts.chunks_exact(2);
        pairs.find(|pair| pair[0] == name).map(|pair| pair[1])
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn the_subject_of_a_token_names_namespace_and_pod() {
        for (id, namespace, pod) in [
            (
                "spiffe://k8s.nsm/ns/web/pod/server-0",
                Some("web"),
                Some("server-0"),
            ),
            ("spiffe://k8s.nsm/ns/web/sa/default", Some("web"), None),
            ("spiffe://k8s.nsm/pod/server-0", None, Some("server-0")),
            ("spiffe://k8s.nsm/ns", None, None),
            ("spiffe://k8s.nsm", None, None),
        ] {
            let subject = Subject::read(&token(&format!(r#"{{"sub":"{id}","aud":["x"]}}"#))).unwrap();
            assert_eq!(subject.to_string(), id);
            assert_eq!((subject.namespace(), subject.pod()), (namespace, pod), "{id}");
        }
    }

    #[test]
    fn a_token_without_readable_subject_has_none() {
        for text in [
            "".to_owned(),
            "a.b.c".to_owned(),
            "e30".to_owned(),
            token("{}"),
            token(r#"{"sub":7}"#),
            token(r#"{"sub":"https://k8s.nsm/ns/web"}"#),
            token(r#"{"sub":"spiffe://k8s.nsm/ns/a b"}"#),
            token(r#"{"sub":"spiffe://k8s.nsm/\n"}"#),
            token(&format!(r#"{{"sub":"spiffe://{}"}}"#, "x".repeat(LONGEST))),
        ] {
            assert_eq!(Subject::read(&text), None, "{text}");
        }
    }
}
