//! Which packets a capture is for.
//!
//! A worker evaluates it for each of its packets, so it has numbers and addresses only, no names.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::addr::Protocol;
use crate::backend::ServiceSlot;
use crate::drop_reason::DropReason;

/// Values of which one must match, if there are any, and others of which none may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms<T> {
    pub accepted: Vec<T>,
    pub rejected: Vec<T>,
}

impl<T> Default for Terms<T> {
    fn default() -> Self {
        Self {
            accepted: Vec::new(),
            rejected: Vec::new(),
        }
    }
}

impl<T> Terms<T> {
    /// Whether the terms accept what `matches` is true of.
    pub fn accept(&self, matches: impl Fn(&T) -> bool) -> bool {
        (self.accepted.is_empty() || self.accepted.iter().any(&matches))
            && !self.rejected.iter().any(&matches)
    }
}

/// An address of a backend, with or without its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl Endpoint {
    /// Whether it is this one. An unknown port is any.
    pub fn matches(self, address: IpAddr, port: Option<u16>) -> bool {
        self.address == address && (self.port.is_none() || port.is_none() || self.port == port)
    }
}

/// What is known of a packet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject {
    pub service: Option<ServiceSlot>,
    pub client: Option<IpAddr>,
    /// Address and, unless it is a fragment or an ICMP message, port.
    pub backend: Option<(IpAddr, Option<u16>)>,
    /// The port of the service.
    pub port: Option<u16>,
    pub protocol: Option<Protocol>,
    pub reason: Option<DropReason>,
    /// A hash of the flow, the same for all its packets, which no sender can choose.
    pub hash: u64,
}

/// The filter of a capture. The default accepts all packets.
#[derive(Debug, Clone, Default)]
pub struct CaptureFilter {
    /// Slots of services; `None`: all, and packets of none.
    pub services: Option<Terms<ServiceSlot>>,
    pub backends: Terms<Endpoint>,
    pub clients: Terms<IpNet>,
    pub ports: Terms<u16>,
    pub protocols: Terms<Protocol>,
    /// Only packets that are not forwarded, for one of these reasons, or for any if there are none.
    pub drops: Option<Terms<DropReason>>,
    /// One flow in so many, with all its packets; 0 and 1: all.
    pub sample: u32,
    /// Selects which flows.
    pub salt: u64,
}

impl CaptureFilter {
    /// Whether the filter accepts a packet. O(values of the filter).
    pub fn accepts(&self, subject: &Subject) -> bool {
        self.samples(subject.hash)
            && self.drops.as_ref().is_none_or(|reasons| {
                subject
                    .reason
                    .is_some_and(|reason| reasons.accept(|&accepted| accepted == reason))
            })
            && self.accepts_flow(subject)
    }

    /// Whether the filter accepts packets of a flow that are forwarded.
    pub fn wants_forwarded(&self, subject: &Subject) -> bool {
        self.drops.is_none() && self.samples(subject.hash) && self.accepts_flow(subject)
    }

    fn accepts_flow(&self, subject: &Subject) -> bool {
        self.services
            .as_ref()
            .is_none_or(|slots| slots.accept(|&slot| subject.service == Some(slot)))
            && self
                .clients
                .accept(|network| subject.client.is_some_and(|client| network.contains(&client)))
            && self.backends.accept(|endpoint| {
                subject
                    .backend
                    .is_some_and(|(address, port)| endpoint.matches(address, port))
            })
            && self.ports.accept(|&port| subject.port == Some(port))
            && self
                .protocols
                .accept(|&protocol| subject.protocol == Some(protocol))
    }

    /// Whether a flow with this hash is in the sample. No packet of another one is accepted.
    #[inline]
    pub fn samples(&self, hash: u64) -> bool {
        if self.sample <= 1 {
            return true;
        }
        let mixed = (hash ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = u64::from((mixed >> 32) as u32) * u64::from(self.sample);
        place >> 32 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            service: Some(ServiceSlot(3)),
            client: Some("10.1.2.3".parse().unwrap()),
            backend: Some(("172.16.1.2".parse().unwrap(), Some(8081))),
            port: Some(8080),
            protocol: Some(Protocol::Tcp),
            reason: None,
            hash: 7,
        }
    }

    fn terms<T>(accepted: Vec<T>, rejected: Vec<T>) -> Terms<T> {
        Terms { accepted, rejected }
    }

    fn endpoint(text: &str, port: Option<u16>) -> Endpoint {
        Endpoint {
            address: text.parse().unwrap(),
            port,
        }
    }

    #[test]
    fn each_term_accepts_and_rejects() {
        type Change = fn(&mut CaptureFilter);
        let cases: [(&str, Change, bool); 18] = [
            ("everything", |_| (), true),
            (
                "its service",
                |f| f.services = Some(terms(vec![ServiceSlot(3)], vec![])),
                true,
            ),
            (
                "another one",
                |f| f.services = Some(terms(vec![ServiceSlot(4)], vec![])),
                false,
            ),
            (
                "all but it",
                |f| f.services = Some(terms(vec![], vec![ServiceSlot(3)])),
                false,
            ),
            (
                "its network",
                |f| f.clients = terms(vec!["10.0.0.0/8".parse().unwrap()], vec![]),
                true,
            ),
            (
                "another",
                |f| f.clients = terms(vec!["11.0.0.0/8".parse().unwrap()], vec![]),
                false,
            ),
            (
                "all but that",
                |f| f.clients = terms(vec![], vec!["10.1.2.3/32".parse().unwrap()]),
                false,
            ),
            (
                "its backend",
                |f| f.backends = terms(vec![endpoint("172.16.1.2", None)], vec![]),
                true,
            ),
            (
                "with its port",
                |f| f.backends = terms(vec![endpoint("172.16.1.2", Some(8081))], vec![]),
                true,
            ),
            (
                "another port",
                |f| f.backends = terms(vec![endpoint("172.16.1.2", Some(80))], vec![]),
                false,
            ),
            (
                "another address",
                |f| f.backends = terms(vec![endpoint("172.16.1.3", None)], vec![]),
                false,
            ),
            ("its port", |f| f.ports = terms(vec![80, 8080], vec![]), true),
            ("other ports", |f| f.ports = terms(vec![80], vec![]), false),
            ("all but its port", |f| f.ports = terms(vec![], vec![8080]), false),
            (
                "its protocol",
                |f| f.protocols = terms(vec![Protocol::Tcp], vec![]),
                true,
            ),
            (
                "the other one",
                |f| f.protocols = terms(vec![Protocol::Udp], vec![]),
                false,
            ),
            ("dropped ones", |f| f.drops = Some(Terms::default()), false),
            (
                "both must match",
                |f| {
                    f.ports = terms(vec![8080], vec![]);
                    f.protocols = terms(vec![Protocol::Udp], vec![]);
                },
                false,
            ),
        ];
        for (name, change, want) in cases {
            let mut filter = CaptureFilter::default();
            change(&mut filter);
            assert_eq!(filter.accepts(&subject()), want, "{name}");
        }
    }

    #[test]
    fn drops_are_accepted_by_reason() {
        let dropped = |reason| Subject {
            reason: Some(reason),
            ..subject()
        };
        let any = CaptureFilter {
            drops: Some(Terms::default()),
            ..CaptureFilter::default()
        };
        let one = CaptureFilter {
            drops: Some(terms(vec![DropReason::NoBackend], vec![])),
            ..CaptureFilter::default()
        };
        assert!(any.accepts(&dropped(DropReason::NotSyn)));
        assert!(one.accepts(&dropped(DropReason::NoBackend)));
        assert!(!one.accepts(&dropped(DropReason::NotSyn)));
        assert!(!any.wants_forwarded(&subject()) && CaptureFilter::default().wants_forwarded(&subject()));
    }

    #[test]
    fn unknown_packets_match_no_value_but_pass_negated_ones() {
        let unknown = Subject::default();
        let one = CaptureFilter {
            services: Some(terms(vec![ServiceSlot(0)], vec![])),
            ..CaptureFilter::default()
        };
        let others = CaptureFilter {
            services: Some(terms(vec![], vec![ServiceSlot(0)])),
            ..CaptureFilter::default()
        };
        assert!(!one.accepts(&unknown) && others.accepts(&unknown));
    }

    #[test]
    fn a_sample_is_one_flow_in_so_many() {
        for sample in [0, 1, 10, 1_000] {
            let filter = CaptureFilter {
                sample,
                salt: 0x1234_5678_9abc_def0,
                ..CaptureFilter::default()
            };
            let flows = 200_000_u64;
            let taken = (0..flows)
                .filter(|flow| {
                    filter.samples(flow.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ flow.rotate_left(17))
                })
                .count() as u64;
            let expected = flows / u64::from(sample.max(1));
            assert!(
                taken.abs_diff(expected) <= expected / 4,
                "1 in {sample}: {taken} of {flows}"
            );
        }
    }
}
