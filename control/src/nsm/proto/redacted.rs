//! `Debug` without secrets: tokens are bearer secrets of whoever issued them, and monitors show those of all clients.

use std::fmt;

use super::connection::PathSegment;
use super::workload::X509svid;

impl fmt::Debug for PathSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            id,
            token,
            expires,
            metrics,
        } = self;
        f.debug_struct("PathSegment")
            .field("name", name)
            .field("id", id)
            .field("token", &Redacted(token.is_empty()))
            .field("expires", expires)
            .field("metrics", metrics)
            .finish()
    }
}

impl fmt::Debug for X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            spiffe_id,
            x509_svid,
            x509_svid_key,
            bundle,
            hint,
        } = self;
        f.debug_struct("X509svid")
            .field("spiffe_id", spiffe_id)
            .field("x509_svid", &format_args!("{} bytes", x509_svid.len()))
            .field("x509_svid_key", &Redacted(x509_svid_key.is_empty()))
            .field("bundle", &format_args!("{} bytes", bundle.len()))
            .field("hint", hint)
            .finish()
    }
}

/// A secret, which may be empty.
struct Redacted(bool);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "none" } else { "redacted" })
    }
}
