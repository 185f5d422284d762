//! Claims of two clients that exclude each other, and the events about them.

use std::net::IpAddr;

use super::connection::Client;
use crate::api::EventCode;
use crate::observe::events::Event;

/// Two claims that exclude each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Conflict {
    /// Two clients claim one address.
    Address {
        address: IpAddr,
        /// Whether it is an address of the balancer.
        is_own: bool,
        owner: Client,
        claimant: Client,
    },
    /// A client claims the pod name of another identity.
    Name {
        pod: String,
        owner: Client,
        claimant: Client,
    },
    /// A client claims the DNS name of another identity.
    DnsName {
        name: String,
        /// Whether one of them is the balancer.
        is_own: bool,
        owner: Client,
        claimant: Client,
    },
    /// One client has several connections, as after a restart that did not close the first.
    Connections {
        client: Client,
        addresses: Vec<IpAddr>,
        others: Vec<IpAddr>,
    },
}

impl Conflict {
    /// The value in JSON and metric labels.
    pub(super) const fn kind(&self) -> ConflictKind {
        match self {
            Self::Address { .. } => ConflictKind::Address,
            Self::Name { .. } | Self::DnsName { .. } => ConflictKind::Name,
            Self::Connections { .. } => ConflictKind::Connections,
        }
    }

    /// The event of its begin.
    pub(super) fn begun(&self) -> Event {
        match self {
            Self::Address { .. } => Event::warn(EventCode::AddressConflict, self.to_string()),
            Self::Name { .. } | Self::DnsName { .. } => {
                Event::warn(EventCode::NameConflict, self.to_string())
            }
            Self::Connections { .. } => Event::new(EventCode::NameConflict, self.to_string()),
        }
    }

    /// The event of its end.
    pub(super) fn ended(&self) -> Event {
        let (code, text) = match self {
            Self::Address { address, .. } => (EventCode::AddressConflict, format!("address {address}")),
            Self::Name { pod, .. } => (EventCode::NameConflict, format!("pod name {pod}")),
            Self::DnsName { name, .. } => (EventCode::NameConflict, format!("DNS name {name}")),
            Self::Connections { client, .. } => (EventCode::NameConflict, client.to_string()),
        };
        Event::new(code, format!("{text}: the conflict is over"))
    }
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address {
                address,
                is_own,
                owner,
                claimant,
            } => {
                let whose = if *is_own { ", the balancer's," } else { "" };
                write!(
                    f,
                    "address {address}{whose} is claimed by {claimant} and belongs to {owner}"
                )
            }
            Self::Name { pod, owner, claimant } => {
                write!(f, "pod name {pod} is claimed by {claimant}")?;
                identity(f, claimant)?;
                write!(f, " and belongs to {owner}")?;
                identity(f, owner)
            }
            Self::DnsName {
                name,
                is_own,
                owner,
                claimant,
            } => {
                let whose = if *is_own { ", the balancer's," } else { "" };
                write!(f, "DNS name {name}{whose} is claimed by {claimant}")?;
                identity(f, claimant)?;
                write!(f, " and belongs to {owner}")?;
                identity(f, owner)
            }
            Self::Connections {
                client,
                addresses,
                others,
            } => write!(
                f,
                "{client} has several connections, with {} and {}; all are used",
                list(addresses),
                list(others)
            ),
        }
    }
}

fn identity(f: &mut std::fmt::Formatter<'_>, client: &Client) -> std::fmt::Result {
    match &client.subject {
        Some(subject) => write!(f, ", {subject},"),
        None => Ok(()),
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}

/// The kinds of conflicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum ConflictKind {
    Address,
    Name,
    Connections,
}

impl ConflictKind {
    pub(super) const ALL: [Self; 3] = [Self::Address, Self::Name, Self::Connections];

    /// The value in JSON and metric labels.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Name => "name",
            Self::Connections => "connections",
        }
    }
}
