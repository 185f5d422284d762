//! The network namespace that is passed to the manager.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// A network namespace: a descriptor of it, and the name under which the receiver finds the descriptor. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct NetworkNamespace {
    descriptor: Arc<OwnedFd>,
    inode_url: String,
}

/// The network namespace cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("open the network namespace {path}")]
pub struct NamespaceError {
    path: String,
    #[source]
    source: io::Error,
}

impl NetworkNamespace {
    /// The network namespace of the calling thread.
    pub fn own() -> Result<Self, NamespaceError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The network namespace that a file of nsfs stands for.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let failed = |source| NamespaceError {
            path: path.display().to_string(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        Ok(Self {
            inode_url: format!("inode://{}/{}", metadata.dev(), metadata.ino()),
            descriptor: Arc::new(file.into()),
        })
    }

    /// The value of the mechanism parameter `inodeURL`: `inode://DEVICE/INODE`, both decimal.
    pub fn inode_url(&self) -> &str {
        &self.inode_url
    }

    pub(super) fn descriptor(&self) -> Arc<OwnedFd> {
        self.descriptor.clone()
    }
}
