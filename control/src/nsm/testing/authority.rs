//! Authorities and SVIDs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The authority of a trust domain.
pub(crate) struct Authority {
    pub(crate) trust_domain: String,
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// An SVID.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) id: String,
    pub(crate) certificate: CertificateDer<'static>,
    /// PKCS#8.
    pub(crate) key: Vec<u8>,
}

/// The kinds of private keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    P256,
    P384,
    Rsa,
}

/// A leaf certificate to be issued.
pub(crate) struct Leaf<'a> {
    /// The URI names; an SVID has one, its SPIFFE ID.
    pub(crate) uris: &'a [&'a str],
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) key: Key,
    pub(crate) is_authority: bool,
}

impl Default for Leaf<'_> {
    fn default() -> Self {
        let now = SystemTime::now();
        Self {
            uris: &[],
            not_before: now - Duration::from_secs(60),
            not_after: now + Duration::from_secs(3600),
            key: Key::P256,
            is_authority: false,
        }
    }
}

impl Authority {
    /// An authority with an RSA key, as SPIRE has by the configuration of NSM's deployments.
    pub(crate) fn new(trust_domain: &str) -> Self {
        let key = Key::Rsa.generate();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        // Two authorities of one trust domain have one key here: their names differ.
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, format!("authority {serial}"));
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self {
            trust_domain: trust_domain.to_owned(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(parameters, key),
        }
    }

    /// An SVID for an hour.
    pub(crate) fn issue(&self, id: &str) -> Issued {
        self.issue_leaf(&Leaf {
            uris: &[id],
            ..Leaf::default()
        })
    }

    pub(crate) fn issue_leaf(&self, leaf: &Leaf<'_>) -> Issued {
        let key = leaf.key.generate();
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = leaf.uris.iter().map(|name| uri(name)).collect();
        parameters.not_before = leaf.not_before.into();
        parameters.not_after = leaf.not_after.into();
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if leaf.is_authority {
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            id: leaf.uris.first().copied().unwrap_or_default().to_owned(),
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// ring makes no RSA keys.
const RSA_KEY: &[u8] = include_bytes!("rsa-2048.pk8");

impl Key {
    fn generate(self) -> KeyPair {
        match self {
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Rsa => KeyPair::from_pkcs8_der_and_sign_algo(
                &PrivatePkcs8KeyDer::from(RSA_KEY),
                &rcgen::PKCS_RSA_SHA256,
            ),
        }
        .expect("a key")
    }
}

impl Issued {
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().expect("ASCII"))
}
