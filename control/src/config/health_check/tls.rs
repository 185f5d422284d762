//! TLS towards a checked backend.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Serialize;

use crate::config::node::Section;

/// How a checked backend is authenticated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tls {
    /// Whether the certificate must be valid for the name and be issued by one of the authorities.
    pub verify: bool,
    /// The name in the certificate and in SNI; `None`: the host of the request, else the backend's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Certificates of the authorities, in PEM; `None` without verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Authorities>,
}

/// Certificates of authorities, of which there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    pem: String,
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// The certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    fn parse(pem: &str) -> Option<Self> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .ok()?;
        // An authority that cannot be one would let every check fail.
        let mut roots = rustls::RootCertStore::empty();
        let are_usable = certificates
            .iter()
            .all(|certificate| roots.add(certificate.clone()).is_ok());
        (!certificates.is_empty() && are_usable).then(|| Self {
            pem: pem.to_owned(),
            certificates,
        })
    }
}

impl Serialize for Authorities {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.pem)
    }
}

const NAMES: &str = "a host name or an address";
const CA: &str = "certificates of the authorities as PEM text, or verify: false";

impl Tls {
    /// Reads the key `tls` of a check: `Some(None)` without it, `None` if it is invalid.
    pub(super) fn read(check: &mut Section<'_>) -> Option<Option<Self>> {
        let Some(value) = check.value("tls") else {
            return Some(None);
        };
        let path = check.path("tls");
        let mut section = Section::new(&*path, Some(value), &["verify", "name", "ca"], check.errors());
        if !value.is_object() {
            return None;
        }
        let verify = section
            .optional("verify", "true, false", serde_json::Value::as_bool)
            .unwrap_or(true);
        let name = section.optional_text("name", NAMES, |text| {
            ServerName::try_from(text).is_ok().then(|| text.to_owned())
        });
        let ca = match (verify, section.value("ca")) {
            (false, None) => None,
            (false, Some(_)) => {
                section.reject("ca", "certificates", "none with verify: false");
                return None;
            }
            (true, None) => {
                section.reject("ca", "missing", CA);
                return None;
            }
            (true, Some(value)) => match value.as_str().and_then(Authorities::parse) {
                Some(authorities) => Some(authorities),
                None => {
                    section.reject("ca", "no certificates of authorities", CA);
                    return None;
                }
            },
        };
        Some(Some(Self { verify, name, ca }))
    }
}
