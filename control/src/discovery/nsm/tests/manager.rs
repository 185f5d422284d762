//! A scripted manager with its registry, for faults that a real one does not have on demand.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::super::stream::{Dial, ManagerClients};
use crate::nsm::connector::ConnectError;
use crate::nsm::proto::connection::monitor_connection_server::{MonitorConnection, MonitorConnectionServer};
use crate::nsm::proto::connection::{Connection, ConnectionEvent, ConnectionEventType, MonitorScopeSelector};
use crate::nsm::proto::registry::network_service_endpoint_registry_server::{
    NetworkServiceEndpointRegistry, NetworkServiceEndpointRegistryServer,
};
use crate::nsm::proto::registry::{
    NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
};
use crate::nsm::{Channel, Target};

type Sender<T> = mpsc::UnboundedSender<Result<T, Status>>;
type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// What the manager has, and how it misbehaves.
#[derive(Default)]
struct State {
    endpoints: BTreeMap<String, NetworkServiceEndpoint>,
    /// By endpoint, then by id.
    connections: HashMap<String, BTreeMap<String, Connection>>,
    finds: Vec<Sender<NetworkServiceEndpointResponse>>,
    monitors: HashMap<String, Vec<Sender<ConnectionEvent>>>,
    /// Calls of these methods get no answer.
    hangs_at_find: bool,
    hangs_at_monitor: bool,
    /// Calls fail with this.
    refusal: Option<Status>,
    /// Monitors opened so far, by endpoint.
    opened: HashMap<String, usize>,
}

/// A manager at a unix socket. Its connections end with it.
pub(super) struct Manager {
    pub(super) target: Target,
    state: Arc<Mutex<State>>,
    open: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
    server: tokio::task::AbortHandle,
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Manager {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nsm.io.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let open: Arc<AtomicUsize> = Arc::default();
        let service = Service(Arc::clone(&state));
        let counter = Arc::clone(&open);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let routes = Routes::new(NetworkServiceEndpointRegistryServer::new(service.clone()))
                    .add_service(
                        MonitorConnectionServer::new(service.clone()).max_encoding_message_size(64 << 20),
                    );
                let counter = Arc::clone(&counter);
                connections.spawn(async move {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let served = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
                    drop(served.await);
                    counter.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            target: Target::Unix(path),
            state,
            open,
            _folder: folder,
            server: server.abort_handle(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Connections that are open now.
    pub(super) fn open_connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Monitors of `endpoint` that are open now, and that were opened so far.
    pub(super) fn monitors(&self, endpoint: &str) -> (usize, usize) {
        let mut state = self.state();
        let open = state.monitors.entry(endpoint.to_owned()).or_default();
        open.retain(|monitor| !monitor.is_closed());
        let open = open.len();
        (open, state.opened.get(endpoint).copied().unwrap_or_default())
    }

    pub(super) fn register(&self, name: &str, url: &str) {
        let endpoint = NetworkServiceEndpoint {
            name: name.to_owned(),
            network_service_names: vec![super::SERVICE.to_owned()],
            url: url.to_owned(),
            ..NetworkServiceEndpoint::default()
        };
        let mut state = self.state();
        state.endpoints.insert(name.to_owned(), endpoint.clone());
        state.send_registration(endpoint, false);
    }

    pub(super) fn unregister(&self, name: &str) {
        let mut state = self.state();
        if let Some(endpoint) = state.endpoints.remove(name) {
            state.send_registration(endpoint, true);
        }
    }

    /// Removes an endpoint without an event, as a registry that restarts.
    pub(super) fn forget(&self, name: &str) {
        self.state().endpoints.remove(name);
    }

    /// Clients request or refresh connections to `endpoint`.
    pub(super) fn request(&self, endpoint: &str, connections: impl IntoIterator<Item = super::Wire>) {
        for wire in connections {
            let connection = wire.0;
            let mut state = self.state();
            let all = state.connections.entry(endpoint.to_owned()).or_default();
            all.insert(connection.id.clone(), connection.clone());
            let connections = [(connection.id.clone(), connection)].into();
            state.send(endpoint, ConnectionEventType::Update.into(), connections);
        }
    }

    pub(super) fn close(&self, endpoint: &str, id: &str) {
        let mut state = self.state();
        let all = state.connections.entry(endpoint.to_owned()).or_default();
        if let Some(connection) = all.remove(id) {
            let connections = [(id.to_owned(), connection)].into();
            state.send(endpoint, ConnectionEventType::Delete.into(), connections);
        }
    }

    /// Sends any event to the monitors of `endpoint`.
    pub(super) fn send(&self, endpoint: &str, kind: i32, connections: HashMap<String, Connection>) {
        self.state().send(endpoint, kind, connections);
    }

    /// Ends all streams: cleanly, or with an error.
    pub(super) fn end_streams(&self, error: Option<Status>) {
        let mut state = self.state();
        let Some(error) = error else {
            state.finds.clear();
            state.monitors.clear();
            return;
        };
        for find in state.finds.drain(..) {
            find.send(Err(error.clone())).ok();
        }
        for monitor in state.monitors.drain().flat_map(|(_, monitors)| monitors) {
            monitor.send(Err(error.clone())).ok();
        }
    }

    /// Forgets all connections and ends all streams, as by a restart.
    pub(super) fn restart(&self) {
        self.state().connections.clear();
        self.end_streams(None);
    }

    pub(super) fn hang(&self, at_find: bool, at_monitor: bool) {
        let mut state = self.state();
        (state.hangs_at_find, state.hangs_at_monitor) = (at_find, at_monitor);
    }

    pub(super) fn refuse(&self, refusal: Option<Status>) {
        self.state().refusal = refusal;
    }
}

impl State {
    fn send_registration(&mut self, endpoint: NetworkServiceEndpoint, deleted: bool) {
        let answer = NetworkServiceEndpointResponse {
            network_service_endpoint: Some(endpoint),
            deleted,
        };
        self.finds.retain(|find| find.send(Ok(answer.clone())).is_ok());
    }

    fn send(&mut self, endpoint: &str, kind: i32, connections: HashMap<String, Connection>) {
        let event = ConnectionEvent {
            r#type: kind,
            connections,
        };
        if let Some(monitors) = self.monitors.get_mut(endpoint) {
            monitors.retain(|monitor| monitor.send(Ok(event.clone())).is_ok());
        }
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn answers<T: Send + 'static>(receiver: mpsc::UnboundedReceiver<Result<T, Status>>) -> Answers<T> {
    let next = |mut receiver: mpsc::UnboundedReceiver<_>| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    };
    stream::unfold(receiver, next).boxed()
}

#[tonic::async_trait]
impl NetworkServiceEndpointRegistry for Service {
    type FindStream = Answers<NetworkServiceEndpointResponse>;

    async fn register(
        &self,
        _: Request<NetworkServiceEndpoint>,
    ) -> Result<Response<NetworkServiceEndpoint>, Status> {
        Err(Status::unimplemented("a balancer registers nothing"))
    }

    async fn find(
        &self,
        query: Request<NetworkServiceEndpointQuery>,
    ) -> Result<Response<Self::FindStream>, Status> {
        if self.state().hangs_at_find {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let query = query.into_inner();
        let names = query.network_service_endpoint.unwrap().network_service_names;
        assert_eq!(names, [super::SERVICE]);
        let (sender, receiver) = mpsc::unbounded_channel();
        for endpoint in state.endpoints.values() {
            let answer = NetworkServiceEndpointResponse {
                network_service_endpoint: Some(endpoint.clone()),
                deleted: false,
            };
            sender.send(Ok(answer)).unwrap();
        }
        if query.watch {
            state.finds.push(sender);
        }
        Ok(Response::new(answers(receiver)))
    }

    async fn unregister(&self, _: Request<NetworkServiceEndpoint>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("a balancer registers nothing"))
    }
}

#[tonic::async_trait]
impl MonitorConnection for Service {
    type MonitorConnectionsStream = Answers<ConnectionEvent>;

    async fn monitor_connections(
        &self,
        selector: Request<MonitorScopeSelector>,
    ) -> Result<Response<Self::MonitorConnectionsStream>, Status> {
        if self.state().hangs_at_monitor {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let endpoint = selector.into_inner().path_segments.remove(0).name;
        let (sender, receiver) = mpsc::unbounded_channel();
        let connections = state.connections.get(&endpoint).cloned().unwrap_or_default();
        let list = ConnectionEvent {
            r#type: ConnectionEventType::InitialStateTransfer.into(),
            connections: connections.into_iter().collect(),
        };
        sender.send(Ok(list)).unwrap();
        *state.opened.entry(endpoint.clone()).or_default() += 1;
        state.monitors.entry(endpoint).or_default().push(sender);
        Ok(Response::new(answers(receiver)))
    }
}

/// Connects without TLS. Remote managers are known by their URLs.
#[derive(Debug, Clone, Default)]
pub(super) struct PlainDial {
    pub(super) remotes: HashMap<Target, Target>,
}

impl Dial for PlainDial {
    async fn dial(&self, target: &Target) -> Result<ManagerClients, ConnectError> {
        let failed = |source| ConnectError::Dial {
            target: target.clone(),
            source,
        };
        let missing = || failed(std::io::ErrorKind::ConnectionRefused.into());
        let server = match target {
            Target::Unix(_) => target,
            Target::Tcp { .. } => self.remotes.get(target).ok_or_else(missing)?,
        };
        let path: &PathBuf = match server {
            Target::Unix(path) => path,
            Target::Tcp { .. } => return Err(missing()),
        };
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let channel = Channel::open(stream, Arc::new(target.clone()), None)
            .await
            .map_err(|source| ConnectError::Http {
                target: target.clone(),
                source,
            })?;
        Ok(ManagerClients {
            registry: channel.registry(),
            monitor: channel.monitor(),
        })
    }
}
