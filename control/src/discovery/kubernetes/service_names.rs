//! The names under which ports of Services are served, each of one owner.
//!
//! A Service and its ports have the Service's own name. Where another owner has that already, such as the Service of another
//! namespace, they have it with the namespace, as in the DNS of Kubernetes: `web.shop`.

use std::collections::HashMap;

use super::service::{Port, Reason, ServiceRecord};
use crate::config;
use crate::kubernetes::names::qualified;

/// The longest DNS label (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 63;

/// The names that are taken, each with its owner in words.
#[derive(Debug, Default)]
pub(super) struct ServiceNames(HashMap<String, String>);

impl ServiceNames {
    /// Gives the name of a service of the configuration file to its owner.
    pub(super) fn take_label(&mut self, name: &str, owner: &str) {
        self.0.insert(name.to_owned(), owner.to_owned());
    }

    /// Gives `name` of `record` to `owner`, with and without its namespace: the DNS answers to both.
    pub(super) fn take(&mut self, record: &ServiceRecord, name: &str, owner: &str) {
        for name in [name.to_owned(), qualified(name, &record.namespace)] {
            self.0.insert(name, owner.to_owned());
        }
    }

    /// `name` of `record` if no other owner has it and it need not be `long`, else the name with its namespace. Errors:
    /// another owner has that too.
    pub(super) fn usable(
        &self,
        record: &ServiceRecord,
        name: &str,
        owner: &str,
        long: bool,
    ) -> Result<String, Reason> {
        let conflict = self.conflict(name, owner);
        if conflict.is_none() && !long {
            return Ok(name.to_owned());
        }
        let long = qualified(name, &record.namespace);
        match (self.conflict(&long, owner), conflict) {
            // The API server accepts labels alone as namespaces.
            (None, Some(conflict)) if !config::is_label(&record.namespace) => Err(conflict),
            (None, _) => Ok(long),
            (Some(reason), conflict) => Err(conflict.unwrap_or(reason)),
        }
    }

    /// Why `owner` cannot have `name`.
    pub(super) fn conflict(&self, name: &str, owner: &str) -> Option<Reason> {
        let holder = self.0.get(name).filter(|holder| *holder != owner)?;
        let message = format!("the name {name} belongs to {holder}");
        Some(Reason::new("NameConflict", message))
    }
}

/// Each port with its name, which does not depend on which other ports are served.
pub(super) fn named_ports(record: &ServiceRecord) -> impl Iterator<Item = (&Port, String)> {
    record.ports.iter().map(|port| {
        let name = if record.listed == 1 || port.name.is_empty() {
            record.name.clone()
        } else {
            format!("{}-{}", record.name, port.name)
        };
        (port, name)
    })
}

/// Why a name of `record` cannot be that of a service. The API server accepts DNS labels alone; so does the DNS.
pub(super) fn unusable(record: &ServiceRecord) -> Option<Reason> {
    let mut names = named_ports(record).map(|(_, name)| name);
    let name = names.find(|name| !config::is_label(name))?;
    Some(if name.len() > LONGEST_NAME {
        let message = format!("the name {name} is longer than {LONGEST_NAME} characters");
        Reason::new("NameTooLong", message)
    } else {
        let message = format!("the name {name:?}, allowed {}", config::LABEL_FORM);
        Reason::new("InvalidName", message)
    })
}
