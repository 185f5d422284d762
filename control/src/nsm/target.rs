//! Addresses of NSM servers and of the Workload API.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

/// A server: `unix:///PATH` or `tcp://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Unix(PathBuf),
    /// The host is a name or an address, IPv6 without brackets.
    Tcp {
        host: String,
        port: u16,
    },
}

/// A URL that names no server.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} names no server: {reason}; allowed are unix:///PATH and tcp://HOST:PORT")]
pub struct TargetError {
    url: String,
    reason: &'static str,
    #[source]
    source: Option<url::ParseError>,
}

impl Target {
    /// The name by which HTTP/2 requests call the server. gRPC calls servers of Unix sockets `localhost`.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let url = Url::parse(text).map_err(|source| TargetError {
            url: text.to_owned(),
            reason: "it is not a URL",
            source: Some(source),
        })?;
        Self::try_from(&url)
    }
}

impl TryFrom<&Url> for Target {
    type Error = TargetError;

    fn try_from(url: &Url) -> Result<Self, TargetError> {
        let refuse = |reason| TargetError {
            url: url.to_string(),
            reason,
            source: None,
        };
        match url.scheme() {
            "unix" => {
                if url.host().is_some() || !url.path().starts_with('/') || url.path() == "/" {
                    return Err(refuse("it has no absolute path"));
                }
                let path = url
                    .to_file_path()
                    .map_err(|()| refuse("its path is none of a file"))?;
                Ok(Self::Unix(path))
            }
            "tcp" => {
                let host = match url.host() {
                    None => return Err(refuse("it has no host")),
                    Some(url::Host::Domain("")) => return Err(refuse("it has no host")),
                    Some(url::Host::Domain(name)) => name.to_owned(),
                    Some(url::Host::Ipv4(address)) => address.to_string(),
                    Some(url::Host::Ipv6(address)) => address.to_string(),
                };
                let port = url.port().ok_or_else(|| refuse("it has no port"))?;
                Ok(Self::Tcp { host, port })
            }
            _ => Err(refuse("its scheme is neither unix nor tcp")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { .. } => write!(f, "tcp://{}", self.authority()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_sockets_and_ports() {
        for (url, shown, authority) in [
            (
                "unix:///var/lib/networkservicemesh/nsm.io.sock",
                "unix:///var/lib/networkservicemesh/nsm.io.sock",
                "localhost",
            ),
            ("unix:/run/agent.sock", "unix:///run/agent.sock", "localhost"),
            ("unix:///run/a%20b", "unix:///run/a b", "localhost"),
            ("tcp://10.0.0.3:5001", "tcp://10.0.0.3:5001", "10.0.0.3:5001"),
            ("tcp://[fd00::1]:5001", "tcp://[fd00::1]:5001", "[fd00::1]:5001"),
            (
                "tcp://nsmgr.east:5001",
                "tcp://nsmgr.east:5001",
                "nsmgr.east:5001",
            ),
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!(target.to_string(), shown, "{url}");
            assert_eq!(target.authority(), authority, "{url}");
        }
        let Target::Tcp { host, .. } = "tcp://[fd00::1]:5001".parse().unwrap() else {
            panic!("tcp");
        };
        assert_eq!(host, "fd00::1");
    }

    #[test]
    fn refused_urls_are_named_with_the_reason() {
        for (url, reason) in [
            ("nsm.io.sock", "it is not a URL"),
            ("unix://run/agent.sock", "it has no absolute path"),
            ("unix:///", "it has no absolute path"),
            ("unix:run", "it has no absolute path"),
            ("tcp://:5001", "it is not a URL"),
            ("tcp://nsmgr", "it has no port"),
            ("inode://4/4026532247", "its scheme is neither unix nor tcp"),
        ] {
            let refused = url.parse::<Target>().unwrap_err().to_string();
            assert!(refused.contains(reason), "{refused}");
            assert!(refused.contains(url), "{refused}");
        }
    }
}
