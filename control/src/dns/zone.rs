//! What the zone contains, and what is answered to a question about it. Pure.
//!
//! Each service has a name in the zone, and all names have the balancer's own addresses; the
//! addresses have the services' names. `ns` is the zone's name server.

use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

use crate::publisher::Current;

/// Names follow the snapshot within this time. Also for how long a missing name is remembered
/// (RFC 2308 section 5).
const TTL: u32 = 5;
/// Names of an address at most: more would not fit a datagram.
const POINTERS: usize = 16;

/// The zone's own name and what follows from it.
#[derive(Debug)]
pub(super) struct Zone {
    apex: Name,
    lower: LowerName,
    name_server: Name,
}

/// The answer to a question.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// These records, which are all there are.
    Records(Vec<Record>),
    /// The name exists, without records of this type. The SOA record goes with it.
    NoData(Record),
    /// There is no such name. The SOA record goes with it.
    NoName(Record),
    /// Nothing was published yet.
    NotReady,
    /// The question is about another zone.
    Elsewhere,
}

impl Zone {
    /// The zone `name`, which has been checked when the configuration was read.
    pub(super) fn new(name: &str) -> Result<Self, hickory_proto::ProtoError> {
        let mut apex = Name::from_ascii(name)?;
        apex.set_fqdn(true);
        Ok(Self {
            lower: LowerName::from(&apex),
            name_server: apex.prepend_label("ns")?,
            apex,
        })
    }

    /// Answers the question for `kind` records of `name`, which is spelled as it was asked.
    pub(super) fn answer(&self, name: &Name, kind: RecordType, current: Option<&Current>) -> Answer {
        let lower = LowerName::from(name);
        if !self.lower.zone_of(&lower) {
            return match current.and_then(|current| pointers(self, name, kind, current)) {
                Some(records) => Answer::Records(records),
                None => Answer::Elsewhere,
            };
        }
        let Some(current) = current else {
            return Answer::NotReady;
        };
        if lower == self.lower {
            return match kind {
                RecordType::SOA => Answer::Records(vec![self.soa(name, current)]),
                RecordType::NS => Answer::Records(vec![Record::from_rdata(
                    name.clone(),
                    TTL,
                    RData::NS(NS(self.name_server.clone())),
                )]),
                _ => Answer::NoData(self.soa(&self.apex, current)),
            };
        }
        if !self.is_known(&lower, current) {
            return Answer::NoName(self.soa(&self.apex, current));
        }
        let records = addresses(name, kind, &current.snapshot.addresses);
        if records.is_empty() {
            Answer::NoData(self.soa(&self.apex, current))
        } else {
            Answer::Records(records)
        }
    }

    /// Whether `name` is a service's, or the name server's.
    fn is_known(&self, name: &LowerName, current: &Current) -> bool {
        if name.num_labels() != self.lower.num_labels() + 1 {
            return false;
        }
        let Some(label) = Name::from(name).iter().next().map(<[u8]>::to_vec) else {
            return false;
        };
        label == b"ns"
            || current
                .directory
                .live_services()
                .any(|service| service.names().any(|name| name.as_bytes() == label))
    }

    fn soa(&self, name: &Name, current: &Current) -> Record {
        #[expect(clippy::cast_possible_truncation, reason = "serial numbers wrap (RFC 1982)")]
        let serial = current.generation().0 as u32;
        // Nobody transfers this zone: the times only have to be sound.
        let soa = SOA::new(
            self.name_server.clone(),
            self.name_server.clone(),
            serial,
            3600,
            600,
            86_400,
            TTL,
        );
        Record::from_rdata(name.clone(), TTL, RData::SOA(soa))
    }
}

/// The addresses of the asked family; of both, if any type was asked for.
fn addresses(name: &Name, kind: RecordType, addresses: &[IpAddr]) -> Vec<Record> {
    addresses
        .iter()
        .map(|address| match *address {
            IpAddr::V4(v4) => (RecordType::A, RData::A(A(v4))),
            IpAddr::V6(v6) => (RecordType::AAAA, RData::AAAA(AAAA(v6))),
        })
        .filter(|(family, _)| kind == *family || kind == RecordType::ANY)
        .map(|(_, data)| Record::from_rdata(name.clone(), TTL, data))
        .collect()
}

/// The names of one of the balancer's addresses. `None` if `name` is not the reverse name of one,
/// or no service has it.
fn pointers(zone: &Zone, name: &Name, kind: RecordType, current: &Current) -> Option<Vec<Record>> {
    let lower = LowerName::from(name);
    let own = &current.snapshot.addresses;
    if !matches!(kind, RecordType::PTR | RecordType::ANY)
        || !own
            .iter()
            .any(|address| LowerName::from(Name::from(*address)) == lower)
    {
        return None;
    }
    let mut services: Vec<&str> = current
        .directory
        .live_services()
        .map(|service| service.name.as_str())
        .collect();
    services.sort_unstable();
    let records: Vec<Record> = services
        .into_iter()
        .take(POINTERS)
        .filter_map(|service| zone.apex.prepend_label(service).ok())
        .map(|target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target))))
        .collect();
    (!records.is_empty()).then_some(records)
}
