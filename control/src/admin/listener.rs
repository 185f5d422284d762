//! Opening the admin address and the admin socket.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// A listener that cannot be opened.
#[derive(Debug, Error)]
pub enum ListenError {
    #[error("listen on {address} (admin.listen): {source}")]
    Address { address: SocketAddr, source: io::Error },
    #[error("listen on {} (admin.socket): {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
}

/// The open listeners.
#[derive(Debug)]
pub struct Listeners {
    pub(super) tcp: TcpListener,
    pub(super) unix: UnixListener,
    /// Removes the socket's file when it is dropped.
    pub(super) file: SocketFile,
}

impl Listeners {
    /// Opens both. Creates the socket's folder, replaces a stale socket, and lets only the owner use the
    /// new one.
    ///
    /// Errors: an address or a socket in use, or one that may not be opened.
    pub async fn open(listen: SocketAddr, socket: &Path) -> Result<Self, ListenError> {
        let tcp = TcpListener::bind(listen)
            .await
            .map_err(|source| ListenError::Address {
                address: listen,
                source,
            })?;
        let unix = open_socket(socket).await.map_err(|source| ListenError::Socket {
            path: socket.to_owned(),
            source,
        })?;
        Ok(Self {
            tcp,
            unix,
            file: SocketFile(socket.to_owned()),
        })
    }

    /// The bound address, for listeners on port 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// The file of a socket. Dropping it removes the file.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; the next start would replace it anyway.
        std::fs::remove_file(&self.0).ok();
    }
}

async fn open_socket(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            match UnixStream::connect(path).await {
                Ok(_) => {
                    return Err(io::Error::new(
                        ErrorKind::AddrInUse,
                        "another balancer answers there",
                    ));
                }
                // Left behind by a process that was killed.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Err(error) => return Err(error),
            }
            UnixListener::bind(path)?
        }
        other => other?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
