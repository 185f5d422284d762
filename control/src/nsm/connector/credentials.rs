//! The token of each call.
//!
//! It is a JWT (RFC 7519) signed with ES256 by the key of the SVID, for the peer of one connection. NSM servers put it
//! into the path of the connection and check there that each hop is vouched for by the one before it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use ring::rand::SystemRandom;
use serde::Serialize;

use crate::nsm::identity::{Leaf, X509Context};

const TOKEN: &str = "nsm-client-token";
const EXPIRES: &str = "nsm-client-token-expires";

/// Issues the tokens of one connection: with the key of its client certificate, for the peer of its server
/// certificate.
#[derive(Debug)]
pub(crate) struct Credentials {
    context: Arc<X509Context>,
    peer: Leaf,
    max_lifetime: Duration,
}

/// A call has no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("sign a token with the SVID's key")]
    Sign,
    #[error("the token does not fit into a header")]
    Header(#[from] hyper::header::InvalidHeaderValue),
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: String,
    /// Policies compare each entry: it must be an array.
    aud: [&'a str; 1],
    /// Seconds since 1970.
    exp: u64,
}

impl Credentials {
    pub(super) fn new(context: Arc<X509Context>, peer: Leaf, max_lifetime: Duration) -> Self {
        Self {
            context,
            peer,
            max_lifetime,
        }
    }

    pub(super) fn peer(&self) -> &Leaf {
        &self.peer
    }

    /// Adds a new token to the headers of a call.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) -> Result<(), CredentialsError> {
        let now = SystemTime::now();
        let mut token = HeaderValue::try_from(self.token(now)?)?;
        // It is left out of `Debug`, and of the compression of headers.
        token.set_sensitive(true);
        headers.insert(TOKEN, token);
        headers.insert(EXPIRES, HeaderValue::try_from(self.expires(now))?);
        Ok(())
    }

    fn token(&self, now: SystemTime) -> Result<String, CredentialsError> {
        let peer = self.peer.id.to_string();
        let expires = self.expiry(now).duration_since(UNIX_EPOCH);
        let claims = Claims {
            sub: self.context.svid.leaf().id.to_string(),
            aud: [&peer],
            exp: expires.unwrap_or_default().as_secs(),
        };
        let claims = serde_json::to_vec(&claims).map_err(|_| CredentialsError::Sign)?;
        let mut token = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT"}"#);
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signer = self.context.svid.signer();
        let signature = signer
            .sign(&SystemRandom::new(), token.as_bytes())
            .map_err(|_| CredentialsError::Sign)?;
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The end of the token's validity.
    fn expiry(&self, now: SystemTime) -> SystemTime {
        (now + self.max_lifetime).min(self.context.svid.leaf().not_after)
    }

    /// The end of the token's use, in RFC 3339: the peer's certificate may end before the token does.
    fn expires(&self, now: SystemTime) -> String {
        let expires = self.expiry(now).min(self.peer.not_after);
        humantime::format_rfc3339_nanos(expires).to_string()
    }
}
