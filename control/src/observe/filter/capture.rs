//! Filters of captured packets: with names here, and with numbers for the workers.

use vl3lb_common::capture::{CaptureFilter, Endpoint as BackendTerm, Terms};
use vl3lb_common::{DropReason, ServiceSlot};

use super::{EndFilter, Endpoint, Values, by_name};
use crate::config::ConfigError;

/// A slot that no service has.
const NO_SERVICE: ServiceSlot = ServiceSlot(u16::MAX);

/// Filters of captured packets.
#[derive(Debug, Clone, Default)]
pub struct PacketFilter {
    ends: EndFilter,
    /// `None`: forwarded packets, too.
    drops: Option<Values<DropReason>>,
}

impl PacketFilter {
    /// Adds a filter. `Ok(false)`: there is no filter of that name. Errors: the value.
    pub fn add(&mut self, name: &str, value: &str) -> Result<bool, ConfigError> {
        match name {
            "drops" => {
                let drops = self.drops.get_or_insert_default();
                if value != "any" {
                    let allowed = "any, or a reason that `vl3-lb status --reasons` lists";
                    drops.add(name, value, allowed, |text| {
                        by_name(&DropReason::ALL, text, DropReason::name)
                    })?;
                }
            }
            _ => return self.ends.add(name, value),
        }
        Ok(true)
    }

    /// A service that is named, without a wildcard, and is none of `known`.
    pub fn missing<'a>(&self, known: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        self.ends.names.missing(known)
    }

    /// Whether services are named, so that the filter depends on the slots that they have.
    pub const fn names_services(&self) -> bool {
        !self.ends.names.0.accepted.is_empty() || !self.ends.names.0.rejected.is_empty()
    }

    /// The filter with the slots of `services`, for one flow in `sample`, selected by `salt`.
    pub fn compiled<'a>(
        &self,
        services: impl Iterator<Item = (ServiceSlot, &'a str)> + Clone,
        sample: u32,
        salt: u64,
    ) -> CaptureFilter {
        let names = &self.ends.names.0;
        let slots = |accepts: &dyn Fn(&str) -> bool| -> Vec<ServiceSlot> {
            let accepted = services.clone().filter(|(_, name)| accepts(name));
            accepted.map(|(slot, _)| slot).collect()
        };
        let mut accepted = Vec::new();
        if !names.accepted.is_empty() {
            accepted = slots(&|service| names.accepted.iter().any(|name| name.matches_service(service)));
            // An empty list would accept all.
            accepted.push(NO_SERVICE);
        }
        let rejected = slots(&|service| names.rejected.iter().any(|name| name.matches_service(service)));
        let backend = |endpoint: &Endpoint| BackendTerm {
            address: endpoint.address,
            port: endpoint.port,
        };
        CaptureFilter {
            services: self.names_services().then_some(Terms { accepted, rejected }),
            backends: Terms {
                accepted: self.ends.backend.accepted.iter().map(backend).collect(),
                rejected: self.ends.backend.rejected.iter().map(backend).collect(),
            },
            clients: terms(&self.ends.client),
            ports: terms(&self.ends.port),
            protocols: terms(&self.ends.protocol),
            drops: self.drops.as_ref().map(terms),
            sample,
            salt,
        }
    }
}

fn terms<T: Clone>(values: &Values<T>) -> Terms<T> {
    Terms {
        accepted: values.accepted.clone(),
        rejected: values.rejected.clone(),
    }
}

#[cfg(test)]
mod tests {
    use vl3lb_common::capture::Subject;

    use super::*;

    fn compiled(terms: &[(&str, &str)]) -> CaptureFilter {
        let mut filter = PacketFilter::default();
        for (name, value) in terms {
            assert!(filter.add(name, value).unwrap());
        }
        let services = [(ServiceSlot(0), "finance"), (ServiceSlot(5), "dns")];
        filter.compiled(services.into_iter(), 1, 0)
    }

    #[test]
    fn names_become_slots() {
        for (terms, services) in [
            (&[][..], "finance dns none"),
            (&[("service", "finance")], "finance"),
            (&[("service", "finance"), ("service", "d*")], "finance dns"),
            (&[("service", "!dns")], "finance none"),
            (&[("service", "*"), ("service", "!dns")], "finance"),
            (&[("service", "gone*")], ""),
        ] {
            let filter = compiled(terms);
            let all = [
                ("finance", Some(ServiceSlot(0))),
                ("dns", Some(ServiceSlot(5))),
                ("none", None),
            ];
            let accepted: Vec<_> = all
                .iter()
                .filter(|&&(_, service)| {
                    filter.accepts(&Subject {
                        service,
                        ..Subject::default()
                    })
                })
                .map(|&(name, _)| name)
                .collect();
            assert_eq!(accepted.join(" "), services, "{terms:?}");
        }
    }

    #[test]
    fn reasons_of_drops_are_checked() {
        let reasons = |terms: &[(&str, &str)]| compiled(terms).drops;
        assert_eq!(reasons(&[]), None);
        assert_eq!(reasons(&[("drops", "any")]), Some(Terms::default()));
        let one = reasons(&[("drops", "no_backend")]).unwrap();
        assert_eq!(one.accepted, [DropReason::NoBackend]);
        let others = reasons(&[("drops", "!no_service")]).unwrap();
        assert_eq!(others.rejected, [DropReason::NoService]);
        let error = PacketFilter::default().add("drops", "bored").unwrap_err();
        assert_eq!(
            error.to_string(),
            "drops: bored, allowed any, or a reason that `vl3-lb status --reasons` lists"
        );
    }
}
