//! The content of the zone, and the answers to queries about it. Pure.
//!
//! Each service has a name in the zone, with the addresses of the balancers that balance it; the own
//! ones have the services' names. Services of one name answer together, Services of Kubernetes with their namespace too
//! (`web.shop.vl3-lb`). `ns` is the zone's name server, which is this balancer.

use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

use crate::peers::PeerSet;
use crate::publisher::Current;
use crate::state::ServiceEntry;

/// Names follow the snapshot within this time. Also for how long a missing name is remembered
/// (RFC 2308 section 5).
pub(super) const TTL: u32 = 5;
/// The label of the zone's name server.
const NAME_SERVER: &str = "ns";
/// Names of an address at most: more would not fit a datagram.
const POINTERS: usize = 16;
/// Addresses of a name at most, of each family: more would not fit a datagram of 512 bytes. With more
/// balancers they rotate.
const ADDRESSES: usize = 13;

/// The data of the zone at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct ZoneData<'a> {
    /// `None` before the first snapshot.
    pub(super) current: Option<&'a Current>,
    /// The other balancers of the services.
    pub(super) peers: &'a PeerSet,
    /// Round-robin cursor: another balancer comes first in each answer (RFC 1794).
    pub(super) cursor: usize,
}

/// The zone's own name, and names derived from it.
#[derive(Debug)]
pub(super) struct Zone {
    apex: Name,
    lower: LowerName,
    name_server: Name,
}

/// The answer to a query.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// All records of the name and type.
    Records(Vec<Record>),
    /// The name exists, without records of this type. Sent with the SOA record.
    NoData(Record),
    /// The name does not exist. Sent with the SOA record.
    NoName(Record),
    /// Before the first snapshot.
    NotReady,
    /// The query is for another zone.
    OtherZone,
}

/// The owner of a name in the zone.
enum Owner<'a> {
    NameServer,
    /// A service, and that of its names that was asked for.
    Service(&'a ServiceEntry, &'a str),
}

impl Zone {
    /// The zone `name`, which has been checked when the configuration was read.
    pub(super) fn new(name: &str) -> Result<Self, hickory_proto::ProtoError> {
        let mut apex = Name::from_ascii(name)?;
        apex.set_fqdn(true);
        Ok(Self {
            lower: LowerName::from(&apex),
            name_server: apex.prepend_label(NAME_SERVER)?,
            apex,
        })
    }

    /// Answers the question for `kind` records of `name`, which is spelled as it was asked.
    pub(super) fn answer(&self, name: &Name, kind: RecordType, data: ZoneData<'_>) -> Answer {
        let lower = LowerName::from(name);
        if !self.lower.zone_of(&lower) {
            return match data
                .current
                .and_then(|current| pointers(self, name, kind, current))
            {
                Some(records) => Answer::Records(records),
                None => Answer::OtherZone,
            };
        }
        let Some(current) = data.current else {
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
        let own = &current.snapshot.addresses;
        let records = match self.owner(&lower, current) {
            None => return Answer::NoName(self.soa(&self.apex, current)),
            Some(Owner::NameServer) => addresses(name, kind, own, 0),
            Some(Owner::Service(service, of)) => {
                let service = service.group_name(of);
                let own = current.directory.addresses_of(&service, own);
                addresses(name, kind, &data.peers.addresses_of(&service, &own), data.cursor)
            }
        };
        if records.is_empty() {
            Answer::NoData(self.soa(&self.apex, current))
        } else {
            Answer::Records(records)
        }
    }

    /// The owner of `name`.
    fn owner<'a>(&self, name: &LowerName, current: &'a Current) -> Option<Owner<'a>> {
        // A Service of Kubernetes has a name with its namespace too.
        let depth = name.num_labels().checked_sub(self.lower.num_labels())?;
        if !(1..=2).contains(&depth) {
            return None;
        }
        let full = Name::from(name);
        let labels = full.iter().take(usize::from(depth)).map(std::str::from_utf8);
        let labels: Vec<&str> = labels.collect::<Result<_, _>>().ok()?;
        if labels.iter().any(|label| label.contains('.')) {
            return None;
        }
        let label = labels.join(".");
        let mut services = current.directory.live_services();
        // A service called `ns` is served by balancers, which are name servers of the zone too.
        let service = services.find_map(|service| Some(Owner::Service(service, service.name_of(&label)?)));
        service.or_else(|| (label == NAME_SERVER).then_some(Owner::NameServer))
    }

    /// The full name of one of the names of services; `None` if it is too long.
    fn full_name(&self, name: &str) -> Option<Name> {
        let mut labels = name.rsplit('.');
        labels.try_fold(self.apex.clone(), |full, label| full.prepend_label(label).ok())
    }

    fn soa(&self, name: &Name, current: &Current) -> Record {
        #[expect(clippy::cast_possible_truncation, reason = "serial numbers wrap (RFC 1982)")]
        let serial = current.generation().0 as u32;
        // The zone cannot be transferred, so these times are not used.
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

/// The addresses of the asked family; of both, if any type was asked for. With each `cursor` another one
/// of a family comes first.
fn addresses(name: &Name, kind: RecordType, addresses: &[IpAddr], cursor: usize) -> Vec<Record> {
    let mut records = Vec::new();
    for (family, is_in) in [
        (RecordType::A, IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
        (RecordType::AAAA, IpAddr::is_ipv6),
    ] {
        if kind != family && kind != RecordType::ANY {
            continue;
        }
        let mut data: Vec<RData> = addresses
            .iter()
            .filter(|address| is_in(address))
            .map(|address| match *address {
                IpAddr::V4(v4) => RData::A(A(v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
            })
            .collect();
        if !data.is_empty() {
            let first = cursor % data.len();
            data.rotate_left(first);
        }
        let data = data.into_iter().take(ADDRESSES);
        records.extend(data.map(|data| Record::from_rdata(name.clone(), TTL, data)));
    }
    records
}

/// The names of one of the balancer's addresses. `None` if `name` is not the reverse name of one,
/// or no service has it.
fn pointers(zone: &Zone, name: &Name, kind: RecordType, current: &Current) -> Option<Vec<Record>> {
    let lower = LowerName::from(name);
    let own = &current.snapshot.addresses;
    if !matches!(kind, RecordType::PTR | RecordType::ANY) {
        return None;
    }
    let mut own = own.iter();
    let address = own.find(|address| LowerName::from(Name::from(**address)) == lower)?;
    let mut services: Vec<&str> = current
        .directory
        .live_services()
        .filter(|service| service.addresses.contains(*address))
        .filter_map(|service| service.names().next())
        .collect();
    services.sort_unstable();
    services.dedup();
    let records: Vec<Record> = services
        .into_iter()
        .take(POINTERS)
        .filter_map(|service| zone.full_name(service))
        .map(|target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target))))
        .collect();
    (!records.is_empty()).then_some(records)
}
