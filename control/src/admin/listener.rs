//! Opening the admin address and the admin socket.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener, UnixStream};

/// The open listeners.
#[derive(Debug)]
pub struct Listeners {
    pub(super) tcp: TcpListener,
    pub(super) unix: UnixListener,
    /// Removes the socket's file when it is dropped.
    pub(super) file: SocketFile,
}

impl Listeners {
    /// Opens both. The socket's folder is made, a socket that nobody listens on is replaced, and
    /// only the owner may use the new one.
    ///
    /// Errors: what was opened and why it failed, in words; a socket that is in use among them.
    pub async fn open(listen: SocketAddr, socket: &Path) -> Result<Self, String> {
        let tcp = TcpListener::bind(listen)
            .await
            .map_err(|error| format!("listen on {listen} (admin.listen): {error}"))?;
        let unix = open_socket(socket)
            .await
            .map_err(|error| format!("listen on {} (admin.socket): {error}", socket.display()))?;
        Ok(Self {
            tcp,
            unix,
            file: SocketFile(socket.to_owned()),
        })
    }

    /// The address that is really in use, of interest if port 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// The file of a socket; it goes with the value.
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
