//! vl3-lb itself.

use std::net::Ipv4Addr;
use std::path::{Path as FilePath, PathBuf};

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::net::{INTERFACE, Wire, backend_address};

use super::{Path, Peer, Place, Running, no_native};
use crate::compare::services::{self, Service};

/// Where it tells about itself.
pub(crate) const ADMIN_PORT: u16 = 9090;
/// Flows that it has room for.
const FLOWS: u32 = 100_000;

/// vl3-lb in one mode.
#[derive(Debug)]
pub(crate) struct Vl3Lb {
    name: &'static str,
    about: &'static str,
    mode: &'static str,
    binary: PathBuf,
}

impl Vl3Lb {
    pub(crate) fn new(name: &'static str, about: &'static str, mode: &'static str, binary: PathBuf) -> Self {
        Self {
            name,
            about,
            mode,
            binary,
        }
    }

    /// The configuration with the services of every peer.
    pub(crate) fn config(mode: &str, core: usize, directory: &FilePath) -> Value {
        let services: Vec<Value> = services::ALL
            .iter()
            .map(|service| Self::service(*service, (0..service.backends()).map(backend_address)))
            .collect();
        Self::config_with(mode, core, directory, &services)
    }

    /// A configuration; JSON is YAML too.
    pub(crate) fn config_with(mode: &str, core: usize, directory: &FilePath, services: &[Value]) -> Value {
        json!({
            "interface": INTERFACE,
            "mode": mode,
            "workers": [core],
            "flows": FLOWS,
            "admin": {
                "listen": format!("127.0.0.1:{ADMIN_PORT}"),
                "socket": directory.join("admin.sock"),
            },
            "services": services,
        })
    }

    /// One service with these backends.
    pub(crate) fn service(service: Service, backends: impl Iterator<Item = Ipv4Addr>) -> Value {
        let backends: Vec<Value> = backends.map(|address| json!({"address": address})).collect();
        json!({
            "name": service.name,
            "protocol": service.protocol().to_uppercase(),
            "port": service.port,
            "targetPort": service.target_port,
            "backends": backends,
        })
    }
}

impl Peer for Vl3Lb {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn packets(&self) -> Option<Path> {
        Some(Path::Balanced)
    }

    fn connections(&self) -> bool {
        true
    }

    fn absent(&self) -> Option<String> {
        let there = self.binary.is_file();
        (!there).then(|| format!("{} is not built (./run build)", self.binary.display()))
    }

    fn refuses(&self, wire: Wire) -> Option<String> {
        no_native(self.mode, wire)
    }

    fn start(&self, place: &Place<'_>) -> Result<Running, Failure> {
        let config = Self::config(self.mode, place.cores.peer_core(), place.directory);
        let file = place.write("vl3-lb.yaml", &format!("{config:#}\n"))?;
        let binary = place.balancer.display().to_string();
        place.start(
            "vl3-lb",
            &[&binary, "run", "--config", &file.display().to_string()],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_its_backends_and_the_worker_its_core() {
        let config = Vl3Lb::config("native", 1, FilePath::new("/tmp/x"));
        assert_eq!(
            (&config["mode"], &config["workers"]),
            (&"native".into(), &json!([1]))
        );
        assert_eq!(config["admin"]["socket"], "/tmp/x/admin.sock");
        let services = config["services"].as_array().unwrap();
        assert_eq!(services.len(), services::ALL.len());
        assert_eq!(services[0]["protocol"], "UDP");
        assert_eq!(services[0]["backends"].as_array().unwrap().len(), 8);
        assert_eq!(services[2]["backends"], json!([{"address": "172.16.1.20"}]));
    }
}
