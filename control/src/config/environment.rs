//! Environment variables, which take precedence over the file.
//!
//! The names, defaults and formats are those of the predecessor, cmd-lb-vl3-vpp, which used Go's envconfig: one service,
//! and Go's durations, URLs and maps. An empty variable counts as unset.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use url::Url;
use vl3lb_common::Protocol;

use super::document::Document;
use super::error::ConfigError;
use super::nsm::{NetworkService, Nsm};
use super::selector::Selector;
use super::service::{Draft, ENVIRONMENT, TargetPort};
use super::{admin, duration, kubernetes, names, port, telemetry};
use crate::profile::SUPPORTED;

/// Overrides settings of `document` with those of `env`.
pub(super) fn apply(
    env: &dyn Fn(&str) -> Option<String>,
    document: &mut Document,
    errors: &mut Vec<ConfigError>,
    notes: &mut Vec<String>,
) {
    let mut variables = Variables { env, errors };
    let config = &mut document.config;
    let levels = names::listed(names::LOG_LEVELS);
    variables.set("NSM_LOG_LEVEL", &levels, &mut config.log_level, |text| {
        names::choice(names::LOG_LEVELS, text)
    });
    variables.set(
        "VL3LB_ADMIN_LISTEN",
        admin::ADDRESS_FORM,
        &mut config.admin.listen,
        admin::address,
    );
    variables.set(
        "VL3LB_ADMIN_API",
        admin::API_FORM,
        &mut config.admin.api,
        admin::api,
    );
    variables.set(
        "NSM_PPROF_ENABLED",
        "true, false",
        &mut config.admin.profile,
        go_bool,
    );
    if config.admin.profile && !SUPPORTED {
        config.admin.profile = false;
        notes.push(
            "NSM_PPROF_ENABLED has no effect: this vl3-lb was built without the feature profile".to_owned(),
        );
    }
    // The predecessor's variable last: who sets both means its collector.
    for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "NSM_OPEN_TELEMETRY_ENDPOINT"] {
        variables.set(
            name,
            telemetry::ENDPOINT_FORM,
            &mut config.telemetry.endpoint,
            telemetry::endpoint,
        );
    }
    variables.set(
        "NSM_METRICS_EXPORT_INTERVAL",
        telemetry::INTERVAL_FORM,
        &mut config.telemetry.interval,
        telemetry::interval,
    );
    // Without discovery by Kubernetes there are no groups.
    if let Some(kubernetes) = &mut config.kubernetes {
        kubernetes.topology.node = variables.text("NODE_NAME");
        kubernetes.topology.zone = variables.text("NODE_ZONE");
        variables.set(
            "VL3LB_GROUP",
            kubernetes::GROUP_FORM,
            &mut kubernetes.group,
            kubernetes::group,
        );
    }
    variables.nsm(&mut config.nsm);
    let network_service = variables.network_service(&config.interface);
    if let Some(service) = &network_service {
        if service.interface != config.interface {
            notes.push(format!(
                "NSM_NETWORK_SERVICES sets the interface to {} in place of {}",
                service.interface, config.interface
            ));
        }
        config.interface.clone_from(&service.interface);
        variables.check_client(&config.nsm, notes);
    }
    config.nsm.network_service = network_service;
    if variables.text("NSM_PPROF_LISTEN_ON").is_some() {
        notes.push("NSM_PPROF_LISTEN_ON has no effect: profiles are at the address of admin.api".to_owned());
    }
    let name = service_name(&variables, &document.config.nsm);
    variables.service(name.as_deref(), &mut document.services, notes);
}

/// The name of the environment's service is the pod's name in the vL3 network: the `podName` label of the request, else
/// NSM_NAME.
fn service_name(variables: &Variables<'_>, nsm: &Nsm) -> Option<String> {
    let service = nsm.network_service.as_ref();
    service
        .and_then(|service| service.labels.get("podName").cloned())
        .or_else(|| variables.text("NSM_NAME"))
}

struct Variables<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    errors: &'a mut Vec<ConfigError>,
}

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.env)(name)
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    }

    fn optional<T>(&mut self, name: &str, allowed: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.errors.push(ConfigError::new(name, text, allowed));
        }
        parsed
    }

    fn set<T>(&mut self, name: &str, allowed: &str, target: &mut T, parse: impl FnOnce(&str) -> Option<T>) {
        if let Some(value) = self.optional(name, allowed, parse) {
            *target = value;
        }
    }

    fn nsm(&mut self, nsm: &mut Nsm) {
        self.set("NSM_NAME", "a name", &mut nsm.name, |text| Some(text.to_owned()));
        self.set(
            "NSM_CONNECT_TO",
            "a unix:// or tcp:// URL",
            &mut nsm.connect_to,
            |text| {
                Url::parse(text)
                    .ok()
                    .filter(|url| matches!(url.scheme(), "unix" | "tcp"))
            },
        );
        for (name, target) in [
            ("NSM_DIAL_TIMEOUT", &mut nsm.dial_timeout),
            ("NSM_REQUEST_TIMEOUT", &mut nsm.request_timeout),
            ("NSM_MAX_TOKEN_LIFETIME", &mut nsm.max_token_lifetime),
        ] {
            self.set(name, duration::FORM, target, |text| {
                duration::parse(text).ok().filter(|duration| !duration.is_zero())
            });
        }
        self.set(
            "SPIFFE_ENDPOINT_SOCKET",
            "a URL such as unix:///run/spire/sockets/agent.sock",
            &mut nsm.workload_api,
            |text| {
                let scheme = text.split_once(':').map(|(scheme, _)| scheme);
                matches!(scheme, Some("unix" | "tcp")).then(|| text.to_owned())
            },
        );
        self.set(
            "NSM_PPROF_LISTEN_ON",
            "a host and port",
            &mut nsm.pprof_listen_on,
            host_and_port,
        );
    }

    /// The vL3 network to join, with all labels of the request: those of the URL, of NSM_LABELS, and the names of
    /// pod, node and cluster.
    fn network_service(&mut self, interface: &str) -> Option<NetworkService> {
        let labels = self.optional("NSM_LABELS", "labels such as app:finance,tier:web", labels);
        let text = self.text("NSM_NETWORK_SERVICES")?;
        let mut service = match NetworkService::parse(&text, interface) {
            Ok(service) => service,
            Err(rejected) => {
                self.errors.push(ConfigError::new(
                    "NSM_NETWORK_SERVICES",
                    rejected.value,
                    rejected.allowed,
                ));
                return None;
            }
        };
        for (key, value) in labels.unwrap_or_default() {
            service.add_label(&key, value);
        }
        for (key, variable) in [
            ("podName", "POD_NAME"),
            ("nodeName", "NODE_NAME"),
            ("clusterName", "CLUSTER_NAME"),
        ] {
            if let Some(value) = self.text(variable) {
                service.add_label(key, value);
            }
        }
        Some(service)
    }

    /// Settings that exclude each other in a client.
    fn check_client(&mut self, nsm: &Nsm, notes: &mut Vec<String>) {
        if nsm.connect_to.scheme() != "unix" {
            self.errors.push(ConfigError::new(
                "NSM_CONNECT_TO",
                nsm.connect_to.as_str(),
                "a unix:// URL with NSM_NETWORK_SERVICES: the network namespace is passed as a file descriptor",
            ));
        }
        // Managers close a connection when its token's remaining life falls below the deadline of its request.
        if nsm.request_timeout * 2 > nsm.max_token_lifetime {
            self.errors.push(ConfigError::new(
                "NSM_REQUEST_TIMEOUT",
                duration::format(nsm.request_timeout),
                format!(
                    "at most half of NSM_MAX_TOKEN_LIFETIME, {}",
                    duration::format(nsm.max_token_lifetime)
                ),
            ));
        }
        if self.text("NSM_NAME").is_none() {
            notes.push(format!(
                "NSM_NAME is not set: this client is called {}, and so is every other balancer of this node \
                 without it, although they need different names",
                nsm.name
            ));
        }
    }

    /// The environment's service changes the file's service of the same name or the file's only service; otherwise it is
    /// added.
    fn service(&mut self, name: Option<&str>, drafts: &mut Vec<Draft>, notes: &mut Vec<String>) {
        let port = self.optional("NSM_PORT", port::FORM, port::parse);
        let target_port = self.optional("NSM_TARGET_PORT", port::FORM, port::parse);
        let protocol = self.optional("NSM_PROTOCOL", &names::listed(names::PROTOCOLS), |text| {
            names::choice(names::PROTOCOLS, text)
        });
        let selector = self.optional("NSM_SELECTOR", "labels such as app:finance,tier:web", selector);
        let variables = ["NSM_PORT", "NSM_TARGET_PORT", "NSM_PROTOCOL", "NSM_SELECTOR"];
        let Some(first) = variables.into_iter().find(|name| self.text(name).is_some()) else {
            return;
        };
        let mut named = drafts
            .iter()
            .enumerate()
            .filter(|(_, draft)| name.is_some() && draft.name.as_deref() == name);
        let known = named
            .next()
            .map(|(index, _)| index)
            .or_else(|| (drafts.len() == 1).then_some(0));
        if let (Some((_, second)), Some(name)) = (named.next(), name) {
            self.errors.push(ConfigError::new(
                first,
                self.text(first).unwrap_or_default(),
                format!(
                    "only while one service has the name {name} ({} is another)",
                    second.path
                ),
            ));
            return;
        }
        match known.and_then(|index| drafts.get_mut(index)) {
            Some(draft) => {
                notes.push(format!("{first} and related variables change {}", draft.path));
                overlay(draft, port, target_port, protocol, selector);
            }
            None => {
                if self.text("NSM_PORT").is_none() {
                    self.errors
                        .push(ConfigError::new("NSM_PORT", "missing", port::FORM));
                }
                let default = Nsm::default().name;
                let name = name.unwrap_or(&default);
                if !names::is_label(name) {
                    self.errors
                        .push(ConfigError::new("NSM_NAME", name, names::LABEL_FORM));
                }
                let mut draft = Draft::named(ENVIRONMENT, name);
                overlay(&mut draft, port, target_port, protocol, selector);
                drafts.push(draft);
            }
        }
    }
}

fn overlay(
    draft: &mut Draft,
    port: Option<u16>,
    target_port: Option<u16>,
    protocol: Option<Protocol>,
    selector: Option<Selector>,
) {
    draft.port = port.or(draft.port);
    if let Some(port) = target_port {
        draft.target_port = Some(TargetPort::Number(port));
    }
    draft.protocol = protocol.or(draft.protocol);
    if let Some(selector) = selector {
        draft.selector = selector;
    }
}

/// `app:finance,tier:web`.
fn selector(text: &str) -> Option<Selector> {
    Selector::equal(&labels(text)?)
}

/// `app:finance,tier:web`, the format of maps of Go's envconfig.
fn labels(text: &str) -> Option<BTreeMap<String, String>> {
    text.split(',')
        .map(|label| {
            let (name, value) = label.split_once(':')?;
            let (name, value) = (name.trim(), value.trim());
            Some((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The values that Go's `strconv.ParseBool` accepts.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn host_and_port(text: &str) -> Option<String> {
    let literal = text.parse::<SocketAddr>().is_ok();
    let (_, port) = text.rsplit_once(':')?;
    (literal || port.parse::<u16>().is_ok()).then(|| text.to_owned())
}
