//! What `top` knows of the balancer at one moment, with rates over the time since the sample before.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::api::{Backend, Envelope, Event, EventList, ReasonCount, Service, Status, Time, Traffic, Worker};
use crate::cli::client::{Client, read};
use crate::cli::exit::{Failure, FailureKind};

/// Events that are kept, for the views of one service, too.
const EVENTS: &str = "100";

/// The answers of the admin API to one round of queries.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// The balancer's time.
    pub time: Time,
    /// The window of rates; `None` in the first sample, whose rates are unknown.
    pub window_seconds: Option<f64>,
    pub status: Status,
    pub services: Vec<Service>,
    pub backends: Vec<Backend>,
    /// Oldest first.
    pub events: Vec<Event>,
}

impl Sample {
    /// Queries the balancer; its rates are those of the answers.
    pub(super) async fn fetch(client: &Client) -> Result<Self, Failure> {
        let events = [("limit".to_owned(), EVENTS.to_owned())];
        let (status, services, backends, events) = tokio::try_join!(
            client.get("/api/v1/status", &[]),
            client.get("/api/v1/services", &[]),
            client.get("/api/v1/backends", &[]),
            client.get("/api/v1/events", &events),
        )?;
        let status: Envelope<Status> = read(&status)?;
        let services: Envelope<Service> = read(&services)?;
        let backends: Envelope<Backend> = read(&backends)?;
        let events: EventList = read(&events)?;
        let time = status.time;
        let status = status.items.into_iter().next();
        let status = status
            .ok_or_else(|| Failure::new(FailureKind::Answered, "/api/v1/status: no item in the answer"))?;
        Ok(Self {
            time,
            window_seconds: services.window_seconds,
            status,
            services: services.items,
            backends: backends.items,
            events: events.envelope.items,
        })
    }

    /// Replaces all rates by those since `previous`. They are unknown without it, after a restart of the balancer, and of
    /// objects that are new.
    pub(super) fn since(mut self, previous: Option<&Self>) -> Self {
        let previous = previous.filter(|previous| previous.status.start_time == self.status.start_time);
        let seconds = previous.map(|previous| self.time.since(previous.time).as_secs_f64());
        self.window_seconds = seconds.filter(|&seconds| seconds > 0.0);
        let window = Window(self.window_seconds);
        window.status(&mut self.status, previous.map(|previous| &previous.status));
        let services: HashMap<&str, &Service> = previous
            .iter()
            .flat_map(|previous| &previous.services)
            .map(|service| (service.name.as_str(), service))
            .collect();
        for service in &mut self.services {
            let before = services.get(service.name.as_str()).copied();
            window.service(service, before);
        }
        let backends: HashMap<(&str, SocketAddr), &Backend> = previous
            .iter()
            .flat_map(|previous| &previous.backends)
            .map(|backend| ((backend.service.as_str(), backend.endpoint()), backend))
            .collect();
        for backend in &mut self.backends {
            let before = backends
                .get(&(backend.service.as_str(), backend.endpoint()))
                .copied();
            window.backend(backend, before);
        }
        self
    }
}

/// Seconds between two samples.
#[derive(Debug, Clone, Copy)]
struct Window(Option<f64>);

#[expect(clippy::cast_precision_loss, reason = "rates are shown with three digits")]
impl Window {
    /// The rate of a counter; unknown where it is new or began anew.
    fn rate(self, before: Option<u64>, now: u64) -> Option<f64> {
        Some(now.checked_sub(before?)? as f64 / self.0?)
    }

    fn traffic(self, traffic: &mut Traffic, before: Option<&Traffic>) {
        traffic.packets_per_second = self.rate(before.map(|t| t.packets_total), traffic.packets_total);
        traffic.bytes_per_second = self.rate(before.map(|t| t.bytes_total), traffic.bytes_total);
    }

    /// Sets the rate of each reason, and returns their sum.
    fn drops(self, drops: &mut [ReasonCount], before: Option<&[ReasonCount]>) -> Option<f64> {
        for drop in &mut *drops {
            let total = before.map(|before| {
                let same = before.iter().find(|other| other.reason == drop.reason);
                same.map_or(0, |other| other.packets_total)
            });
            drop.packets_per_second = self.rate(total, drop.packets_total);
        }
        let total = |drops: &[ReasonCount]| drops.iter().map(|drop| drop.packets_total).sum();
        self.rate(before.map(total), total(drops))
    }

    fn status(self, status: &mut Status, before: Option<&Status>) {
        let (totals, earlier) = (&mut status.totals, before.map(|before| &before.totals));
        self.traffic(&mut totals.inbound, earlier.map(|t| &t.inbound));
        self.traffic(&mut totals.outbound, earlier.map(|t| &t.outbound));
        totals.drops_per_second = self.drops(&mut totals.drops, earlier.map(|t| t.drops.as_slice()));
        let packets = [
            totals.drops_per_second,
            totals.inbound.packets_per_second,
            totals.outbound.packets_per_second,
        ];
        let all: Option<f64> = packets.into_iter().sum();
        totals.drop_ratio = totals
            .drops_per_second
            .zip(all)
            .map(|(drops, all)| if all > 0.0 { drops / all } else { 0.0 });
        totals.flows_change_per_second = earlier
            .zip(self.0)
            .map(|(earlier, seconds)| (totals.flows as f64 - earlier.flows as f64) / seconds);
        for worker in &mut status.workers {
            let same = |before: &&Worker| before.id == worker.id;
            let earlier = before.and_then(|before| before.workers.iter().find(same));
            worker.busy_ratio = earlier.zip(self.0).map(|(earlier, seconds)| {
                ((worker.busy_seconds_total - earlier.busy_seconds_total) / seconds).clamp(0.0, 1.0)
            });
            worker.packets_per_burst = earlier.and_then(|earlier| {
                let bursts = worker.bursts_total.checked_sub(earlier.bursts_total)?;
                let packets = worker
                    .received_packets_total
                    .checked_sub(earlier.received_packets_total)?;
                (bursts > 0).then(|| packets as f64 / bursts as f64)
            });
        }
    }

    fn service(self, service: &mut Service, before: Option<&Service>) {
        self.traffic(&mut service.inbound, before.map(|b| &b.inbound));
        self.traffic(&mut service.outbound, before.map(|b| &b.outbound));
        service.new_flows_per_second =
            self.rate(before.map(|b| b.flows_opened_total), service.flows_opened_total);
        service.drops_per_second = self.drops(&mut service.drops, before.map(|b| b.drops.as_slice()));
    }

    fn backend(self, backend: &mut Backend, before: Option<&Backend>) {
        self.traffic(&mut backend.inbound, before.map(|b| &b.inbound));
        self.traffic(&mut backend.outbound, before.map(|b| &b.outbound));
        backend.new_flows_per_second =
            self.rate(before.map(|b| b.flows_opened_total), backend.flows_opened_total);
        backend.failures_per_second = self.rate(before.map(|b| b.failures.total()), backend.failures.total());
    }
}
