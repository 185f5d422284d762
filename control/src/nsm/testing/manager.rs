//! A manager: TLS with SVIDs, descriptors, the rules for tokens, and prepared answers.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use hyper::Request as HttpRequest;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tower::Service;

use super::authority::{Authority, Issued};
use super::policy::{Hop, authorize};
use super::receiver::{Descriptors, ReceivingStream};
use crate::nsm::identity::Leaf;
use crate::nsm::proto::connection::monitor_connection_server::{MonitorConnection, MonitorConnectionServer};
use crate::nsm::proto::connection::{Connection, ConnectionEvent, MonitorScopeSelector};
use crate::nsm::proto::networkservice::NetworkServiceRequest;
use crate::nsm::proto::networkservice::network_service_server::{NetworkService, NetworkServiceServer};
use crate::nsm::proto::registry::network_service_endpoint_registry_server::{
    NetworkServiceEndpointRegistry, NetworkServiceEndpointRegistryServer,
};
use crate::nsm::proto::registry::{
    NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
};

/// A manager on a Unix socket. It ends when it is dropped, and all connections with it.
pub(crate) struct Manager {
    pub(crate) shared: Arc<Shared>,
    path: PathBuf,
    tasks: Vec<tokio::task::AbortHandle>,
}

pub(crate) struct Shared {
    /// All calls so far.
    pub(crate) received: Mutex<Vec<Received>>,
    pub(crate) answers: Mutex<Answers>,
    config: Mutex<Arc<ServerConfig>>,
    svid: Issued,
    /// Handshakes that failed, with the reason.
    pub(crate) refused: Mutex<Vec<String>>,
}

/// What the manager answers.
#[derive(Default)]
pub(crate) struct Answers {
    /// The events of each monitor, which then stays open.
    pub(crate) events: Vec<ConnectionEvent>,
    /// The entries of each Find, which then ends, or stays open if it watches.
    pub(crate) endpoints: Vec<NetworkServiceEndpointResponse>,
}

/// A call as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// `/SERVICE/METHOD`.
    pub(crate) method: String,
    pub(crate) authority: String,
    /// The metadata `nsm-client-token`.
    pub(crate) token: String,
    pub(crate) expires: String,
    pub(crate) connection: ConnectionInfo,
    /// Of a `Request`.
    pub(crate) request: Option<NetworkServiceRequest>,
}

/// The connection that a call came on.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    pub(crate) number: usize,
    /// The client's.
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) descriptors: Descriptors,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) resumed: bool,
}

impl Manager {
    /// Listens, and trusts these authorities. Call it in a tokio runtime.
    pub(crate) fn start(path: &Path, svid: &Issued, trusted: &[&Authority]) -> Self {
        std::fs::remove_file(path).ok();
        let listener = UnixListener::bind(path).expect("a socket");
        let svid = svid.clone();
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            answers: Mutex::default(),
            config: Mutex::new(config(&svid, trusted, &[b"h2"])),
            svid,
            refused: Mutex::default(),
        });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            // The connections end with this task.
            let mut connections = JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let stream = ReceivingStream::new(stream);
                let descriptors = stream.descriptors();
                connections.spawn(serve(serving.clone(), number, stream, descriptors));
            }
        });
        Self {
            shared,
            path: path.to_owned(),
            tasks: vec![task.abort_handle()],
        }
    }

    /// Listens on a port of the loopback as well, and returns its URL.
    pub(crate) async fn listen_on_tcp(&mut self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("tcp://{}", listener.local_addr().expect("an address"));
        let serving = self.shared.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for number in 1000.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                connections.spawn(serve(serving.clone(), number, stream, Descriptors::default()));
            }
        });
        self.tasks.push(task.abort_handle());
        url
    }

    /// The value of NSM_CONNECT_TO.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// The protocols that TLS of new connections offers, in place of h2.
    pub(crate) fn offer(&self, trusted: &[&Authority], protocols: &[&[u8]]) {
        *self.shared.config.lock().expect("no panic") = config(&self.shared.svid, trusted, protocols);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("no panic").clone()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// TLS that would resume sessions, as a server may.
fn config(svid: &Issued, trusted: &[&Authority], protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in trusted {
        roots.add(authority.certificate.clone()).expect("an authority");
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .expect("authorities");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![svid.certificate.clone()], svid.private_key())
        .expect("a certificate");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = rustls::crypto::ring::Ticketer::new().expect("tickets");
    Arc::new(config)
}

async fn serve<S>(shared: Arc<Shared>, number: usize, stream: S, descriptors: Descriptors)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = shared.config.lock().expect("no panic").clone();
    let stream = match TlsAcceptor::from(config).accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            shared.refused.lock().expect("no panic").push(error.to_string());
            return;
        }
    };
    let tls = stream.get_ref().1;
    let certificates = tls.peer_certificates().expect("a client certificate");
    let info = ConnectionInfo {
        number,
        certificate: certificates[0].clone().into_owned(),
        descriptors,
        alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
        resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
    };
    let service = Services {
        shared: shared.clone(),
    };
    let routes = Routes::new(NetworkServiceServer::new(service.clone()))
        .add_service(MonitorConnectionServer::new(service.clone()))
        .add_service(NetworkServiceEndpointRegistryServer::new(service))
        .prepare();
    let service = hyper::service::service_fn(move |mut request: HttpRequest<Incoming>| {
        let header = |name: &str| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let received = Received {
            method: request.uri().path().to_owned(),
            authority: request
                .uri()
                .authority()
                .map(ToString::to_string)
                .unwrap_or_default(),
            token: header("nsm-client-token"),
            expires: header("nsm-client-token-expires"),
            connection: info.clone(),
            request: None,
        };
        shared.received.lock().expect("no panic").push(received);
        request.extensions_mut().insert(info.clone());
        routes.clone().call(request)
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await
        .ok();
}

#[derive(Clone)]
struct Services {
    shared: Arc<Shared>,
}

impl Services {
    /// The rules for tokens; puts the path of the reply into the connection.
    fn authorize<T>(&self, request: &Request<T>, connection: &mut Connection) -> Result<(), Status> {
        let info = request
            .extensions()
            .get::<ConnectionInfo>()
            .expect("inserted above");
        let hop = Hop {
            name: "nsmgr-0",
            svid: &self.shared.svid,
            next: "spiffe://k8s.nsm/ns/nsm-system/pod/forwarder-0",
        };
        let id = connection.id.clone();
        let path = connection
            .path
            .as_mut()
            .ok_or_else(|| Status::permission_denied("no sufficient privileges"))?;
        authorize(path, &id, request.metadata(), &info.certificate, &hop)?;
        // As seen by the client.
        path.index -= 1;
        Ok(())
    }
}

#[async_trait::async_trait]
impl NetworkService for Services {
    async fn request(&self, request: Request<NetworkServiceRequest>) -> Result<Response<Connection>, Status> {
        let message = request.get_ref().clone();
        if let Some(received) = self.shared.received.lock().expect("no panic").last_mut() {
            received.request = Some(message.clone());
        }
        let mut connection = message
            .connection
            .ok_or_else(|| Status::permission_denied("no sufficient privileges"))?;
        self.authorize(&request, &mut connection)?;
        let mechanism = message
            .mechanism_preferences
            .into_iter()
            .find(|mechanism| mechanism.cls == "LOCAL" && mechanism.r#type == "KERNEL");
        let Some(mechanism) = mechanism else {
            return Err(Status::unknown("cannot support any of the requested mechanism"));
        };
        let Some(inode_url) = mechanism.parameters.get("inodeURL") else {
            return Err(Status::unknown("cannot support any of the requested mechanism"));
        };
        let info = request
            .extensions()
            .get::<ConnectionInfo>()
            .expect("inserted above");
        let timeout = request
            .metadata()
            .get("grpc-timeout")
            .and_then(|value| value.to_str().ok());
        let timeout = timeout.map_or(Duration::from_secs(15), grpc_timeout);
        let arrived = async {
            while !info.descriptors.contains(inode_url) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(timeout, arrived)
            .await
            .map_err(|_| Status::deadline_exceeded(format!("timeout in recvfd waiting for {inode_url}")))?;
        connection.mechanism = Some(mechanism);
        "IP".clone_into(&mut connection.payload);
        Ok(Response::new(connection))
    }

    async fn close(&self, request: Request<Connection>) -> Result<Response<()>, Status> {
        let mut connection = request.get_ref().clone();
        self.authorize(&request, &mut connection)?;
        Ok(Response::new(()))
    }
}

/// The header `grpc-timeout`: a number and its unit.
fn grpc_timeout(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let number = number.parse().expect("a number");
    match unit {
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => panic!("{text}"),
    }
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait::async_trait]
impl MonitorConnection for Services {
    type MonitorConnectionsStream = Answer<ConnectionEvent>;

    async fn monitor_connections(
        &self,
        _request: Request<MonitorScopeSelector>,
    ) -> Result<Response<Self::MonitorConnectionsStream>, Status> {
        let events = self.shared.answers.lock().expect("no panic").events.clone();
        let events = stream::iter(events.into_iter().map(Ok)).chain(stream::pending());
        Ok(Response::new(events.boxed()))
    }
}

#[async_trait::async_trait]
impl NetworkServiceEndpointRegistry for Services {
    type FindStream = Answer<NetworkServiceEndpointResponse>;

    async fn register(
        &self,
        _request: Request<NetworkServiceEndpoint>,
    ) -> Result<Response<NetworkServiceEndpoint>, Status> {
        Err(Status::unimplemented("a client registers nothing"))
    }

    async fn find(
        &self,
        request: Request<NetworkServiceEndpointQuery>,
    ) -> Result<Response<Self::FindStream>, Status> {
        let endpoints = self.shared.answers.lock().expect("no panic").endpoints.clone();
        let endpoints = stream::iter(endpoints.into_iter().map(Ok));
        Ok(Response::new(if request.get_ref().watch {
            endpoints.chain(stream::pending()).boxed()
        } else {
            endpoints.boxed()
        }))
    }

    async fn unregister(&self, _request: Request<NetworkServiceEndpoint>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("a client registers nothing"))
    }
}

impl ConnectionInfo {
    /// The SPIFFE ID of the client.
    pub(crate) fn client(&self) -> String {
        Leaf::parse(&self.certificate).expect("an SVID").id.to_string()
    }
}
