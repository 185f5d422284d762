//! `vl3-perf compare`: one topology, one load, each peer in turn, several rounds.

mod accounting;
pub(crate) mod admin;
mod captured;
mod clients;
pub(crate) mod cores;
pub(crate) mod error;
pub(crate) mod measure;
pub(crate) mod metric;
pub(crate) mod peer;
pub(crate) mod report;
pub(crate) mod requirement;
mod search;
mod segments;
mod servers;
pub(crate) mod services;
pub(crate) mod tester;
mod tun_port;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::failure::Failure;
use crate::net::{Network, Wire};
use crate::report::environment::Environment;
use crate::report::header::Header;
use crate::report::number;

use clients::Clients;
use cores::Cores;
use error::CompareError;
use metric::Measured;
use peer::{Peer, PeerHost};
use report::{Parameters, PeerReport, Run};
use requirement::first_unmet;
use services::Service;
use tester::{FRAME_LEN, MAX_FLOWS};

pub(crate) use report::Report;
#[cfg(test)]
pub(crate) use report::tests::report as test_report;

/// Arguments of `compare`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CompareArgs {
    /// Peers to measure [default: all that are installed]
    #[arg(long = "peer", value_name = "NAME", value_delimiter = ',')]
    pub(crate) peers: Vec<String>,

    /// Link between balancer and network
    #[arg(long, value_enum, default_value_t = Wire::Veth)]
    pub(crate) link: Wire,

    /// Rounds; each measures every peer once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,

    /// Length of one measurement
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = number::parse_duration)]
    pub(crate) duration: Duration,

    /// Flows of the packet tester
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_FLOWS)))]
    pub(crate) flows: u16,

    /// The vl3-lb binary [default: vl3-lb in the directory of this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) balancer: Option<PathBuf>,

    /// Print one JSON document instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// Compares the selected peers. `progress` receives one line for each.
pub(crate) fn run(args: &CompareArgs, progress: &mut dyn FnMut(String)) -> Result<Report, Failure> {
    let balancer = balancer(args.balancer.as_deref())?;
    let peers = selected(&args.peers, &balancer)?;
    let cores = Cores::here()?;
    let network = Network::build()?;
    let directory = temporary_directory()?;
    let client_requirements = servers::REQUIREMENTS.iter().chain(&clients::REQUIREMENTS);
    let no_connections = first_unmet(client_requirements, args.link);
    let _servers = match no_connections {
        None => servers::start(
            &network.backends,
            &cores.all_list(),
            directory.path(),
            |service: Service| service.target_port,
        )?,
        Some(_) => Vec::new(),
    };
    let comparison = Comparison {
        args,
        network: &network,
        cores: &cores,
        directory: directory.path(),
        connections: no_connections.is_none(),
    };
    let mut reports: Vec<PeerReport> = peers
        .iter()
        .map(|peer| PeerReport::new(peer, args.link))
        .collect();
    let mut runs = Vec::new();
    let start = Instant::now();
    for round in 1..=args.rounds {
        for (peer, report) in peers.iter().zip(&mut reports) {
            if report.absent.is_some() {
                continue;
            }
            progress(format!(
                "{:4}s  round {round}/{}  {}",
                start.elapsed().as_secs(),
                args.rounds,
                peer.name
            ));
            let (start_time, start) = (SystemTime::now(), Instant::now());
            match comparison.measure(peer, report) {
                Ok(measured) => {
                    runs.push(Run::new(peer.name, round, start_time, start.elapsed(), measured));
                }
                Err(failure) => {
                    progress(format!("       {}: {failure}", peer.name));
                    report.failures.push(failure.to_string());
                }
            }
        }
    }
    let parameters = Parameters {
        link: args.link.name().to_owned(),
        rounds: args.rounds,
        duration_seconds: args.duration.as_secs_f64(),
        flows: args.flows,
        frame_bytes: FRAME_LEN,
        tester_core: cores.tester_core(),
        peer_core: cores.peer_core(),
    };
    Ok(Report::new(
        Header::new(Environment::of_namespaces()),
        parameters,
        no_connections.map(|unmet| unmet.to_string()),
        reports,
        runs,
    ))
}

/// What all measurements of a comparison share.
struct Comparison<'a> {
    args: &'a CompareArgs,
    network: &'a Network,
    cores: &'a Cores,
    directory: &'a Path,
    /// Whether to measure with connections.
    connections: bool,
}

impl Comparison<'_> {
    fn measure(&self, peer: &Peer, report: &mut PeerReport) -> Result<Measured, Failure> {
        let directory = self.directory.join(peer.name);
        std::fs::create_dir_all(&directory)
            .map_err(Failure::system(format!("make {}", directory.display())))?;
        let node = self.network.peer_node(self.args.link)?;
        let host = PeerHost {
            network: self.network,
            node: &node,
            directory: &directory,
            cores: self.cores,
            services: &services::ALL,
            flows: peer::vl3lb::FLOWS,
            is_pinned: true,
        };
        let mut running = (peer.start)(&host)?;
        report.commands.clone_from(&running.commands);
        let mut measured = Measured::new();
        if let Some(path) = peer.packets
            && !running.capture.is_empty()
        {
            let captured = captured::measure(&host, self.network, path, self.args, &mut running)?;
            measured.extend(captured);
            running.processes.extend(host.begin_capture(&running.capture)?);
        }
        if let Some(path) = peer.packets {
            let packets = measure::packets(&host, self.network, path, self.args, &mut running)?;
            measured.extend(packets);
        }
        if peer.connections && self.connections {
            let _switch = node.switch()?;
            report.commands.push(host.steer_to_all_cores()?);
            let clients = Clients {
                netns: &self.network.client,
                cores: self.cores.all_list(),
                duration: self.args.duration,
            };
            measured.extend(measure::connections(&clients, &mut running)?);
            if peer.packets.is_some() {
                measured.extend(measure::segments(self.network, self.args.duration)?);
            }
        }
        measured.extend(measure::at_rest(&running, self.args.duration));
        Ok(measured)
    }
}

/// The peers with these names, or all peers without any.
pub(crate) fn selected(names: &[String], balancer: &Path) -> Result<Vec<Peer>, CompareError> {
    let mut peers = peer::all(balancer);
    if !names.is_empty() {
        peers.extend(peer::on_request(balancer));
    }
    if let Some(name) = names
        .iter()
        .find(|name| peers.iter().all(|peer| peer.name != **name))
    {
        let known: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
        return Err(CompareError::UnknownPeer {
            name: name.clone(),
            known: known.join(", "),
        });
    }
    if !names.is_empty() {
        peers.retain(|peer| names.iter().any(|name| name == peer.name));
    }
    Ok(peers)
}

/// The absolute path of the vl3-lb binary.
pub(crate) fn balancer(path: Option<&Path>) -> Result<PathBuf, Failure> {
    match path {
        Some(path) => {
            std::path::absolute(path).map_err(Failure::system(format!("use --balancer {}", path.display())))
        }
        None => std::env::current_exe()
            .map(|own| own.with_file_name("vl3-lb"))
            .map_err(Failure::system("find the path of this program")),
    }
}

/// A directory for files of this run, removed at its end.
pub(crate) fn temporary_directory() -> Result<tempfile::TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("vl3-perf-")
        .tempdir()
        .map_err(Failure::system("make a temporary directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Result<Vec<&'static str>, CompareError> {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        let peers = selected(&wanted, Path::new("/vl3-lb"))?;
        Ok(peers.iter().map(|peer| peer.name).collect())
    }

    #[test]
    fn peers_are_selected_by_name() {
        assert_eq!(
            names(&["nftables", "vl3-lb-native"]).unwrap(),
            ["vl3-lb-native", "nftables"]
        );
        let all = names(&[]).unwrap();
        assert!(all.len() > 8 && !all.contains(&"vl3-lb-native-captured"));
        assert_eq!(
            names(&["vl3-lb-native-captured"]).unwrap(),
            ["vl3-lb-native-captured"]
        );
    }

    #[test]
    fn an_unknown_peer_is_rejected_with_those_that_are_allowed() {
        let error = names(&["nftables", "ipvs"]).unwrap_err();
        assert!(error.is_usage());
        assert!(
            error
                .to_string()
                .starts_with("--peer ipvs: unknown peer; allowed are vl3-lb-fastpath, "),
            "{error}"
        );
    }
}
