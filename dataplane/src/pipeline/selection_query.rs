//! Answers which backend a new flow would get, by the functions that [`admit`](super::admit) calls.

use vl3lb_common::addr::to_octets;
use vl3lb_common::selection_query::{Selection, SelectionQuery};
use vl3lb_common::{BackendSlot, DropReason, Service, Timestamp};

use super::select::NewClient;
use super::{Engine, Origin, admit, next_hop};

impl Engine {
    /// The answer to `query`, at `now`. Nothing changes; if the backend's next hop is not resolved, the kernel is asked for it,
    /// as for a packet.
    pub(crate) fn selection(&self, query: &SelectionQuery, now: Timestamp) -> Selection {
        let client = NewClient {
            address: to_octets(query.client),
            port: query.client_port,
            origin: Origin::Queue,
            now,
        };
        let Some(service) = self.policy.service(query.service) else {
            return Selection {
                owner: false,
                kept: None,
                scheduled: None,
                choice: Err(DropReason::NoService),
            };
        };
        let Self {
            policy,
            tables,
            signals,
            ..
        } = self;
        let selector = &tables.selector;
        Selection {
            owner: policy.opens(service, &client.address, client.port),
            kept: selector.kept(policy, &tables.flows, &client, service),
            scheduled: selector.scheduled(signals, &client, service),
            choice: self.choice(service, &client),
        }
    }

    fn choice(&self, service: &Service, client: &NewClient) -> Result<BackendSlot, DropReason> {
        let Self {
            policy,
            tables,
            signals,
            ..
        } = self;
        admit::permit(service, &client.address, client.port)?;
        let choice = tables
            .selector
            .pick(policy, &tables.flows, signals, client, service)?;
        let backend = policy.snapshot.backend(choice.slot).ok_or(DropReason::Internal)?;
        let mac = next_hop::of_backend(policy, signals, backend)?;
        if mac.is_none() && policy.snapshot.next_hops.refuses(&to_octets(backend.address)) {
            return Err(DropReason::NoRoute);
        }
        Ok(choice.slot)
    }
}
