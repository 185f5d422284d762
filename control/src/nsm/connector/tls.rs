//! Mutual TLS with X.509-SVIDs.
//!
//! A peer is whoever has an SVID of a trust domain that this workload trusts: any SPIFFE ID, and no host name. That
//! is what NSM's own programs check (go-spiffe, `MTLSClientConfig` with `AuthorizeAny`).

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme, version,
};
use spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::nsm::identity::{Leaf, LeafError, TrustBundles, X509Context};

/// The HTTP/2 protocol name (RFC 9113 section 3.3), which gRPC servers insist on.
const ALPN: &[u8] = b"h2";

/// Why a peer's certificate is rejected.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("the peer has no X.509-SVID")]
    Leaf(#[from] LeafError),
    #[error("the peer has shown no certificate")]
    NoCertificate,
    #[error("no trust bundle for the trust domain of the peer {0}")]
    TrustDomain(SpiffeId),
    #[error("the trust bundle of its trust domain does not vouch for the peer {id}")]
    Untrusted {
        id: SpiffeId,
        #[source]
        source: Error,
    },
}

/// No TLS session.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A [`PeerError`].
    #[error("{0}")]
    Peer(#[source] Arc<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Handshake(#[source] io::Error),
    #[error("prepare the SVID for it")]
    Config(#[source] Error),
}

/// Connects as the client, and returns who the server is.
pub(super) async fn connect<S>(stream: S, context: &X509Context) -> Result<(TlsStream<S>, Leaf), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = config(context).map_err(TlsError::Config)?;
    // It is not sent (no SNI) and not checked.
    let name = ServerName::try_from("localhost").expect("a host name");
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(handshake_error)?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = match certificates.first() {
        Some(certificate) => Leaf::parse(certificate).map_err(PeerError::Leaf),
        None => Err(PeerError::NoCertificate),
    };
    let peer = peer.map_err(|rejected| TlsError::Peer(Arc::new(rejected)))?;
    Ok((stream, peer))
}

/// Our own reason for rejecting the peer, which TLS wraps, or the error as it is.
fn handshake_error(error: io::Error) -> TlsError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(rejected)))) => {
            TlsError::Peer(rejected.clone())
        }
        _ => TlsError::Handshake(error),
    }
}

/// The configuration of one connection. It is made anew for each, because a resumed session would show the server
/// the certificate of an earlier one, whose key does not sign the tokens any more.
pub(super) fn config(context: &X509Context) -> Result<ClientConfig, Error> {
    let verifier = Arc::new(SvidVerifier::new(context.bundles.clone()));
    let provider = Arc::clone(&verifier.provider);
    let key = context.svid.certified_key()?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

#[derive(Debug)]
pub(super) struct SvidVerifier {
    bundles: TrustBundles,
    provider: Arc<CryptoProvider>,
}

impl SvidVerifier {
    pub(super) fn new(bundles: TrustBundles) -> Self {
        Self {
            bundles,
            provider: Arc::new(ring::default_provider()),
        }
    }

    /// Whether the certificate of a peer is an SVID that its trust domain vouches for, at `now`.
    pub(super) fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerError> {
        let id = Leaf::parse(certificate)?.id;
        let Some(roots) = self.bundles.roots(&id) else {
            return Err(PeerError::TrustDomain(id));
        };
        ParsedCertificate::try_from(certificate)
            .and_then(|certificate| {
                verify_server_cert_signed_by_trust_anchor(
                    &certificate,
                    roots,
                    intermediates,
                    now,
                    self.provider.signature_verification_algorithms.all,
                )
            })
            .map_err(|source| PeerError::Untrusted { id, source })
    }
}

impl ServerCertVerifier for SvidVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.verify(certificate, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(rejected) => Err(CertificateError::Other(OtherError(Arc::new(rejected))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
