//! This process in Network Service Mesh: its identity, and the client if it is to get the interface.

use std::sync::Arc;

use crate::cli::Failure;
use crate::config::Config;
use crate::network::NetworkReceiver;
use crate::nsm::client::{Client, Handle};
use crate::nsm::connector::{Connector, Limits};
use crate::nsm::identity::{Identity, WorkloadApi};
use crate::observe::events::Events;
use crate::supervise::Tasks;
use tracing::info;

use super::{failed, refused};

/// What is not started yet.
pub(super) struct Nsm {
    /// Connects with this process's identity, once [`Self::start`] keeps it current.
    pub(super) connector: Connector,
    workload_api: WorkloadApi,
    /// `None` where another process makes the interface.
    client: Option<Client>,
    pub(super) handle: Option<Handle>,
}

/// Prepares what NSM_NETWORK_SERVICES and discovery ask for; `None` if neither asks for anything.
///
/// Errors: settings that cannot be used.
pub(super) fn prepare(
    config: &Config,
    network: &NetworkReceiver,
    events: &Arc<Events>,
) -> Result<Option<Nsm>, Failure> {
    let nsm = &config.nsm;
    if nsm.network_service.is_none() && !config.uses_nsm() {
        return Ok(None);
    }
    info!("manager {}, identity from {}", nsm.connect_to, nsm.workload_api);
    let (identity, workload_api) = Identity::new(&nsm.workload_api).map_err(refused)?;
    let limits = Limits {
        dial_timeout: nsm.dial_timeout,
        max_token_lifetime: nsm.max_token_lifetime,
    };
    let connector = Connector::new(identity, limits);
    let (client, handle) = match nsm.network_service.clone() {
        Some(service) => {
            info!(
                "client {} of network service {}, labels {:?}",
                nsm.name, service.name, service.labels
            );
            let client = Client::new(
                nsm,
                service,
                connector.clone(),
                network.clone(),
                Arc::clone(events),
            );
            let (client, handle) = client.map_err(refused)?;
            (Some(client), Some(handle))
        }
        None => (None, None),
    };
    Ok(Some(Nsm {
        connector,
        workload_api,
        client,
        handle,
    }))
}

impl Nsm {
    /// Keeps the identity current from now on, and requests the network service.
    pub(super) fn start(self, tasks: &Tasks) -> Result<(), Failure> {
        match self.client {
            Some(client) => client.start(self.workload_api, tasks).map_err(failed),
            None => {
                tasks.spawn("the SPIFFE identity", self.workload_api.run());
                Ok(())
            }
        }
    }
}
