//! Source addresses and ports of the flows.

use std::net::IpAddr;

use vl3lb_common::snapshot::NatPorts;

use crate::load::error::PlanError;

/// Each source address has the same number of ports, from the first one on.
#[derive(Debug)]
pub(super) struct Tuples {
    pub(super) sources: Vec<IpAddr>,
    first_port: u16,
    /// Ports of each address.
    ports: u32,
    pub(super) flows: u32,
}

impl Tuples {
    pub(super) fn new(sources: Vec<IpAddr>, first_port: u16, flows: u32) -> Result<Self, PlanError> {
        let addresses = u32::try_from(sources.len()).unwrap_or(u32::MAX).max(1);
        let ports = flows.div_ceil(addresses);
        let most = u32::from(u16::MAX - first_port) + 1;
        if ports > most {
            return Err(PlanError::Ports {
                flows,
                addresses,
                first_port,
                room: addresses * most,
            });
        }
        Ok(Self {
            sources,
            first_port,
            ports,
            flows,
        })
    }

    /// Index of the source address, and port.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most `u16::MAX`, checked in `new`"
    )]
    pub(super) fn of(&self, flow: u32) -> (usize, u16) {
        let port = u32::from(self.first_port) + flow % self.ports;
        ((flow / self.ports) as usize, port as u16)
    }

    /// The flow of an address and port.
    #[inline]
    pub(super) fn flow(&self, address: IpAddr, port: u16) -> Option<u32> {
        let source = self.sources.iter().position(|source| *source == address)?;
        let offset = u32::from(port.checked_sub(self.first_port)?);
        let flow = u32::try_from(source).ok()? * self.ports + offset;
        (offset < self.ports && flow < self.flows).then_some(flow)
    }

    /// The ports to redirect: at least one for each of `workers`.
    pub(super) fn range(&self, workers: u16) -> NatPorts {
        let count = self.ports.max(workers.into());
        let last = u32::from(self.first_port) + count - 1;
        let last = u16::try_from(last).unwrap_or(u16::MAX);
        NatPorts::new(self.first_port.min(last - workers + 1), last).expect("ports from 1024 on")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_its_own_address_and_port() {
        let sources: Vec<IpAddr> = ["172.16.1.1", "172.16.1.2"]
            .map(|source| source.parse().unwrap())
            .into();
        let tuples = Tuples::new(sources, 65_000, 101).unwrap();
        for flow in 0..101 {
            let (source, port) = tuples.of(flow);
            assert_eq!(tuples.flow(tuples.sources[source], port), Some(flow));
        }
        assert_eq!(tuples.of(51), (1, 65_000));
        // The second address has one port less.
        assert_eq!(tuples.flow(tuples.sources[1], 65_050), None);
        assert_eq!(tuples.flow(tuples.sources[0], 64_999), None);
        assert!(Tuples::new(tuples.sources, 65_000, 1073).is_err());
    }
}
