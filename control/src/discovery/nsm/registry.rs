//! Follows the endpoints of the network service in the registry, through the manager of this node.

use std::convert::Infallible;
use std::pin::pin;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::{Request, Streaming};
use vl3lb_common::Duration;

use super::endpoint::{InvalidRegistration, Registration};
use super::stream::{Backoff, Dial, StreamError, failed, within};
use crate::nsm::proto::registry::network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient;
use crate::nsm::proto::registry::{
    NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
};
use crate::nsm::{Channel, Target};

/// The name of the call in errors.
const FIND: &str = "find endpoints";
/// Time between two complete lists. A list and a watch are two calls: a change between them could be missed.
const RELIST: Duration = Duration::from_secs(30);

/// What the registry reports.
#[derive(Debug)]
pub(super) enum RegistryReport {
    /// All endpoints.
    Listed(Vec<Result<Registration, InvalidRegistration>>),
    /// A new endpoint, or a repeated registration.
    Registered(Result<Registration, InvalidRegistration>),
    Unregistered(String),
    Lost(StreamError),
}

/// What to follow, and how.
#[derive(Debug, Clone)]
pub(super) struct Registry<D> {
    pub(super) dial: D,
    /// The manager of this node.
    pub(super) manager: Target,
    pub(super) service: String,
    /// The limit of a list.
    pub(super) limit: Duration,
}

impl<D: Dial> Registry<D> {
    /// Follows the registry for ever. Cancelled by dropping; so it is if nobody receives `reports`.
    pub(super) async fn run(self, reports: mpsc::Sender<RegistryReport>) {
        let mut backoff = Backoff::new();
        loop {
            let Err(error) = self.follow(&reports, &mut backoff).await;
            if reports.send(RegistryReport::Lost(error)).await.is_err() {
                return;
            }
            backoff.wait().await;
        }
    }

    /// Lists, then watches until the stream ends.
    async fn follow(
        &self,
        reports: &mpsc::Sender<RegistryReport>,
        backoff: &mut Backoff,
    ) -> Result<Infallible, StreamError> {
        let registry = self.dial.dial(&self.manager).await?.registry;
        let mut lists = interval_at(Instant::now() + RELIST, RELIST);
        lists.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let list = self.list(registry.clone()).await?;
        send(reports, RegistryReport::Listed(list)).await;
        backoff.reset();
        let mut watcher = registry.clone();
        // A server may send its headers with its first answer, so a network service without endpoints is no failure.
        let mut opening = pin!(watcher.find(self.query(true)));
        let mut watch: Option<Streaming<NetworkServiceEndpointResponse>> = None;
        loop {
            tokio::select! {
                opened = &mut opening, if watch.is_none() => {
                    watch = Some(opened.map_err(|status| failed(FIND, status))?.into_inner());
                }
                answer = next(&mut watch), if watch.is_some() => {
                    send(reports, change(answer?)).await;
                }
                _ = lists.tick() => {
                    let list = self.list(registry.clone()).await?;
                    send(reports, RegistryReport::Listed(list)).await;
                }
            }
        }
    }

    /// All endpoints of the network service.
    async fn list(
        &self,
        mut registry: NetworkServiceEndpointRegistryClient<Channel>,
    ) -> Result<Vec<Result<Registration, InvalidRegistration>>, StreamError> {
        let mut query = Request::new(self.query(false));
        query.set_timeout(self.limit);
        within(FIND, self.limit, async {
            let mut answers = registry.find(query).await?.into_inner();
            let mut list = Vec::new();
            while let Some(answer) = answers.message().await? {
                if !answer.deleted {
                    list.push(Registration::read(
                        answer.network_service_endpoint.unwrap_or_default(),
                    ));
                }
            }
            Ok(list)
        })
        .await
    }

    fn query(&self, watch: bool) -> NetworkServiceEndpointQuery {
        NetworkServiceEndpointQuery {
            network_service_endpoint: Some(NetworkServiceEndpoint {
                network_service_names: vec![self.service.clone()],
                ..NetworkServiceEndpoint::default()
            }),
            watch,
        }
    }
}

async fn next(
    watch: &mut Option<Streaming<NetworkServiceEndpointResponse>>,
) -> Result<NetworkServiceEndpointResponse, StreamError> {
    let answer = match watch {
        Some(watch) => watch.message().await.map_err(|status| failed(FIND, status))?,
        None => None,
    };
    answer.ok_or(StreamError::Ended { call: FIND })
}

fn change(answer: NetworkServiceEndpointResponse) -> RegistryReport {
    let endpoint = answer.network_service_endpoint.unwrap_or_default();
    if answer.deleted {
        RegistryReport::Unregistered(endpoint.name)
    } else {
        RegistryReport::Registered(Registration::read(endpoint))
    }
}

/// A receiver that is gone is noticed with the next loss; the task is cancelled before.
async fn send(reports: &mpsc::Sender<RegistryReport>, report: RegistryReport) {
    reports.send(report).await.ok();
}
