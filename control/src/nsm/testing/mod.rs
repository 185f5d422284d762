//! A manager and a Workload API for tests: real TLS, real descriptors and the real rules for tokens, on Unix sockets,
//! with whatever answers a test wants.

mod authority;
mod manager;
mod policy;
mod receiver;
mod workload_api;

pub(crate) use authority::{Authority, Issued, Key, Leaf};
pub(crate) use manager::Manager;
pub(crate) use policy::{claims, is_signed_by, jwt};
pub(crate) use workload_api::{FakeWorkloadApi, message};

use std::time::Duration;

use super::connector::{Connector, Limits};
use super::identity::Identity;

/// NSM's default for tokens, and a short limit for connecting.
pub(crate) const LIMITS: Limits = Limits {
    dial_timeout: Duration::from_secs(5),
    max_token_lifetime: Duration::from_secs(600),
};

/// An authority, a manager, and a Workload API with the identity of a client.
pub(crate) struct Node {
    pub(crate) authority: Authority,
    pub(crate) workload_api: FakeWorkloadApi,
    pub(crate) manager: Manager,
    pub(crate) identity: Identity,
    svid: Issued,
    folder: tempfile::TempDir,
}

pub(crate) const CLIENT: &str = "spiffe://k8s.nsm/ns/test/pod/c1";
pub(crate) const MANAGER: &str = "spiffe://k8s.nsm/ns/nsm-system/pod/nsmgr-0";

impl Node {
    /// Starts all of it. Call it in a tokio runtime.
    pub(crate) fn start() -> Self {
        let authority = Authority::new("k8s.nsm");
        let folder = tempfile::tempdir().expect("a folder");
        let workload_api = FakeWorkloadApi::start(&folder.path().join("agent.sock"));
        let svid = authority.issue(CLIENT);
        workload_api.send(message(&svid, &[&authority]));
        let manager = Manager::start(
            &folder.path().join("nsm.io.sock"),
            &authority.issue(MANAGER),
            &[&authority],
        );
        let (identity, client) = Identity::new(&workload_api.url()).expect("a URL");
        tokio::spawn(client.run());
        Self {
            authority,
            workload_api,
            manager,
            identity,
            svid,
            folder,
        }
    }

    /// A connector with the identity of the client.
    pub(crate) fn connector(&self) -> Connector {
        Connector::new(self.identity.clone(), LIMITS)
    }

    /// The first SVID of the client.
    pub(crate) fn svid(&self) -> Issued {
        self.svid.clone()
    }

    /// A path for another socket.
    pub(crate) fn socket(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}
