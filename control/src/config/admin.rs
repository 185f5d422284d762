//! Listeners of the admin API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::error::ConfigError;
use super::node::Section;
use crate::profile::SUPPORTED;

pub(super) const ADDRESS_FORM: &str = "an address and port such as 127.0.0.1:9090";
const PROFILE_FORM: &str = if SUPPORTED {
    "true, false"
} else {
    "false: this vl3-lb was built without the feature profile"
};
pub(super) const API_FORM: &str = "auto, none, or an address and port such as 127.0.0.1:9090";
/// The path of a socket must fit into `struct sockaddr_un`.
const SOCKET_PATH: usize = 107;

/// Listeners of the admin API. Probes and metrics are for the kubelet and Prometheus; the status page and the API show who
/// has which connection, and are for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Admin {
    /// Probes and metrics.
    pub listen: SocketAddr,
    /// Status page and API, and probes and metrics too.
    pub api: Api,
    /// The Unix socket of the command line.
    pub socket: PathBuf,
    /// Whether the API takes CPU profiles of the process.
    pub profile: bool,
}

/// The HTTP address of status page and API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Loopback, with the port of `listen`.
    Auto,
    /// Only the Unix socket has them.
    None,
    /// This one.
    Address(SocketAddr),
}

/// A TCP listener, and who gets the page and the API there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// The key of the configuration that sets it.
    pub key: &'static str,
    pub address: SocketAddr,
    pub api_for: ApiFor,
}

/// The connections of a listener that get the page and the API; all get probes and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiFor {
    All,
    /// Those to a loopback address.
    Loopback,
    Nobody,
}

impl ApiFor {
    /// Whether a connection to `local`, an address of this host, gets the page and the API.
    pub fn includes(self, local: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Loopback => local.to_canonical().is_loopback(),
            Self::Nobody => false,
        }
    }
}

impl Admin {
    /// The documented defaults.
    pub(super) fn defaults() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)),
            api: Api::Auto,
            socket: PathBuf::from("/run/vl3-lb/admin.sock"),
            profile: false,
        }
    }

    /// The TCP listeners: one or two.
    pub fn listeners(&self) -> Vec<Listener> {
        let with = |key, address, api_for| Listener {
            key,
            address,
            api_for,
        };
        let public = |api_for| with("admin.listen", self.listen, api_for);
        let Some(api) = self.api_address() else {
            return vec![public(ApiFor::Nobody)];
        };
        if api == self.listen {
            vec![public(ApiFor::All)]
        } else if covers(api, self.listen) {
            vec![with("admin.api", api, ApiFor::All)]
        } else if covers(self.listen, api) {
            vec![public(ApiFor::Loopback)]
        } else {
            vec![public(ApiFor::Nobody), with("admin.api", api, ApiFor::All)]
        }
    }

    fn api_address(&self) -> Option<SocketAddr> {
        let ip = self.listen.ip();
        match self.api {
            Api::None => None,
            Api::Address(address) => Some(address),
            Api::Auto if ip.is_loopback() => Some(self.listen),
            Api::Auto if ip.is_ipv4() => Some((Ipv4Addr::LOCALHOST, self.listen.port()).into()),
            Api::Auto => Some((Ipv6Addr::LOCALHOST, self.listen.port()).into()),
        }
    }

    /// Reads `admin`.
    pub(super) fn read(&mut self, parent: &mut Section<'_>) {
        let path = parent.path("admin");
        let value = parent.value("admin");
        let mut section = Section::new(
            &*path,
            value,
            &["listen", "api", "socket", "profile"],
            parent.errors(),
        );
        if let Some(listen) = section.optional_text("listen", ADDRESS_FORM, address) {
            self.listen = listen;
        }
        if let Some(api) = section.optional_text("api", API_FORM, api) {
            self.api = api;
        }
        let socket_form = format!("an absolute path of at most {SOCKET_PATH} bytes");
        let socket = section.optional_text("socket", &socket_form, |path| {
            (path.starts_with('/') && path.len() <= SOCKET_PATH).then(|| PathBuf::from(path))
        });
        if let Some(socket) = socket {
            self.socket = socket;
        }
        if let Some(profile) = section.optional("profile", PROFILE_FORM, |value| profile(value.as_bool()?)) {
            self.profile = profile;
        }
    }

    /// Of a listener on all addresses, connections to one of them look like those that clients make to it.
    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        if let Api::Address(api) = self.api
            && api != self.listen
            && covers(self.listen, api)
            && !api.ip().is_loopback()
        {
            errors.push(ConfigError::new(
                "admin.api",
                api.to_string(),
                format!(
                    "{} (admin.listen, which includes it), another port, or a loopback address",
                    self.listen
                ),
            ));
        }
    }
}

/// Whether a listener on `wide` gets the connections to `address`, and so excludes a listener there.
fn covers(wide: SocketAddr, address: SocketAddr) -> bool {
    // A listener on [::] has IPv4's connections too (net.ipv6.bindv6only is 0).
    let family = wide.is_ipv6() || address.is_ipv4();
    wide.port() == address.port() && (wide == address || wide.ip().is_unspecified() && family)
}

/// Whether profiles may be taken, if this build has them.
fn profile(enabled: bool) -> Option<bool> {
    (SUPPORTED || !enabled).then_some(enabled)
}

/// Reads `127.0.0.1:9090` or `[::1]:9090`.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let socket: SocketAddr = text.parse().ok()?;
    (socket.port() > 0).then_some(socket)
}

/// Reads `auto`, `none` or an address and port.
pub(super) fn api(text: &str) -> Option<Api> {
    match text {
        "auto" => Some(Api::Auto),
        "none" => Some(Api::None),
        _ => address(text).map(Api::Address),
    }
}

impl Serialize for Api {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::None => serializer.serialize_str("none"),
            Self::Address(address) => address.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(listen: &str, api_text: &str) -> Vec<(String, ApiFor)> {
        let admin = Admin {
            listen: address(listen).expect("an address"),
            api: api(api_text).expect("auto, none or an address"),
            ..Admin::defaults()
        };
        let listeners = admin.listeners().into_iter();
        listeners
            .map(|listener| (listener.address.to_string(), listener.api_for))
            .collect()
    }

    #[test]
    fn page_and_api_have_a_listener_of_their_own_where_the_address_is_not_theirs() {
        use ApiFor::{All, Loopback, Nobody};
        for (listen, api, expected) in [
            ("127.0.0.1:9090", "auto", &[("127.0.0.1:9090", All)][..]),
            ("[::1]:9090", "auto", &[("[::1]:9090", All)]),
            (
                "10.0.0.1:9090",
                "auto",
                &[("10.0.0.1:9090", Nobody), ("127.0.0.1:9090", All)],
            ),
            (
                "[2001:db8::1]:9090",
                "auto",
                &[("[2001:db8::1]:9090", Nobody), ("[::1]:9090", All)],
            ),
            ("0.0.0.0:9090", "auto", &[("0.0.0.0:9090", Loopback)]),
            ("[::]:9090", "auto", &[("[::]:9090", Loopback)]),
            ("[::]:9090", "127.0.0.1:9090", &[("[::]:9090", Loopback)]),
            ("127.0.0.1:9090", "none", &[("127.0.0.1:9090", Nobody)]),
            ("10.0.0.1:9090", "10.0.0.1:9090", &[("10.0.0.1:9090", All)]),
            ("10.0.0.1:9090", "0.0.0.0:9090", &[("0.0.0.0:9090", All)]),
            (
                "0.0.0.0:9090",
                "[::1]:9090",
                &[("0.0.0.0:9090", Nobody), ("[::1]:9090", All)],
            ),
            (
                "10.0.0.1:9090",
                "10.0.0.1:9091",
                &[("10.0.0.1:9090", Nobody), ("10.0.0.1:9091", All)],
            ),
        ] {
            let expected: Vec<_> = expected
                .iter()
                .map(|(address, api_for)| ((*address).to_owned(), *api_for))
                .collect();
            assert_eq!(listeners(listen, api), expected, "{listen} {api}");
        }
    }

    #[test]
    fn loopback_of_either_family_is_for_operators() {
        for (local, is_loopback) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
        ] {
            let local = local.parse().expect("an address");
            assert_eq!(ApiFor::Loopback.includes(local), is_loopback, "{local}");
            assert!(ApiFor::All.includes(local) && !ApiFor::Nobody.includes(local));
        }
    }
}
