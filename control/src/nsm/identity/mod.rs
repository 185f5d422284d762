//! This workload's identity: SVID and trust bundles, as the SPIFFE Workload API streams them.
//!
//! SPIFFE Workload API: <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md>.

mod bundle;
mod certificate;
mod svid;
#[cfg(test)]
mod tests;
mod workload_api;

use std::sync::Arc;
use std::time::SystemTime;

use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use tokio::sync::watch;
use x509_cert::der;

pub use bundle::TrustBundles;
pub use certificate::{Leaf, LeafError};
pub use svid::{Svid, SvidError};
pub use workload_api::{WorkloadApi, WorkloadApiError};

use super::proto::workload::X509svidResponse;
use super::target::{Target, TargetError};
use crate::error_chain::chain;

/// The newest SVID and trust bundles of this workload. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    state: watch::Receiver<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    context: Option<Arc<X509Context>>,
    /// Why the Workload API gives nothing newer.
    error: Option<Arc<WorkloadApiError>>,
}

/// An SVID, and whom to trust: one message of the Workload API.
#[derive(Debug)]
pub struct X509Context {
    pub svid: Svid,
    pub bundles: TrustBundles,
}

/// A message of the Workload API that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum X509ContextError {
    #[error("the Workload API sent no SVID")]
    NoSvid,
    #[error(transparent)]
    Svid(#[from] SvidError),
    #[error("the trust bundle of {domain} is malformed")]
    Bundle {
        domain: String,
        #[source]
        source: der::Error,
    },
    #[error("the trust bundle of {domain} has an authority that cannot be used")]
    Authority {
        domain: String,
        #[source]
        source: rustls::Error,
    },
    #[error("{name:?} is no trust domain")]
    Domain {
        name: String,
        #[source]
        source: SpiffeIdError,
    },
}

/// What an operator has to know about the identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentityStatus {
    pub spiffe_id: Option<String>,
    /// The end of the SVID's validity.
    pub expires: Option<SystemTime>,
    /// The number of authorities in all trust bundles.
    pub authorities: usize,
    /// Why the Workload API gives nothing newer, with its causes. `None`: the stream is open.
    pub error: Option<String>,
}

impl Identity {
    /// The identity that the Workload API at `url` (SPIFFE_ENDPOINT_SOCKET) gives, and the client that keeps it
    /// current as long as it runs.
    pub fn new(url: &str) -> Result<(Self, WorkloadApi), TargetError> {
        let target: Target = url.parse()?;
        let (sender, state) = watch::channel(State::default());
        Ok((Self { state }, WorkloadApi::new(target, sender)))
    }

    /// SVID and bundles, if there are any yet. They may have expired.
    pub fn current(&self) -> Option<Arc<X509Context>> {
        self.state.borrow().context.clone()
    }

    /// Waits for the first SVID, and returns the newest. Waits for ever if the client has ended. Cancel-safe.
    pub async fn context(&self) -> Arc<X509Context> {
        let mut state = self.state.clone();
        if let Ok(state) = state.wait_for(|state| state.context.is_some()).await
            && let Some(context) = &state.context
        {
            return context.clone();
        }
        std::future::pending().await
    }

    /// Waits for a change of SVID, bundles or error since the last call. Waits for ever if the client has ended.
    /// Cancel-safe.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Why the Workload API gives nothing newer.
    pub fn error(&self) -> Option<Arc<WorkloadApiError>> {
        self.state.borrow().error.clone()
    }

    pub fn status(&self) -> IdentityStatus {
        let State { context, error } = self.state.borrow().clone();
        let leaf = context.as_ref().map(|context| context.svid.leaf());
        IdentityStatus {
            spiffe_id: leaf.map(|leaf| leaf.id.to_string()),
            expires: leaf.map(|leaf| leaf.not_after),
            authorities: context
                .as_ref()
                .map_or(0, |context| context.bundles.authorities()),
            error: error.map(|error| chain(&*error)),
        }
    }
}

impl X509Context {
    /// Reads a message of the Workload API. Its first SVID is the default one.
    pub(in crate::nsm) fn parse(message: &X509svidResponse) -> Result<Self, X509ContextError> {
        let svid = Svid::parse(message.svids.first().ok_or(X509ContextError::NoSvid)?)?;
        let mut bundles = TrustBundles::default();
        for message in &message.svids {
            let id = SpiffeId::new(&message.spiffe_id).map_err(|source| X509ContextError::Domain {
                name: message.spiffe_id.clone(),
                source,
            })?;
            add_bundle(&mut bundles, id.trust_domain_name(), &message.bundle)?;
        }
        for (domain, bundle) in &message.federated_bundles {
            add_bundle(&mut bundles, domain, bundle)?;
        }
        Ok(Self { svid, bundles })
    }
}

fn add_bundle(bundles: &mut TrustBundles, domain: &str, bundle: &[u8]) -> Result<(), X509ContextError> {
    let name = domain.to_owned();
    let domain = TrustDomain::new(domain).map_err(|source| X509ContextError::Domain {
        name: name.clone(),
        source,
    })?;
    let certificates = certificate::split(bundle).map_err(|source| X509ContextError::Bundle {
        domain: name.clone(),
        source,
    })?;
    bundles
        .add(&domain, certificates)
        .map_err(|source| X509ContextError::Authority { domain: name, source })
}
