//! The client of the vL3 network: gets the interface from Network Service Mesh, and keeps it.
//!
//! | step | where |
//! |---|---|
//! | decide on the next call | [`stepper`] |
//! | carry it out | [`driver`], [`call`] |
//! | what is requested, what a reply says | [`message`] |
//! | what the manager reports meanwhile | [`monitor`] |
//! | whether packets reach the endpoint | [`echo`], [`liveness`] |
//! | status and events | [`record`] |
//!
//! It runs on a thread of its own: a flood of DNS queries or a slow report must not let the connection expire. The
//! interface itself is found by the network monitor and attached as any other.

mod call;
mod driver;
mod echo;
mod liveness;
mod message;
mod monitor;
mod record;
mod stepper;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;
use vl3lb_common::Duration;

use super::connector::{Connector, NamespaceError, NetworkNamespace};
use super::identity::WorkloadApi;
use super::{Target, TargetError};
use crate::api::NsmConnection;
use crate::config::{NetworkService, Nsm};
use crate::error_chain::chain;
use crate::network::NetworkReceiver;
use crate::observe::events::Events;
use crate::supervise::Tasks;

use call::Caller;
use driver::{Driver, Leave, Parts};
use message::Terms;
use record::Record;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("NSM_CONNECT_TO: {0}")]
    Manager(#[from] TargetError),
    #[error("{}", chain(.0))]
    Namespace(#[from] NamespaceError),
    #[error("start the thread of the NSM client: {0}")]
    Thread(#[from] io::Error),
}

/// The client, before it runs.
pub struct Client {
    driver: Driver,
    leave: mpsc::Receiver<Leave>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// A running client, to others. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    status: watch::Receiver<NsmConnection>,
    leave: mpsc::Sender<Leave>,
}

impl Client {
    /// A client that requests `service` for the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// The manager's URL is unusable, or the network namespace cannot be opened.
    pub fn new(
        nsm: &Nsm,
        service: NetworkService,
        connector: Connector,
        network: NetworkReceiver,
        events: Arc<Events>,
    ) -> Result<(Self, Handle), ClientError> {
        let manager = Target::try_from(&nsm.connect_to)?;
        let namespace = NetworkNamespace::own()?;
        let terms = Terms::new(&nsm.name, service, namespace.inode_url().to_owned());
        let (record, status) = Record::new(&terms, events);
        let driver = Driver::new(Parts {
            identity: connector.identity().clone(),
            caller: Caller::new(connector, manager, namespace),
            terms,
            request_timeout: nsm.request_timeout,
            max_token_lifetime: nsm.max_token_lifetime,
            network,
            record,
        });
        let (sender, leave) = mpsc::channel(1);
        let handle = Handle {
            status,
            leave: sender,
        };
        Ok((Self { driver, leave }, handle))
    }

    /// Starts the client's thread, which also keeps the identity current. It ends when the client has left.
    ///
    /// # Errors
    ///
    /// The system has no room for a thread or its descriptors.
    pub fn start(self, workload_api: WorkloadApi, tasks: &Tasks) -> Result<(), ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (ended, end) = oneshot::channel::<Result<(), Box<dyn Any + Send>>>();
        std::thread::Builder::new()
            .name("vl3lb-nsm".to_owned())
            .spawn(move || {
                let run = async {
                    tokio::select! {
                        () = self.driver.run(self.leave) => {}
                        () = workload_api.run() => {}
                    }
                };
                let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run)));
                ended.send(outcome).ok();
            })?;
        tasks.spawn_finite("the NSM client", async move {
            if let Ok(Err(panic)) = end.await {
                resume_unwind(panic);
            }
        });
        Ok(())
    }
}

impl Handle {
    /// The connection as it is now.
    pub fn status(&self) -> NsmConnection {
        self.status.borrow().clone()
    }

    /// Closes the connection, so that the network forgets address and name at once. Gives up after `limit`: the
    /// network closes the connection itself when its tokens expire.
    pub async fn leave(&self, limit: Duration) {
        let (done, closed) = oneshot::channel();
        if self.leave.send(Leave { limit, done }).await.is_err() {
            return;
        }
        if !closed.await.unwrap_or_default() {
            warn!(
                "network service {} was not left within {limit:?}: it closes the connection when the tokens expire",
                self.status.borrow().network_service
            );
        }
    }
}
