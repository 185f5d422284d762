//! The servers behind every peer: a web server with a short answer, and iperf3.

use std::fs;
use std::path::Path;

use crate::failure::Failure;
use crate::net::{Netns, Process, on_path};

use super::services::{BULK, Service, WEB};

/// Which ports they listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Behind a balancer.
    Backends,
    /// In its place.
    Service,
}

impl At {
    const fn port(self, service: Service) -> u16 {
        match self {
            Self::Backends => service.target_port,
            Self::Service => service.port,
        }
    }
}

/// Why they cannot run here.
pub(crate) fn absent() -> Option<String> {
    let missing = [("nginx", "nginx-light"), ("iperf3", "iperf3")]
        .into_iter()
        .find(|(program, _)| on_path(program).is_none())?;
    Some(format!("{} is not installed (Debian: {})", missing.0, missing.1))
}

/// Starts both in `netns`; they listen at all its addresses.
pub(crate) fn start(netns: &Netns, cores: &str, directory: &Path, at: At) -> Result<Vec<Process>, Failure> {
    if let Some(reason) = absent() {
        return Err(Failure::new(format!("start the servers: {reason}")));
    }
    let path = |program: &str| {
        on_path(program).map_or_else(|| program.to_owned(), |path| path.display().to_string())
    };
    let file = directory.join("web.conf");
    let config = config(&directory.display().to_string(), at.port(WEB));
    fs::write(&file, config).map_err(|error| Failure::new(format!("write {}: {error}", file.display())))?;
    let web = [path("nginx"), "-c".to_owned(), file.display().to_string()];
    let bulk = [
        path("iperf3"),
        "-s".to_owned(),
        "-p".to_owned(),
        at.port(BULK).to_string(),
    ];
    Ok(vec![
        crate::net::start(netns, cores, &web, &directory.join("web.log"))?,
        crate::net::start(netns, cores, &bulk, &directory.join("bulk.log"))?,
    ])
}

fn config(directory: &str, port: u16) -> String {
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {directory}/web.pid;\n\
         error_log stderr error;\nevents {{ worker_connections 15000; multi_accept on; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 100000000;\n  keepalive_timeout 300s;\n  \
         client_body_temp_path {directory}/body;\n  proxy_temp_path {directory}/proxy;\n  \
         fastcgi_temp_path {directory}/fastcgi;\n  uwsgi_temp_path {directory}/uwsgi;\n  \
         scgi_temp_path {directory}/scgi;\n  \
         server {{ listen {port} backlog=65535; location / {{ return 200 \"hello\\n\"; }} }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_listen_behind_the_balancer_or_in_its_place() {
        assert_eq!((At::Backends.port(WEB), At::Service.port(WEB)), (8081, 8080));
        let config = config("/tmp/x", 8081);
        assert!(config.contains("listen 8081 backlog"), "{config}");
        assert_eq!(config.matches('{').count(), config.matches('}').count());
    }
}
