//! The `backends` of a configured service.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

use super::names;
use super::node::{self, Position, Section};

const WEIGHTS: &str = "0-1000";

/// A configured backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Backend {
    pub address: IpAddr,
    /// Share of new flows, 0 to 1000; 0: no new flows.
    pub weight: u16,
    /// Whether it gets new flows only while no other backend does.
    pub backup: bool,
}

/// Reads the list `backends`.
pub(super) fn read_backends(section: &mut Section<'_>) -> Vec<Backend> {
    let items = section.list("backends", "a list of backends, [] for none");
    let mut seen: HashMap<IpAddr, Position> = HashMap::with_capacity(items.len());
    let mut backends = Vec::with_capacity(items.len());
    for (place, value) in items {
        let mut backend = Section::new(
            place.clone(),
            Some(value),
            &["address", "weight", "backup"],
            section.errors(),
        );
        let address = backend.required_text("address", names::ADDRESS_FORM, names::unicast);
        let weight = backend.optional("weight", WEIGHTS, |value| {
            node::number(value, 0..=1000).and_then(|weight| u16::try_from(weight).ok())
        });
        let backup = backend.optional("backup", "true, false", Value::as_bool);
        let Some(address) = address else { continue };
        if let Some(first) = seen.insert(address, place) {
            backend.reject(
                "address",
                address.to_string(),
                format!("each address once per service (also {first})"),
            );
        }
        backends.push(Backend {
            address,
            weight: weight.unwrap_or(1),
            backup: backup.unwrap_or(false),
        });
    }
    backends
}
