//! The servers behind every peer: a web server with a short response, and iperf3.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::failure::Failure;
use crate::net::{self, Netns, Process};

use super::requirement::{Requirement, program};
use super::services::{BULK, Service, WEB};

pub(super) const REQUIREMENTS: [Requirement; 2] = [
    Requirement::Program("nginx", "nginx-light"),
    Requirement::Program("iperf3", "iperf3"),
];

/// Starts both on all addresses of `netns`. `port` selects the port of a service: that of its backends, or its own. The web
/// server has its service's port too, for packets whose ports nobody has changed.
pub(super) fn start(
    netns: &Netns,
    cores: &str,
    directory: &Path,
    port: fn(Service) -> u16,
) -> Result<Vec<Process>, Failure> {
    let file = directory.join("web.conf");
    let config = config(&directory.display().to_string(), &[port(WEB), WEB.port]);
    fs::write(&file, config).map_err(Failure::system(format!("write {}", file.display())))?;
    let web = [program("nginx"), "-c".to_owned(), file.display().to_string()];
    let bulk = [
        program("iperf3"),
        "-s".to_owned(),
        "-p".to_owned(),
        port(BULK).to_string(),
    ];
    Ok(vec![
        net::start(netns, cores, &web, &directory.join("web.log"))?,
        net::start(netns, cores, &bulk, &directory.join("bulk.log"))?,
    ])
}

fn config(directory: &str, ports: &[u16]) -> String {
    let ports: BTreeSet<_> = ports.iter().collect();
    let listen: String = ports
        .iter()
        .map(|port| format!("listen {port} backlog=65535; "))
        .collect();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {directory}/web.pid;\n\
         error_log stderr error;\nevents {{ worker_connections 15000; multi_accept on; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 100000000;\n  keepalive_timeout 300s;\n  \
         client_body_temp_path {directory}/body;\n  proxy_temp_path {directory}/proxy;\n  \
         fastcgi_temp_path {directory}/fastcgi;\n  uwsgi_temp_path {directory}/uwsgi;\n  \
         scgi_temp_path {directory}/scgi;\n  \
         server {{ {listen}location / {{ return 200 \"hello\\n\"; }} }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_web_server_listens_on_its_port() {
        let config = config("/tmp/x", &[8081, 8080]);
        assert!(
            config.contains("listen 8080 backlog=65535; listen 8081 backlog"),
            "{config}"
        );
        assert_eq!(config.matches('{').count(), config.matches('}').count());
    }
}
