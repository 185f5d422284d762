//! What a peer needs: programs, files, a kind of link.

use std::path::PathBuf;
use std::process::Command;

use crate::net::{Netns, Wire, on_path};

/// A condition without which a peer is not measured.
#[derive(Debug, Clone)]
pub(crate) enum Requirement {
    /// A program and its Debian package.
    Program(&'static str, &'static str),
    /// A file and how to get it.
    File(PathBuf, &'static str),
    /// Frames with an Ethernet header.
    Ethernet,
    /// A driver with native XDP.
    NativeXdp,
    /// A kernel with flowtables of nftables.
    Flowtable,
}

/// The requirement that is not met, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unmet(String);

impl Requirement {
    /// Those of an XDP mode.
    pub(crate) fn of_mode(mode: &str) -> Vec<Self> {
        match mode {
            "native" => vec![Self::NativeXdp],
            _ => Vec::new(),
        }
    }

    /// The reason if it is not met on this machine, or with this link.
    pub(crate) fn unmet(&self, wire: Wire) -> Option<Unmet> {
        let reason = match self {
            Self::Program(program, package) if on_path(program).is_none() => {
                format!("{program} is not installed (Debian: {package})")
            }
            Self::File(path, remedy) if !path.is_file() => {
                format!("{} does not exist ({remedy})", path.display())
            }
            Self::Ethernet if wire == Wire::Tun => {
                "needs Ethernet frames, and a TUN device has raw IP".to_owned()
            }
            Self::Flowtable => refused_flowtable()?,
            Self::NativeXdp if wire == Wire::Tun => "a TUN device has no native XDP".to_owned(),
            _ => return None,
        };
        Some(Unmet(reason))
    }
}

/// Why the kernel takes no flowtable: tried in a namespace of its own.
fn refused_flowtable() -> Option<String> {
    const TABLE: &str =
        "table ip probe { flowtable known { hook ingress priority 0; devices = { lo }; }; }\n";
    let probe = || Netns::new("probe")?.feed(Command::new("nft").args(["-f", "-"]), TABLE);
    let refused = probe().err()?;
    Some(format!(
        "this kernel takes no flowtable (CONFIG_NF_FLOW_TABLE): {}",
        refused.to_string().lines().next().unwrap_or_default()
    ))
}

/// The first of `requirements` that is not met.
pub(crate) fn first_unmet<'a>(
    requirements: impl IntoIterator<Item = &'a Requirement>,
    wire: Wire,
) -> Option<Unmet> {
    requirements
        .into_iter()
        .find_map(|requirement| requirement.unmet(wire))
}

/// The path of a program that is a [`Requirement`]; its name if it is not installed.
pub(crate) fn program(name: &str) -> String {
    on_path(name).map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmet_requirements_name_the_remedy() {
        for (requirement, wire, reason) in [
            (Requirement::Program("sh", "dash"), Wire::Veth, None),
            (
                Requirement::Program("no-such-program", "no-such-package"),
                Wire::Veth,
                Some("no-such-program is not installed (Debian: no-such-package)"),
            ),
            (
                Requirement::File("/no/such/file".into(), "./run build"),
                Wire::Veth,
                Some("/no/such/file does not exist (./run build)"),
            ),
            (Requirement::NativeXdp, Wire::Veth, None),
            (
                Requirement::NativeXdp,
                Wire::Tun,
                Some("a TUN device has no native XDP"),
            ),
        ] {
            let unmet = requirement.unmet(wire).map(|unmet| unmet.to_string());
            assert_eq!(unmet.as_deref(), reason, "{requirement:?}");
        }
    }
}
