//! The accept loop: a task and a slot for each connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, error, warn};

use super::slots::{Slot, Slots, Source};

/// Pause after an accept that failed for want of descriptors or memory.
const RETRY: Duration = Duration::from_millis(50);

/// A listener for [`accept`].
pub trait Listen: Send + Sync {
    type Stream: Send + 'static;
    /// The address of the peer.
    type Peer: Send + 'static;

    /// Waits for the next connection. Cancel-safe.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;

    /// The source of a connection from `peer`.
    fn source(peer: &Self::Peer) -> Source;
}

impl Listen for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    fn next(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        self.accept()
    }

    fn source(peer: &SocketAddr) -> Source {
        peer.ip().into()
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;
    type Peer = ();

    async fn next(&self) -> io::Result<(UnixStream, ())> {
        let (stream, _) = self.accept().await?;
        Ok((stream, ()))
    }

    fn source((): &()) -> Source {
        Source::Local
    }
}

/// Serves each connection of `listener` with `serve`, in a task of its own, within the limits of `slots`.
/// A connection ends when `serve` does, or is closed for a new one at the limit. Dropping the future closes all.
///
/// Errors: the listener is broken.
pub async fn accept<L, F>(
    listener: &L,
    slots: &Slots,
    mut serve: impl FnMut(L::Stream, L::Peer, &Slot) -> F,
) -> io::Result<()>
where
    L: Listen,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.next() => match accepted {
                Ok((stream, peer)) => {
                    let mut slot = slots.admit(L::source(&peer));
                    let serving = serve(stream, peer, &slot);
                    connections.spawn(async move {
                        tokio::select! {
                            () = serving => {}
                            () = slot.closed() => debug!("closed a connection to make room for another one"),
                        }
                    });
                }
                Err(error) if is_of_connection(&error) => debug!("accept a connection: {error}"),
                Err(error) if is_temporary(&error) => {
                    // The process has no free descriptor; closing a connection frees one.
                    let closed = slots.close_one();
                    warn!(closed, "accept a connection: {error}; trying again");
                    sleep(RETRY).await;
                }
                Err(error) => return Err(error),
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    error!("serve a connection: {error}; please report this bug");
                }
            }
        }
    }
}

/// Whether the error concerns one connection only, which failed before it was accepted (accept(2)).
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TimedOut
    )
}

/// Whether descriptors or memory are exhausted (accept(2)).
fn is_temporary(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::AsyncReadExt;

    use super::super::Limits;
    use super::*;

    #[tokio::test]
    async fn idle_connections_make_room_for_new_ones() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slots = Slots::new(Limits {
            total: 4,
            per_source: 4,
        });
        let count = slots.clone();
        tokio::spawn(async move {
            let hold = |stream, _, _: &Slot| async move {
                let _stream: TcpStream = stream;
                pending::<()>().await;
            };
            accept(&listener, &slots, hold).await
        });
        let mut clients = Vec::new();
        for _ in 0..7 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        // The first three are closed: their reads end.
        for client in &mut clients[..3] {
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        }
        assert_eq!(count.len(), 4);
        drop(clients);
    }

    #[test]
    fn accept_errors_are_classified() {
        let of = |errno: rustix::io::Errno| io::Error::from(errno);
        assert!(is_temporary(&of(rustix::io::Errno::MFILE)));
        assert!(is_of_connection(&of(rustix::io::Errno::CONNABORTED)));
        let broken = of(rustix::io::Errno::BADF);
        assert!(!is_temporary(&broken) && !is_of_connection(&broken));
    }
}
