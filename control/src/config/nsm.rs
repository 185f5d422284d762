//! The client of Network Service Mesh, as the predecessor's environment sets it.

use std::collections::BTreeMap;

use serde::Serialize;
use url::Url;
use vl3lb_common::Duration;

use super::{duration, names};

/// A client of Network Service Mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Nsm {
    /// NSM_NAME: this client's name, which is also the name of its path segment.
    pub name: String,
    /// NSM_CONNECT_TO: the manager of this node.
    pub connect_to: Url,
    /// NSM_DIAL_TIMEOUT: the limit of connecting to the manager, TLS included.
    #[serde(serialize_with = "duration::serialize")]
    pub dial_timeout: Duration,
    /// NSM_REQUEST_TIMEOUT: the limit of one attempt of a call.
    #[serde(serialize_with = "duration::serialize")]
    pub request_timeout: Duration,
    /// NSM_MAX_TOKEN_LIFETIME: the longest validity of the tokens that this client issues.
    #[serde(serialize_with = "duration::serialize")]
    pub max_token_lifetime: Duration,
    /// NSM_NETWORK_SERVICES: the vL3 network to join. `None`: another process makes the interface.
    pub network_service: Option<NetworkService>,
    /// SPIFFE_ENDPOINT_SOCKET: the SPIFFE Workload API.
    pub workload_api: String,
    /// NSM_PPROF_LISTEN_ON, without effect.
    pub pprof_listen_on: String,
}

const CONNECT_TO: &str = "unix:///var/lib/networkservicemesh/nsm.io.sock";

impl Default for Nsm {
    /// The predecessor's defaults.
    fn default() -> Self {
        Self {
            name: "cmd-lb-vl3-vpp".to_owned(),
            connect_to: Url::parse(CONNECT_TO).expect("the default is a URL"),
            dial_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(15),
            max_token_lifetime: Duration::from_secs(600),
            network_service: None,
            workload_api: "unix:///run/spire/sockets/agent.sock".to_owned(),
            pprof_listen_on: "localhost:6060".to_owned(),
        }
    }
}

/// The network service to request, and the interface to get for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkService {
    /// `NETWORK-SERVICE`, or `NETWORK-SERVICE@DOMAIN`.
    pub name: String,
    /// The name of the kernel interface.
    pub interface: String,
    /// The labels of the request. The label `podName` becomes the DNS name in the vL3 network.
    pub labels: BTreeMap<String, String>,
}

/// Why a value of NSM_NETWORK_SERVICES is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) value: String,
    pub(super) allowed: String,
}

const FORM: &str = "one URL such as kernel://my-vl3/nsm-1?podName=finance";

impl NetworkService {
    /// Reads `kernel://NETWORK-SERVICE/INTERFACE?label=value`. A URL without an interface means `interface`.
    pub(super) fn parse(text: &str, interface: &str) -> Result<Self, Rejected> {
        let rejected = |value: &str, allowed: String| Rejected {
            value: value.to_owned(),
            allowed,
        };
        let urls: Vec<&str> = text.split(',').map(str::trim).collect();
        let &[text] = urls.as_slice() else {
            let allowed = format!("{FORM}: one process serves one interface, so run a balancer for each");
            return Err(rejected(text, allowed));
        };
        let url = Url::parse(text).map_err(|_| rejected(text, FORM.to_owned()))?;
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| rejected(text, FORM.to_owned()))?;
        if url.scheme() != "kernel" {
            let rest = text.split_once("://").map_or("", |(_, rest)| rest);
            return Err(rejected(text, format!("kernel://, as in kernel://{rest}")));
        }
        let name = match url.username() {
            "" => host.to_owned(),
            user => format!("{user}@{host}"),
        };
        let interface = match url.path().trim_start_matches('/') {
            "" => interface,
            path => path,
        };
        if !names::is_interface(interface) {
            let allowed = format!("kernel://{name}/INTERFACE with {}", names::INTERFACE_FORM);
            return Err(rejected(text, allowed));
        }
        let mut labels = BTreeMap::<String, String>::new();
        for (key, value) in url.query_pairs() {
            // As the SDK joins the values of a repeated key.
            labels
                .entry(key.into_owned())
                .and_modify(|joined| {
                    joined.push(',');
                    joined.push_str(&value);
                })
                .or_insert_with(|| value.clone().into_owned());
        }
        Ok(Self {
            name,
            interface: interface.to_owned(),
            labels,
        })
    }

    /// Adds a label that the URL does not set.
    pub(super) fn add_label(&mut self, key: &str, value: String) {
        self.labels.entry(key.to_owned()).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkService, String> {
        NetworkService::parse(text, "nsm-1")
            .map_err(|rejected| format!("{}, allowed {}", rejected.value, rejected.allowed))
    }

    #[test]
    fn a_url_names_network_service_interface_and_labels() {
        let service = parse("kernel://my-vl3/nsm-7?podName=finance&zone=a&zone=b%2C1").unwrap();
        assert_eq!(service.name, "my-vl3");
        assert_eq!(service.interface, "nsm-7");
        let labels: Vec<_> = service.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(labels, ["podName=finance", "zone=a,b,1"]);
        let remote = parse(" kernel://my-vl3@my.domain ").unwrap();
        assert_eq!(remote.name, "my-vl3@my.domain");
        assert_eq!(remote.interface, "nsm-1", "the configured interface");
    }

    #[test]
    fn rejected_urls_name_the_remedy() {
        for (text, error) in [
            (
                "memif://vl3-lb/nsm-1?podName=a",
                "memif://vl3-lb/nsm-1?podName=a, allowed kernel://, as in kernel://vl3-lb/nsm-1?podName=a",
            ),
            (
                "kernel://a/nsm-1,kernel://b/nsm-2",
                "kernel://a/nsm-1,kernel://b/nsm-2, allowed one URL such as kernel://my-vl3/nsm-1?podName=finance: \
                 one process serves one interface, so run a balancer for each",
            ),
            (
                "kernel://a/interface-of-16b",
                "kernel://a/interface-of-16b, allowed kernel://a/INTERFACE with an interface name: 1-15 characters \
                 without / and blanks",
            ),
            (
                "kernel:///nsm-1",
                "kernel:///nsm-1, allowed one URL such as kernel://my-vl3/nsm-1?podName=finance",
            ),
            (
                "vl3-lb",
                "vl3-lb, allowed one URL such as kernel://my-vl3/nsm-1?podName=finance",
            ),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn labels_of_the_url_are_kept() {
        let mut service = parse("kernel://my-vl3/nsm-1?podName=finance").unwrap();
        service.add_label("podName", "finance-lb-7c9d".to_owned());
        service.add_label("nodeName", "node-1".to_owned());
        assert_eq!(service.labels["podName"], "finance");
        assert_eq!(service.labels["nodeName"], "node-1");
    }
}
