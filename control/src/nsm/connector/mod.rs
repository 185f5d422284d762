//! Authenticated connections to NSM servers.

mod credentials;
mod descriptor_stream;
mod error;
mod namespace;
#[cfg(test)]
mod tests;
mod tls;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

pub(super) use credentials::Credentials;
pub use error::{ConnectError, Step};
pub use namespace::{NamespaceError, NetworkNamespace};
pub use tls::{PeerError, TlsError};

use super::channel::Channel;
use super::identity::{Identity, X509Context};
use super::proto::connection::monitor_connection_client::MonitorConnectionClient;
use super::proto::networkservice::network_service_client::NetworkServiceClient;
use super::proto::registry::network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient;
use super::target::Target;
use descriptor_stream::DescriptorStream;

/// Connects to NSM servers with this workload's identity. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    identity: Identity,
    limits: Limits,
}

/// Limits of connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// NSM_DIAL_TIMEOUT: of connecting, TLS and the wait for the first SVID included.
    pub dial_timeout: Duration,
    /// NSM_MAX_TOKEN_LIFETIME: of the validity of tokens.
    pub max_token_lifetime: Duration,
}

/// An authenticated connection: the SVID and the peer are those of the time when it was opened, so use a new one for
/// each `Request` and `Close`. A stream keeps its connection open. Cheap to clone.
///
/// Calls have no limit of their own: give each a deadline by [`tonic::Request::set_timeout`], which is for the
/// server, and by `tokio::time::timeout`.
#[derive(Debug, Clone)]
pub struct Session {
    channel: Channel,
    credentials: Arc<Credentials>,
}

impl Connector {
    pub fn new(identity: Identity, limits: Limits) -> Self {
        Self { identity, limits }
    }

    /// The identity of its connections.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Opens a connection. Cancel-safe.
    pub async fn connect(&self, target: &Target) -> Result<Session, ConnectError> {
        self.open(target, None).await
    }

    /// Opens a connection and passes the network namespace with its first bytes, so that the server finds it when a
    /// message names [`NetworkNamespace::inode_url`]. Servers keep it as long as the connection; one that has
    /// restarted knows none. Cancel-safe.
    pub async fn connect_with_netns(
        &self,
        target: &Target,
        namespace: &NetworkNamespace,
    ) -> Result<Session, ConnectError> {
        self.open(target, Some(namespace.descriptor())).await
    }

    async fn open(&self, target: &Target, descriptor: Option<Arc<OwnedFd>>) -> Result<Session, ConnectError> {
        let deadline = Instant::now() + self.limits.dial_timeout;
        let dial = |source| ConnectError::Dial {
            target: target.clone(),
            source,
        };
        let context = self.context(deadline, target).await?;
        match target {
            Target::Unix(path) => {
                let stream = self
                    .within(deadline, target, Step::Dial, UnixStream::connect(path))
                    .await?
                    .map_err(dial)?;
                let stream = DescriptorStream::new(stream, descriptor);
                self.authenticate(deadline, target, context, stream).await
            }
            Target::Tcp { .. } if descriptor.is_some() => Err(ConnectError::DescriptorOverTcp {
                target: target.clone(),
            }),
            Target::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port));
                let stream = self
                    .within(deadline, target, Step::Dial, stream)
                    .await?
                    .map_err(dial)?;
                keep_alive(&stream).map_err(dial)?;
                self.authenticate(deadline, target, context, stream).await
            }
        }
    }

    /// The newest SVID, if it is valid.
    async fn context(&self, deadline: Instant, target: &Target) -> Result<Arc<X509Context>, ConnectError> {
        let context = tokio::time::timeout_at(deadline, self.identity.context())
            .await
            .map_err(|_| ConnectError::NoIdentity {
                target: target.clone(),
                limit: self.limits.dial_timeout,
                source: self.identity.error(),
            })?;
        let leaf = context.svid.leaf();
        if leaf.not_after <= SystemTime::now() {
            return Err(ConnectError::ExpiredIdentity {
                target: target.clone(),
                id: leaf.id.to_string(),
                expired: leaf.not_after,
                source: self.identity.error(),
            });
        }
        Ok(context)
    }

    /// TLS and HTTP/2 on a connected stream.
    async fn authenticate<S>(
        &self,
        deadline: Instant,
        target: &Target,
        context: Arc<X509Context>,
        stream: S,
    ) -> Result<Session, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, peer) = self
            .within(deadline, target, Step::Tls, tls::connect(stream, &context))
            .await?
            .map_err(|source| ConnectError::Tls {
                target: target.clone(),
                source,
            })?;
        let credentials = Arc::new(Credentials::new(context, peer, self.limits.max_token_lifetime));
        let channel = Channel::open(stream, Arc::new(target.clone()), Some(credentials.clone()));
        let channel = self
            .within(deadline, target, Step::Http, channel)
            .await?
            .map_err(|source| ConnectError::Http {
                target: target.clone(),
                source,
            })?;
        Ok(Session { channel, credentials })
    }

    async fn within<T>(
        &self,
        deadline: Instant,
        target: &Target,
        step: Step,
        work: impl Future<Output = T>,
    ) -> Result<T, ConnectError> {
        tokio::time::timeout_at(deadline, work)
            .await
            .map_err(|_| ConnectError::Timeout {
                step,
                target: target.clone(),
                limit: self.limits.dial_timeout,
            })
    }
}

impl Session {
    /// The SPIFFE ID of the server, from its certificate.
    pub fn peer(&self) -> &SpiffeId {
        &self.credentials.peer().id
    }

    /// `Request` and `Close`.
    pub fn network_service(&self) -> NetworkServiceClient<Channel> {
        self.channel.network_service()
    }

    /// `MonitorConnections`. Events hold the bearer tokens of other clients: their `Debug` leaves them out, and so
    /// must everything that is shown or stored.
    pub fn monitor(&self) -> MonitorConnectionClient<Channel> {
        self.channel.monitor()
    }

    /// `Find` of network service endpoints.
    pub fn registry(&self) -> NetworkServiceEndpointRegistryClient<Channel> {
        self.channel.registry()
    }
}

/// Ends connections to a node that is gone within about 25 seconds, also those that only wait for events. HTTP/2
/// pings cannot do it: gRPC servers in Go end connections that ping more often than every five minutes.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    sockopt::set_tcp_user_timeout(stream, 25_000)?;
    stream.set_nodelay(true)?;
    Ok(())
}
