//! This workload's X.509-SVID.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::SpiffeId;
use x509_cert::der;

use super::certificate::{KeyKind, Leaf, LeafError, split};
use crate::nsm::proto::workload::X509svid;

/// A certificate chain and its private key. TLS and tokens of one connection use the same one.
pub struct Svid {
    leaf: Leaf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
    signer: EcdsaKeyPair,
}

/// An SVID that NSM cannot use.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    #[error("the certificate chain is malformed")]
    Chain(#[source] der::Error),
    #[error("the certificate chain is empty")]
    Empty,
    #[error(transparent)]
    Leaf(#[from] LeafError),
    #[error(
        "the SVID of {id} has {key}, and NSM accepts tokens by EC P-256 keys alone (ES256); set \
         workload_x509_svid_key_type = \"ec-p256\" in the configuration of the SPIRE agent"
    )]
    KeyKind { id: SpiffeId, key: String },
    #[error("the private key of {id} is no PKCS#8 EC P-256 key: {reason}")]
    Key { id: SpiffeId, reason: String },
    #[error("the private key and the certificate of {id} do not belong together")]
    Mismatch { id: SpiffeId },
}

impl Svid {
    /// Reads an SVID of the Workload API.
    pub(super) fn parse(message: &X509svid) -> Result<Self, SvidError> {
        let chain = split(&message.x509_svid).map_err(SvidError::Chain)?;
        let leaf = Leaf::parse(chain.first().ok_or(SvidError::Empty)?)?;
        let id = leaf.id.clone();
        let unsupported = match &leaf.key {
            KeyKind::P256 => None,
            KeyKind::Rsa => Some("an RSA key".to_owned()),
            KeyKind::Other(oid) => Some(format!("a key of type {oid}")),
        };
        if let Some(key) = unsupported {
            return Err(SvidError::KeyKind { id, key });
        }
        let signer = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &message.x509_svid_key,
            &SystemRandom::new(),
        )
        .map_err(|rejected| SvidError::Key {
            id: id.clone(),
            reason: rejected.to_string(),
        })?;
        let svid = Self {
            leaf,
            chain,
            key: PrivatePkcs8KeyDer::from(message.x509_svid_key.clone()),
            signer,
        };
        match svid.certified_key().map(|key| key.keys_match()) {
            Ok(Ok(())) => Ok(svid),
            Ok(Err(_)) => Err(SvidError::Mismatch { id }),
            Err(rejected) => Err(SvidError::Key {
                id,
                reason: rejected.to_string(),
            }),
        }
    }

    /// The leaf certificate's fields.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// The key that signs tokens.
    pub(crate) fn signer(&self) -> &EcdsaKeyPair {
        &self.signer
    }

    /// Chain and key for TLS.
    pub(crate) fn certified_key(&self) -> Result<rustls::sign::CertifiedKey, rustls::Error> {
        let key = PrivateKeyDer::Pkcs8(self.key.clone_key());
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&key)?;
        Ok(rustls::sign::CertifiedKey::new(self.chain.clone(), key))
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}
