//! The predecessor's environment, which beats the file.
//!
//! It knows one service and its defaults, durations, URLs and maps are those of Go's envconfig.
//! An empty variable counts as unset.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;
use url::Url;
use vl3lb_common::{Duration, Protocol};

use super::document::{self, Document};
use super::refusal::Refusal;
use super::selector::Selector;
use super::service::{Draft, PORTS, TargetPort};
use super::{duration, kubernetes, names};

/// What only a client of Network Service Mesh needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Nsm {
    /// NSM_NAME: this client's name.
    pub name: String,
    /// NSM_CONNECT_TO: the manager.
    pub connect_to: Url,
    #[serde(serialize_with = "duration::serialize")]
    pub dial_timeout: Duration,
    #[serde(serialize_with = "duration::serialize")]
    pub request_timeout: Duration,
    #[serde(serialize_with = "duration::serialize")]
    pub max_token_lifetime: Duration,
    /// NSM_NETWORK_SERVICES: `kernel://NETWORK-SERVICE/INTERFACE?label=value`.
    pub network_services: Vec<Url>,
    pub open_telemetry_endpoint: String,
    #[serde(serialize_with = "duration::serialize")]
    pub metrics_export_interval: Duration,
    pub pprof_enabled: bool,
    pub pprof_listen_on: String,
}

const DEFAULT_CONNECT_TO: &str = "unix:///var/lib/networkservicemesh/nsm.io.sock";

impl Default for Nsm {
    /// The predecessor's defaults.
    fn default() -> Self {
        Self {
            name: "cmd-lb-vl3-vpp".to_owned(),
            connect_to: Url::parse(DEFAULT_CONNECT_TO).expect("the default is a URL"),
            dial_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(15),
            max_token_lifetime: Duration::from_secs(600),
            network_services: Vec::new(),
            open_telemetry_endpoint: "otel-collector.observability.svc.cluster.local:4317".to_owned(),
            metrics_export_interval: Duration::from_secs(10),
            pprof_enabled: false,
            pprof_listen_on: "localhost:6060".to_owned(),
        }
    }
}

/// Variables that are read, checked and kept, and that nothing uses yet.
const WITHOUT_EFFECT: [&str; 9] = [
    "NSM_CONNECT_TO",
    "NSM_DIAL_TIMEOUT",
    "NSM_REQUEST_TIMEOUT",
    "NSM_MAX_TOKEN_LIFETIME",
    "NSM_NETWORK_SERVICES",
    "NSM_OPEN_TELEMETRY_ENDPOINT",
    "NSM_METRICS_EXPORT_INTERVAL",
    "NSM_PPROF_ENABLED",
    "NSM_PPROF_LISTEN_ON",
];

/// Puts what `env` says over `document`.
pub(super) fn apply(
    env: &dyn Fn(&str) -> Option<String>,
    document: &mut Document,
    refusals: &mut Vec<Refusal>,
    notes: &mut Vec<String>,
) {
    let mut variables = Variables { env, refusals };
    let config = &mut document.config;
    let levels = names::listed(names::LOG_LEVELS);
    variables.set("NSM_LOG_LEVEL", &levels, &mut config.log_level, |text| {
        names::choice(names::LOG_LEVELS, text)
    });
    variables.set(
        "VL3LB_ADMIN_LISTEN",
        document::ADMIN_LISTEN_FORM,
        &mut config.admin.listen,
        document::admin_listen,
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
    let unused: Vec<_> = WITHOUT_EFFECT
        .into_iter()
        .filter(|name| variables.text(name).is_some())
        .collect();
    if !unused.is_empty() {
        notes.push(format!("without effect in this version: {}", unused.join(", ")));
    }
    let name = service_name(&variables, &document.config.nsm);
    variables.service(name.as_deref(), &mut document.services, notes);
}

/// The environment's service is called what the vL3 network calls this pod: the `podName` label
/// of its request, else NSM_NAME.
fn service_name(variables: &Variables<'_>, nsm: &Nsm) -> Option<String> {
    nsm.network_services
        .iter()
        .flat_map(Url::query_pairs)
        .find(|(key, _)| key == "podName")
        .map(|(_, value)| value.into_owned())
        .or_else(|| variables.text("NSM_NAME"))
}

struct Variables<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    refusals: &'a mut Vec<Refusal>,
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
            self.refusals.push(Refusal::new(name, text, allowed));
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
            ("NSM_METRICS_EXPORT_INTERVAL", &mut nsm.metrics_export_interval),
        ] {
            self.set(name, duration::FORM, target, |text| {
                duration::parse(text).filter(|duration| !duration.is_zero())
            });
        }
        self.set(
            "NSM_NETWORK_SERVICES",
            "URLs such as kernel://my-vl3/nsm-1?podName=finance, with commas between",
            &mut nsm.network_services,
            |text| {
                text.split(',')
                    .map(|url| Url::parse(url.trim()).ok().filter(Url::has_host))
                    .collect()
            },
        );
        self.set(
            "NSM_OPEN_TELEMETRY_ENDPOINT",
            "a host and port",
            &mut nsm.open_telemetry_endpoint,
            host_and_port,
        );
        self.set(
            "NSM_PPROF_ENABLED",
            "true, false",
            &mut nsm.pprof_enabled,
            go_bool,
        );
        self.set(
            "NSM_PPROF_LISTEN_ON",
            "a host and port",
            &mut nsm.pprof_listen_on,
            host_and_port,
        );
    }

    /// The one service of the environment changes the file's service of that name, or the file's
    /// only service, or is added.
    fn service(&mut self, name: Option<&str>, drafts: &mut Vec<Draft>, notes: &mut Vec<String>) {
        let port = self.optional("NSM_PORT", PORTS, port);
        let target_port = self.optional("NSM_TARGET_PORT", PORTS, self::port);
        let protocol = self.optional("NSM_PROTOCOL", &names::listed(names::PROTOCOLS), |text| {
            names::choice(names::PROTOCOLS, text)
        });
        let selector = self.optional("NSM_SELECTOR", "labels such as app:finance,tier:web", selector);
        let variables = ["NSM_PORT", "NSM_TARGET_PORT", "NSM_PROTOCOL", "NSM_SELECTOR"];
        let Some(first) = variables.into_iter().find(|name| self.text(name).is_some()) else {
            return;
        };
        let known = drafts
            .iter()
            .position(|draft| name.is_some() && draft.name.as_deref() == name)
            .or_else(|| (drafts.len() == 1).then_some(0));
        match known.and_then(|index| drafts.get_mut(index)) {
            Some(draft) => {
                notes.push(format!("{first} and the like change {}", draft.path));
                overlay(draft, port, target_port, protocol, selector);
            }
            None => {
                if self.text("NSM_PORT").is_none() {
                    self.refusals.push(Refusal::new("NSM_PORT", "missing", PORTS));
                }
                let default = Nsm::default().name;
                let name = name.unwrap_or(&default);
                if !names::is_label(name) {
                    self.refusals
                        .push(Refusal::new("NSM_NAME", name, names::LABEL_FORM));
                }
                let mut draft = Draft::named("NSM_PORT", name);
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

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|&port| port > 0)
}

/// `app:finance,tier:web`.
fn selector(text: &str) -> Option<Selector> {
    let labels: BTreeMap<_, _> = text
        .split(',')
        .map(|label| {
            let (name, value) = label.split_once(':')?;
            let (name, value) = (name.trim(), value.trim());
            Some((name.to_owned(), value.to_owned()))
        })
        .collect::<Option<_>>()?;
    Selector::equal(&labels)
}

/// As Go's `strconv.ParseBool`.
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
