//! Decides which client an address and a pod's name belong to.
//!
//! A client chooses its labels, name and id itself, may ask for any address, and endpoints give out an address twice after
//! a restart. So claims meet: an address, and a name, belong to the client that had it first, for as long as it has it and
//! is not down for long. Every other claim is a conflict, and reported.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::clients::{Clients, Member};
use super::conflict::Conflict;
use super::connection::{Client, Connection};
use super::inventory::{Holder, Inventory, Record, holders};
use crate::discovery::{Instances, PodPlace};

/// The label from which an endpoint makes a client's DNS name.
const DNS_LABEL: &str = "podName";

/// The balancer itself, as a client of the network service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// The name of its path segment.
    pub(super) name: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
}

/// Owners as of the last resolution.
#[derive(Debug, Clone, Default)]
pub(super) struct Owners {
    addresses: HashMap<IpAddr, Client>,
    /// By namespace, where it is known, and name.
    names: HashMap<(Option<String>, String), Client>,
    /// By the label [`DNS_LABEL`].
    dns_names: HashMap<String, Client>,
    pub(super) conflicts: BTreeSet<Conflict>,
}

/// Conflicts since the last resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) begun: Vec<Conflict>,
    pub(super) ended: Vec<Conflict>,
}

/// The kinds of clients, in the order in which they win a claim that nobody had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Other,
    /// An endpoint of the network service, which has connections to itself and to other endpoints.
    Endpoint,
    /// The balancer.
    Own,
}

/// A connection that claims an address or a name.
#[derive(Debug, Clone, Copy)]
struct Claim<'a> {
    record: &'a Record,
    kind: Kind,
    is_long_down: bool,
}

impl Claim<'_> {
    fn client(&self) -> &Client {
        &self.record.connection.client
    }
}

impl Owners {
    /// Resolves all claims in `inventory`. Cost: O(connections).
    pub(super) fn resolve(&mut self, inventory: &Inventory, own: &Own, now: Instant) -> (Clients, Changes) {
        let mut claims: Vec<Claim<'_>> = inventory
            .records()
            .map(|record| Claim {
                record,
                kind: kind(inventory, own, &record.connection.client),
                is_long_down: record.is_long_down(now),
            })
            .collect();
        claims.sort_by_key(|claim| claim.record.seen);
        let mut conflicts = BTreeSet::new();
        let owned = self.resolve_addresses(&claims, own, &mut conflicts);
        let imposters = self.resolve_names(&claims, &mut conflicts);
        self.resolve_dns_names(&claims, &mut conflicts);
        let members = claims.iter().filter(|claim| claim.kind == Kind::Other);
        let members = members.filter_map(|claim| {
            let own_addresses = owned.get(&claim.record.seen)?;
            let addresses: Vec<_> = own_addresses
                .iter()
                .filter(|address| !own.addresses.contains(address))
                .map(|address| (*address, instance(claim.client(), *address)))
                .collect();
            (!addresses.is_empty()).then(|| Member {
                connection: Arc::clone(&claim.record.connection),
                addresses,
                is_long_down: claim.is_long_down,
                is_imposter: imposters.contains(&claim.record.seen),
                place: Arc::new(place(&claim.record.connection)),
            })
        });
        let clients = Clients {
            members: members.collect(),
            instances: Arc::new(self.instances(inventory, now)),
        };
        let changes = Changes {
            begun: conflicts.difference(&self.conflicts).cloned().collect(),
            ended: self.conflicts.difference(&conflicts).cloned().collect(),
        };
        self.conflicts = conflicts;
        (clients, changes)
    }

    /// The addresses that each connection has, by its place in the order of appearance.
    fn resolve_addresses(
        &mut self,
        claims: &[Claim<'_>],
        own: &Own,
        conflicts: &mut BTreeSet<Conflict>,
    ) -> HashMap<u64, Vec<IpAddr>> {
        let mut by_address: BTreeMap<IpAddr, Vec<Claim<'_>>> = BTreeMap::new();
        for claim in claims {
            for address in &claim.record.connection.addresses {
                by_address.entry(*address).or_default().push(*claim);
            }
        }
        self.addresses
            .retain(|address, _| by_address.contains_key(address));
        let mut owned: HashMap<u64, Vec<IpAddr>> = HashMap::new();
        for (address, claims) in by_address {
            let Some(owner) = choose(&claims, self.addresses.get(&address), Client::is_same) else {
                continue;
            };
            let others = claims
                .iter()
                .filter(|claim| !claim.client().is_same(owner.client()));
            conflicts.extend(others.map(|claim| Conflict::Address {
                address,
                is_own: own.addresses.contains(&address),
                owner: owner.client().clone(),
                claimant: claim.client().clone(),
            }));
            owned.entry(owner.record.seen).or_default().push(address);
            self.addresses.insert(address, owner.client().clone());
        }
        owned
    }

    /// Connections whose pod name belongs to another identity.
    fn resolve_names(&mut self, claims: &[Claim<'_>], conflicts: &mut BTreeSet<Conflict>) -> HashSet<u64> {
        let mut by_name: BTreeMap<(Option<String>, String), Vec<Claim<'_>>> = BTreeMap::new();
        for claim in claims.iter().filter(|claim| claim.kind == Kind::Other) {
            let client = claim.client();
            let name = (client.namespace().map(str::to_owned), client.pod().to_owned());
            by_name.entry(name).or_default().push(*claim);
        }
        self.names.retain(|name, _| by_name.contains_key(name));
        let mut imposters = HashSet::new();
        for (name, claims) in by_name {
            let Some(owner) = choose(&claims, self.names.get(&name), Client::eq) else {
                continue;
            };
            for claim in &claims {
                let (client, holder) = (claim.client(), owner.client());
                if !has_same_identity(client, holder) {
                    imposters.insert(claim.record.seen);
                    conflicts.insert(Conflict::Name {
                        pod: name.1.clone(),
                        owner: holder.clone(),
                        claimant: client.clone(),
                    });
                } else if claim.record.connection.addresses != owner.record.connection.addresses {
                    conflicts.insert(Conflict::Connections {
                        client: holder.clone(),
                        addresses: owner.record.connection.addresses.clone(),
                        others: claim.record.connection.addresses.clone(),
                    });
                }
            }
            self.names.insert(name, owner.client().clone());
        }
        imposters
    }

    /// Finds other clients that claim a DNS name. The endpoint's DNS server gives the name to any of them; backends are
    /// selected by other labels, so nothing but the event follows.
    fn resolve_dns_names(&mut self, claims: &[Claim<'_>], conflicts: &mut BTreeSet<Conflict>) {
        let mut by_name: BTreeMap<&String, Vec<Claim<'_>>> = BTreeMap::new();
        for claim in claims.iter().filter(|claim| claim.kind != Kind::Endpoint) {
            if let Some(name) = claim.record.connection.labels.get(DNS_LABEL) {
                by_name.entry(name).or_default().push(*claim);
            }
        }
        self.dns_names.retain(|name, _| by_name.contains_key(name));
        for (name, claims) in by_name {
            let Some(owner) = choose(&claims, self.dns_names.get(name), Client::eq) else {
                continue;
            };
            let others = claims
                .iter()
                .filter(|claim| !has_same_identity(claim.client(), owner.client()));
            conflicts.extend(others.map(|claim| Conflict::DnsName {
                name: name.clone(),
                is_own: [owner.kind, claim.kind].contains(&Kind::Own),
                owner: owner.client().clone(),
                claimant: claim.client().clone(),
            }));
            self.dns_names.insert(name.clone(), owner.client().clone());
        }
    }

    fn instances(&self, inventory: &Inventory, now: Instant) -> Instances {
        let owners: HashMap<IpAddr, Arc<str>> = self
            .addresses
            .iter()
            .map(|(address, client)| (*address, instance(client, *address)))
            .collect();
        let held: HashSet<Holder> = inventory
            .records()
            .flat_map(|record| holders(&record.connection))
            .collect();
        let dead = inventory.closed(now).filter(|holder| !held.contains(*holder));
        Instances {
            dead: dead
                .map(|(name, id, address)| instance_of(name, id, *address))
                .collect(),
            owners,
        }
    }
}

/// The claim that wins: of a client that is not down for long, of the `incumbent`, of the balancer or an endpoint, and
/// then the first. Of several connections of that client, which `is_same`, it is a working one, and then the newest.
fn choose<'a>(
    claims: &[Claim<'a>],
    incumbent: Option<&Client>,
    is_same: impl Fn(&Client, &Client) -> bool,
) -> Option<Claim<'a>> {
    let rank = |claim: &&Claim<'_>| {
        let is_incumbent = incumbent.is_some_and(|client| is_same(client, claim.client()));
        (
            !claim.is_long_down,
            is_incumbent,
            claim.kind,
            std::cmp::Reverse(claim.record.seen),
        )
    };
    let winner = claims.iter().max_by_key(rank)?.client();
    let own = claims.iter().filter(|claim| is_same(claim.client(), winner));
    own.max_by_key(|claim| (claim.record.is_firm(), claim.record.seen))
        .copied()
}

/// Whether two clients of one name are the same workload, by their tokens, else by their ids.
fn has_same_identity(one: &Client, other: &Client) -> bool {
    match (&one.subject, &other.subject) {
        (Some(one), Some(other)) => one == other,
        (None, None) => one.id == other.id,
        _ => false,
    }
}

fn kind(inventory: &Inventory, own: &Own, client: &Client) -> Kind {
    // An endpoint requests connections under its own name, one of them with this id.
    let of_endpoint = |name: &str| inventory.has_endpoint(name);
    if *client.name == *own.name {
        Kind::Own
    } else if of_endpoint(&client.name) || client.id.strip_suffix("-kernel").is_some_and(of_endpoint) {
        Kind::Endpoint
    } else {
        Kind::Other
    }
}

/// Identifies a client at an address to the flows of a backend.
fn instance(client: &Client, address: IpAddr) -> Arc<str> {
    instance_of(&client.name, &client.id, address)
}

fn instance_of(name: &str, id: &str, address: IpAddr) -> Arc<str> {
    format!("{name}/{id}@{address}").into()
}

/// The pod of a connection, for display.
fn place(connection: &Connection) -> PodPlace {
    let pod = connection.client.pod();
    PodPlace {
        pod: match connection.client.namespace() {
            Some(namespace) => format!("{namespace}/{pod}"),
            None => pod.to_owned(),
        },
        node: connection.node().cloned(),
    }
}
