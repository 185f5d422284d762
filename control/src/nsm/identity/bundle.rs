//! Trust bundles: the authorities of each trust domain.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use spiffe::{SpiffeId, TrustDomain};

/// The authorities of each trust domain that this workload trusts.
#[derive(Debug, Clone, Default)]
pub struct TrustBundles {
    roots: HashMap<String, Arc<RootCertStore>>,
}

impl TrustBundles {
    /// Adds authorities of a trust domain.
    pub(super) fn add(
        &mut self,
        domain: &TrustDomain,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<(), rustls::Error> {
        let roots = self
            .roots
            .entry(domain.as_str().to_owned())
            .or_insert_with(|| Arc::new(RootCertStore::empty()));
        let roots = Arc::make_mut(roots);
        for certificate in certificates {
            roots.add(certificate)?;
        }
        Ok(())
    }

    /// The authorities of the trust domain of a SPIFFE ID. They are no authorities for IDs of other trust domains.
    pub(crate) fn roots(&self, id: &SpiffeId) -> Option<&Arc<RootCertStore>> {
        self.roots.get(id.trust_domain_name())
    }

    /// The number of authorities, of all trust domains.
    pub fn authorities(&self) -> usize {
        self.roots.values().map(|roots| roots.len()).sum()
    }
}
