//! vl3-lb itself.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{PacketPath, Peer, PeerHost, Running};
use crate::compare::requirement::Requirement;
use crate::compare::services::Service;
use crate::failure::Failure;
use crate::net::{INTERFACE, backend_address};

/// What the names of all its peers begin with.
pub(crate) const NAME: &str = "vl3-lb";
/// Capacity of the flow table, if nothing else is asked for.
pub(crate) const FLOWS: u32 = 100_000;

/// The in-kernel path beside a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FastPath {
    Auto,
    Off,
}

pub(super) fn peer(
    name: &'static str,
    about: &'static str,
    mode: &'static str,
    fast_path: FastPath,
    binary: &Path,
) -> Peer {
    let mut requirements = vec![built(binary)];
    requirements.extend(Requirement::of_mode(mode));
    let binary = binary.display().to_string();
    Peer {
        name,
        about,
        packets: Some(PacketPath::Balanced),
        connections: true,
        requirements,
        start: Box::new(move |host| start(host, mode, fast_path, &binary)),
    }
}

/// The same while it is captured from.
pub(super) fn captured(
    name: &'static str,
    about: &'static str,
    mode: &'static str,
    fast_path: FastPath,
    binary: &Path,
) -> Peer {
    let plain = peer(name, about, mode, fast_path, binary);
    let (start, program) = (plain.start, binary.display().to_string());
    Peer {
        start: Box::new(move |host| {
            let mut running = start(host)?;
            // It answers a moment after its start.
            let script = r#"n=0
                until "$0" --socket "$1" status --json 2>/dev/null | grep -q '"ready":true'; do
                    n=$((n + 1)); [ $n -lt 100 ] || exit 1; sleep 0.1
                done
                exec "$0" --socket "$1" capture --sample 1000 -c 0 --duration 1h --max-size 1000GiB -w /dev/null"#;
            let socket = socket(host.directory).display().to_string();
            running.capture = ["sh", "-c", script, &program, &socket]
                .map(str::to_owned)
                .to_vec();
            running.commands.push(running.capture.join(" "));
            Ok(running)
        }),
        ..plain
    }
}

/// The requirement that the binary exists.
pub(crate) fn built(binary: &Path) -> Requirement {
    Requirement::File(binary.to_owned(), "./run build")
}

/// The socket of the admin API, in the directory of the peer.
pub(crate) fn socket(directory: &Path) -> PathBuf {
    directory.join("admin.sock")
}

/// A configuration file with one worker on `core`. It is JSON, which is YAML too and is read faster.
pub(crate) fn config(mode: &str, core: usize, directory: &Path, flows: u32, services: &[Value]) -> Value {
    json!({
        "interface": INTERFACE,
        "mode": mode,
        "workers": [core],
        "flows": flows,
        "admin": {"listen": "127.0.0.1:9090", "socket": socket(directory)},
        "services": services,
    })
}

/// A service in the configuration.
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

fn services(services: &[Service]) -> Vec<Value> {
    let services = services.iter();
    services
        .map(|&each| service(each, (0..each.backends).map(backend_address)))
        .collect()
}

fn start(host: &PeerHost<'_>, mode: &str, fast_path: FastPath, binary: &str) -> Result<Running, Failure> {
    let core = host.cores.peer_core();
    let mut config = config(mode, core, host.directory, host.flows, &services(host.services));
    let cores = if host.is_pinned {
        host.cores.peer_list()
    } else {
        config["workers"] = json!("auto");
        host.cores.all_list()
    };
    let mut steering = None;
    config["fastPath"] = match fast_path {
        FastPath::Off => json!({"mode": "off"}),
        FastPath::Auto => {
            // What the kernel does for the balancer is the balancer's, as for the other peers that are the kernel.
            steering = Some(host.steer_to_own_core()?);
            json!({"mode": "auto"})
        }
    };
    let file = host.write("vl3-lb.yaml", &format!("{config:#}\n"))?;
    let mut running = host.start_on(
        &cores,
        "vl3-lb",
        &[binary, "run", "--config", &file.display().to_string()],
    )?;
    running.commands.extend(steering);
    Ok(running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::services::ALL;

    #[test]
    fn every_service_has_its_backends_and_the_worker_its_core() {
        let config = config("native", 1, Path::new("/tmp/x"), 500, &services(&ALL));
        assert_eq!(config["flows"], 500);
        assert_eq!(
            (&config["mode"], &config["workers"]),
            (&"native".into(), &json!([1]))
        );
        assert_eq!(config["admin"]["socket"], "/tmp/x/admin.sock");
        let services = config["services"].as_array().unwrap();
        assert_eq!(services.len(), ALL.len());
        assert_eq!(services[0]["protocol"], "UDP");
        assert_eq!(services[0]["backends"].as_array().unwrap().len(), 8);
        assert_eq!(services[2]["backends"], json!([{"address": "172.16.1.20"}]));
    }
}
