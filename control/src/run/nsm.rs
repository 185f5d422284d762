//! This process in Network Service Mesh: its identity, and the client if it is to get the interface.

use std::sync::Arc;

use tracing::info;
use vl3lb_control::cli::Failure;
use vl3lb_control::config::Config;
use vl3lb_control::network::NetworkReceiver;
use vl3lb_control::nsm::client::{Client, Handle};
use vl3lb_control::nsm::connector::{Connector, Limits};
use vl3lb_control::nsm::identity::{Identity, WorkloadApi};
use vl3lb_control::observe::events::Events;
use vl3lb_control::supervise::Tasks;

use super::{failed, refused};

/// A client that is not started yet.
pub(super) struct Nsm {
    workload_api: WorkloadApi,
    client: Client,
    pub(super) handle: Handle,
}

/// The client that NSM_NETWORK_SERVICES asks for; `None` without it.
///
/// Errors: settings that cannot be used.
pub(super) fn prepare(
    config: &Config,
    network: &NetworkReceiver,
    events: &Arc<Events>,
) -> Result<Option<Nsm>, Failure> {
    let nsm = &config.nsm;
    let Some(service) = nsm.network_service.clone() else {
        return Ok(None);
    };
    info!(
        "client {} of network service {}, manager {}, identity from {}, labels {:?}",
        nsm.name, service.name, nsm.connect_to, nsm.workload_api, service.labels
    );
    let (identity, workload_api) = Identity::new(&nsm.workload_api).map_err(refused)?;
    let limits = Limits {
        dial_timeout: nsm.dial_timeout,
        max_token_lifetime: nsm.max_token_lifetime,
    };
    let connector = Connector::new(identity, limits);
    let (client, handle) =
        Client::new(nsm, service, connector, network.clone(), Arc::clone(events)).map_err(refused)?;
    Ok(Some(Nsm {
        workload_api,
        client,
        handle,
    }))
}

impl Nsm {
    /// Requests the network service from now on.
    pub(super) fn start(self, tasks: &Tasks) -> Result<(), Failure> {
        self.client.start(self.workload_api, tasks).map_err(failed)
    }
}
