//! The rules of NSM for tokens: what a manager does with them before it answers.
//!
//! Names are those of the SDK: updatetoken, and the policies tokens_valid, tokens_expired, tokens_chained and
//! prev_token_signed (sdk/pkg/tools/opa/policies).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tonic::Status;
use tonic::metadata::MetadataMap;
use x509_cert::der::Decode;

use super::authority::Issued;
use crate::nsm::proto::connection::{Path, PathSegment};

/// A server on the path of a connection.
pub(crate) struct Hop<'a> {
    pub(crate) name: &'a str,
    pub(crate) svid: &'a Issued,
    /// The SPIFFE ID of the next server, which the token of this one is for.
    pub(crate) next: &'a str,
}

/// What the refusal of all policies says.
fn refused() -> Status {
    Status::permission_denied("no sufficient privileges")
}

/// Puts the client's token into its segment, adds the segment of this server, and checks all tokens against `peer`,
/// the client's certificate.
pub(crate) fn authorize(
    path: &mut Path,
    id: &str,
    metadata: &MetadataMap,
    peer: &CertificateDer<'_>,
    hop: &Hop<'_>,
) -> Result<(), Status> {
    let index = usize::try_from(path.index).expect("an index");
    let Some(own) = path.path_segments.get_mut(index) else {
        return Err(Status::unknown(format!(
            "NetworkServiceRequest.Connection.Path.Index={index} should be less than the number of segments"
        )));
    };
    if own.id != id {
        return Err(Status::unknown(format!(
            "NetworkServiceRequest.Connection.Id={id:?} must match the id of path segment {index}, {:?}",
            own.id
        )));
    }
    if own.name == hop.name {
        return Err(refused());
    }
    let one = |key: &str| {
        let mut values = metadata.get_all(key).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().map(ToOwned::to_owned).map_err(|_| refused()),
            _ => Err(refused()),
        }
    };
    own.token = one("nsm-client-token")?;
    let expires = one("nsm-client-token-expires")?;
    let expires = humantime::parse_rfc3339(&expires).map_err(|_| refused())?;
    own.expires = Some(expires.into());
    path.index += 1;
    path.path_segments.truncate(index + 1);
    path.path_segments.push(PathSegment {
        name: hop.name.to_owned(),
        id: format!("{id}-at-{}", hop.name),
        token: jwt(
            hop.svid,
            &serde_json::json!({"sub": hop.svid.id, "aud": [hop.next], "exp": seconds(SystemTime::now() + TOKEN_LIFE)}),
        ),
        expires: Some((SystemTime::now() + TOKEN_LIFE).into()),
        ..PathSegment::default()
    });
    let tokens: Vec<&str> = path
        .path_segments
        .iter()
        .map(|segment| segment.token.as_str())
        .collect();
    let claims: Option<Vec<Value>> = tokens.iter().map(|token| claims(token)).collect();
    let claims = claims.ok_or_else(refused)?; // tokens_valid
    let now = seconds(SystemTime::now());
    let alive = |claims: &Value| claims["exp"].as_u64().is_some_and(|exp| exp > now);
    let chained = |pair: &[Value]| {
        let audience = pair[0]["aud"].as_array();
        audience.is_some_and(|audience| audience.contains(&pair[1]["sub"]))
    };
    if claims.iter().all(alive) // tokens_expired
        && claims.windows(2).all(chained) // tokens_chained
        && is_signed_by(tokens[index], peer)
    // prev_token_signed
    {
        Ok(())
    } else {
        Err(refused())
    }
}

const TOKEN_LIFE: Duration = Duration::from_secs(600);

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The claims of a token that is formed as NSM's are.
pub(crate) fn claims(token: &str) -> Option<Value> {
    let [header, claims, _signature] = parts(token)?;
    let header: Value = serde_json::from_slice(&header).ok()?;
    if header != serde_json::json!({"alg": "ES256", "typ": "JWT"}) {
        return None;
    }
    serde_json::from_slice(&claims).ok()
}

fn parts(token: &str) -> Option<[Vec<u8>; 3]> {
    let parts: Option<Vec<_>> = token
        .split('.')
        .map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok())
        .collect();
    parts?.try_into().ok()
}

/// Verifies a token with the public key of a certificate.
pub(crate) fn is_signed_by(token: &str, certificate: &CertificateDer<'_>) -> bool {
    let certificate = x509_cert::Certificate::from_der(certificate).expect("a certificate");
    let key = &certificate
        .tbs_certificate()
        .subject_public_key_info()
        .subject_public_key;
    let Some(signed) = token.rsplit_once('.').map(|(signed, _)| signed) else {
        return false;
    };
    let Some([_, _, signature]) = parts(token) else {
        return false;
    };
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.raw_bytes())
        .verify(signed.as_bytes(), &signature)
        .is_ok()
}

/// A token with any claims, signed by the key of an SVID.
pub(crate) fn jwt(svid: &Issued, claims: &Value) -> String {
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let signed = format!(
        "{}.{}",
        encode(r#"{"alg":"ES256","typ":"JWT"}"#),
        encode(&claims.to_string())
    );
    let random = SystemRandom::new();
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &svid.key, &random).expect("a P-256 key");
    let signature = key.sign(&random, signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
