//! IPFIX over UDP (RFC 7011): flow records of a NAT, with the elements of RFC 8158.

mod message;
mod record;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::api::{FlowEvent, Time};
use crate::config;
pub(super) use message::Packer;

/// Sends flows to one collector.
#[derive(Debug)]
pub(super) struct Exporter {
    socket: UdpSocket,
    collector: SocketAddr,
    packer: Packer,
    template_interval: Duration,
    /// When templates are due again.
    templates_at: Instant,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Flows that the kernel took.
    pub flows: u64,
    pub lost: u64,
    pub error: Option<std::io::Error>,
}

impl Exporter {
    /// Opens a socket to the collector; nothing is sent yet.
    pub(super) async fn connect(collector: SocketAddr, config: &config::FlowLog) -> std::io::Result<Self> {
        let any: IpAddr = match collector {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(collector).await?;
        Ok(Self {
            socket,
            collector,
            packer: Packer::new(config.observation_domain),
            template_interval: config.template_interval,
            templates_at: Instant::now(),
        })
    }

    /// Where flows go.
    pub(super) const fn collector(&self) -> SocketAddr {
        self.collector
    }

    /// Sends the flows that opened or closed.
    pub(super) async fn send(&mut self, events: &[Arc<FlowEvent>]) -> Sent {
        let now = Instant::now();
        let templates = now >= self.templates_at;
        if templates {
            self.templates_at = now + self.template_interval;
        }
        let mut sent = Sent::default();
        let events = events.iter().map(|event| &**event);
        for message in self.packer.pack(events, Time::now(), templates) {
            match self.socket.send(&message.bytes).await {
                Ok(_) => sent.flows += message.records,
                Err(error) => {
                    sent.lost += message.records;
                    // It may have lacked the templates.
                    self.templates_at = now;
                    sent.error = Some(error);
                }
            }
        }
        sent
    }
}
