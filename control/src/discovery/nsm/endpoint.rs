//! Endpoints of the network service, as the registry lists them.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::nsm::Target;
use crate::nsm::proto::registry::NetworkServiceEndpoint;

/// The manager that knows the connections of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Manager {
    /// The manager of this node: the endpoint is here too.
    Local,
    /// The manager of the endpoint's node.
    Remote(Target),
}

/// An endpoint and its manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) name: Arc<str>,
    pub(super) manager: Manager,
}

/// A registration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum InvalidRegistration {
    #[error("the registry lists an endpoint without a name; left out")]
    Unnamed,
    #[error("endpoint {name}: URL {url:?} is not one of inode, unix and tcp; its clients are unknown")]
    Url { name: String, url: String },
}

impl Registration {
    /// Reads an answer of the registry. On an endpoint's own node its URL is that of a socket (`inode` or `unix`); on any
    /// other node it is that of its manager.
    pub(super) fn read(endpoint: NetworkServiceEndpoint) -> Result<Self, InvalidRegistration> {
        let NetworkServiceEndpoint { name, url, .. } = endpoint;
        if name.is_empty() {
            return Err(InvalidRegistration::Unnamed);
        }
        let manager = match url.split_once("://") {
            Some(("inode" | "unix", _)) => Some(Manager::Local),
            Some(("tcp", _)) => url.parse().ok().map(Manager::Remote),
            _ => None,
        };
        match manager {
            Some(manager) => Ok(Self {
                name: name.into(),
                manager,
            }),
            None => Err(InvalidRegistration::Url { name, url }),
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Remote(target) => write!(f, "{target}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Manager, InvalidRegistration> {
        Registration::read(NetworkServiceEndpoint {
            name: "nse-vl3-0".to_owned(),
            url: url.to_owned(),
            ..NetworkServiceEndpoint::default()
        })
        .map(|registration| registration.manager)
    }

    #[test]
    fn the_scheme_of_an_endpoints_url_selects_its_manager() {
        for url in ["inode://65024/9994788", "unix:///run/nse/listen.on"] {
            assert_eq!(read(url), Ok(Manager::Local), "{url}");
        }
        for url in [
            "tcp://10.244.1.7:5001",
            "tcp://[fd00::7]:5001",
            "tcp://nsmgr-1:5001",
        ] {
            assert_eq!(read(url), Ok(Manager::Remote(url.parse().unwrap())), "{url}");
        }
        for url in [
            "",
            "tcp://10.244.1.7",
            "tcp:///x",
            "http://10.244.1.7:5001",
            "nonsense",
        ] {
            let error = read(url).unwrap_err().to_string();
            let text = format!(
                "endpoint nse-vl3-0: URL {url:?} is not one of inode, unix and tcp; its clients are unknown"
            );
            assert_eq!(error, text);
        }
        assert_eq!(
            Registration::read(NetworkServiceEndpoint::default()),
            Err(InvalidRegistration::Unnamed)
        );
    }
}
