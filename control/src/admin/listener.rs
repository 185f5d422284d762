//! Opening the admin addresses and the admin socket.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::config::{ApiFor, Listener};

/// A listener that cannot be opened.
#[derive(Debug, Error)]
pub enum ListenError {
    #[error("listen on {address} ({key}): {source}")]
    Address {
        key: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("listen on {} (admin.socket): {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
}

/// The open listeners.
#[derive(Debug)]
pub struct Listeners {
    pub(super) tcp: Vec<TcpSocket>,
    pub(super) unix: UnixListener,
    /// Removes the socket's file when it is dropped.
    pub(super) file: SocketFile,
}

/// A listening TCP socket, and who gets the page and the API there.
#[derive(Debug)]
pub(super) struct TcpSocket {
    pub(super) listener: TcpListener,
    pub(super) api_for: ApiFor,
}

impl Listeners {
    /// Opens all of `tcp`, and `socket`. Creates the socket's folder, replaces a stale socket, and lets only the owner use
    /// the new one.
    ///
    /// Errors: an address or a socket in use, or one that may not be opened.
    pub async fn open(tcp: &[Listener], socket: &Path) -> Result<Self, ListenError> {
        let mut sockets = Vec::with_capacity(tcp.len());
        for Listener {
            key,
            address,
            api_for,
        } in tcp
        {
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|source| ListenError::Address {
                key,
                address: *address,
                source,
            })?;
            sockets.push(TcpSocket {
                listener,
                api_for: *api_for,
            });
        }
        let unix = open_socket(socket).await.map_err(|source| ListenError::Socket {
            path: socket.to_owned(),
            source,
        })?;
        Ok(Self {
            tcp: sockets,
            unix,
            file: SocketFile(socket.to_owned()),
        })
    }

    /// The bound addresses, for listeners on port 0.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.tcp
            .iter()
            .map(|socket| socket.listener.local_addr())
            .collect()
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
