//! TLS to a backend, with or without verification of its certificate.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Answer;
use crate::config::Tls;

/// A TLS session on `stream`. The certificate is for `host`, or for `address` if there is no host name. `protocol` is the
/// name of the protocol inside (RFC 7301).
pub(super) async fn connect(
    stream: TcpStream,
    settings: &Tls,
    (host, address): (Option<&str>, IpAddr),
    protocol: &[u8],
) -> Result<TlsStream<TcpStream>, Answer> {
    let name = settings.name.as_deref().or(host).map(str::to_owned);
    let name = name.and_then(|name| ServerName::try_from(name).ok());
    let name = name.unwrap_or_else(|| ServerName::from(address));
    let mut config = config(settings).map_err(|error| Answer::unexpected(format_args!("tls: {error}")))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    // Each check asks the backend in full.
    config.resumption = Resumption::disabled();
    let session = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    session.map_err(failed)
}

/// The backend speaks no TLS, or has no valid certificate; or the connection was lost.
fn failed(error: io::Error) -> Answer {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => Answer::unexpected(format_args!("tls: {error}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Answer::unexpected("tls: it closed the connection")
        }
        None => error.into(),
    }
}

fn config(settings: &Tls) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let Some(authorities) = &settings.ca else {
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
            .with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for certificate in authorities.certificates() {
        roots.add(certificate.clone())?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Accepts every certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
