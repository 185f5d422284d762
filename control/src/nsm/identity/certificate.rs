//! X.509-SVID certificates: the fields that SPIFFE defines.
//!
//! SPIFFE X509-SVID: <https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use spiffe::{SpiffeId, SpiffeIdError};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{self, Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};

/// RFC 5480 section 2.1.1: id-ecPublicKey and secp256r1.
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// RFC 3279 section 2.3.1.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// What the leaf certificate of an SVID says. It says nothing about who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub id: SpiffeId,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub(super) key: KeyKind,
}

/// The kinds of public keys that matter to NSM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyKind {
    P256,
    Rsa,
    Other(ObjectIdentifier),
}

/// A certificate that is no SVID.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    #[error("the certificate is malformed")]
    Malformed(#[from] der::Error),
    #[error("the certificate has {0} URI names and not one SPIFFE ID")]
    Names(usize),
    #[error("the certificate's URI name {uri:?} is no SPIFFE ID")]
    SpiffeId {
        uri: String,
        #[source]
        source: SpiffeIdError,
    },
    #[error("the certificate of {0} may sign others, which an X.509-SVID must not")]
    Authority(SpiffeId),
}

impl Leaf {
    /// Reads a leaf certificate, and rejects one that breaks the rules for X.509-SVIDs (sections 4 and 5.2).
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, LeafError> {
        let certificate = Certificate::from_der(certificate)?;
        let body = certificate.tbs_certificate();
        let names = body.get_extension::<SubjectAltName>()?;
        let names = names.map(|(_, names)| names.0).unwrap_or_default();
        let uris: Vec<&str> = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
                _ => None,
            })
            .collect();
        let &[uri] = uris.as_slice() else {
            return Err(LeafError::Names(uris.len()));
        };
        let id = SpiffeId::new(uri).map_err(|source| LeafError::SpiffeId {
            uri: uri.to_owned(),
            source,
        })?;
        let authority = body
            .get_extension::<BasicConstraints>()?
            .is_some_and(|(_, constraints)| constraints.ca);
        let signs = body
            .get_extension::<KeyUsage>()?
            .is_some_and(|(_, usage)| usage.key_cert_sign() || usage.crl_sign());
        if authority || signs {
            return Err(LeafError::Authority(id));
        }
        let validity = body.validity();
        let algorithm = &body.subject_public_key_info().algorithm;
        let curve = || {
            let parameters = algorithm.parameters.as_ref()?;
            ObjectIdentifier::from_der(&parameters.to_der().ok()?).ok()
        };
        let key = match algorithm.oid {
            EC_PUBLIC_KEY => match curve() {
                Some(P256) => KeyKind::P256,
                other => KeyKind::Other(other.unwrap_or(EC_PUBLIC_KEY)),
            },
            RSA => KeyKind::Rsa,
            other => KeyKind::Other(other),
        };
        Ok(Self {
            id,
            not_before: validity.not_before.to_system_time(),
            not_after: validity.not_after.to_system_time(),
            key,
        })
    }
}

/// Splits certificates that follow each other without a separator, as the Workload API sends them.
pub(super) fn split(concatenated: &[u8]) -> Result<Vec<CertificateDer<'static>>, der::Error> {
    let mut reader = SliceReader::new(concatenated)?;
    let mut certificates = Vec::new();
    while !reader.is_finished() {
        let certificate = reader.tlv_bytes()?;
        certificates.push(CertificateDer::from(certificate.to_vec()));
    }
    Ok(certificates)
}
