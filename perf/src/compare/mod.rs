//! `vl3-perf compare`: one topology, one load, each peer in turn, several rounds.

pub(crate) mod accounting;
pub(crate) mod cores;
pub(crate) mod frame;
pub(crate) mod measure;
pub(crate) mod metric;
pub(crate) mod peer;
pub(crate) mod report;
mod run_queue;
mod search;
pub(crate) mod servers;
pub(crate) mod services;
mod sockets;
pub(crate) mod tester;
mod tun_port;
mod window;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::failure::Failure;
use crate::net::{Network, Process, Wire};
use crate::report::environment::Environment;
use crate::report::number;

use cores::Cores;
use metric::Measured;
use peer::{Peer, Place};
use report::{PeerReport, Report, Run};
use sockets::Clients;
use tester::MOST_FLOWS;

/// What to compare, and how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CompareArgs {
    /// Peers to measure [default: all that are installed]
    #[arg(long = "peer", value_name = "NAME", value_delimiter = ',')]
    pub(crate) peers: Vec<String>,

    /// What joins the balancer to the network
    #[arg(long, value_enum, default_value_t = Wire::Veth)]
    pub(crate) link: Wire,

    /// Rounds; in each one every peer is measured once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,

    /// Length of one measurement
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = number::parse_duration)]
    pub(crate) duration: Duration,

    /// Flows of the packet tester
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_FLOWS)))]
    pub(crate) flows: u16,

    /// The vl3-lb binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) balancer: Option<PathBuf>,

    /// Print one JSON document instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// Measures what `args` ask for; `progress` is told what is being done.
pub(crate) fn run(args: &CompareArgs, progress: &mut dyn FnMut(String)) -> Result<Report, Failure> {
    let balancer = balancer(args.balancer.as_deref())?;
    let peers = chosen(&args.peers, &balancer)?;
    let cores = Cores::here()?;
    let network = Network::build()?;
    let directory = Scratch::new()?;
    let servers = start_servers(&network, &cores, &directory.0);
    let mut ground = Ground {
        args,
        network: &network,
        cores: &cores,
        directory: &directory.0,
        balancer: &balancer,
        no_connections: servers.as_ref().err().map(ToString::to_string),
    };
    ground.no_connections = ground.no_connections.or_else(sockets::absent);
    let mut reports: Vec<PeerReport> = peers
        .iter()
        .map(|peer| PeerReport::new(peer.as_ref(), args.link))
        .collect();
    let start = Instant::now();
    for round in 1..=args.rounds {
        for (peer, report) in peers
            .iter()
            .zip(&mut reports)
            .filter(|(_, report)| report.absent.is_none())
        {
            let elapsed = start.elapsed().as_secs();
            progress(format!(
                "{elapsed:4}s  round {round}/{}  {}",
                args.rounds,
                peer.name()
            ));
            let (started, begun) = (SystemTime::now(), Instant::now());
            match ground.measure(peer.as_ref(), report) {
                Ok(measured) => report.runs.push(Run {
                    round,
                    started,
                    duration: begun.elapsed(),
                    measured,
                }),
                Err(failure) => {
                    progress(format!("       {}: {failure}", peer.name()));
                    report.failures.push(failure.to_string());
                }
            }
        }
    }
    Ok(Report {
        command: std::env::args().collect(),
        environment: Environment::of_namespaces(),
        cores: cores.clone(),
        duration: args.duration,
        link: args.link,
        flows: args.flows,
        rounds: args.rounds,
        no_connections: ground.no_connections,
        peers: reports,
    })
}

/// What all measurements of a comparison share.
struct Ground<'a> {
    args: &'a CompareArgs,
    network: &'a Network,
    cores: &'a Cores,
    directory: &'a Path,
    balancer: &'a Path,
    /// Why nothing with sockets is measured.
    no_connections: Option<String>,
}

impl Ground<'_> {
    fn measure(&self, peer: &dyn Peer, report: &mut PeerReport) -> Result<Measured, Failure> {
        let directory = self.directory.join(peer.name());
        std::fs::create_dir_all(&directory)
            .map_err(|error| Failure::new(format!("make {}: {error}", directory.display())))?;
        let node = self.network.peer_node(self.args.link)?;
        let place = Place {
            node: &node,
            directory: &directory,
            cores: self.cores,
            balancer: self.balancer,
        };
        let mut running = peer.start(&place)?;
        report.commands.clone_from(&running.commands);
        let mut measured = Measured::new();
        if let Some(path) = peer.packets() {
            measured.extend(measure::packets(
                &place,
                self.network,
                path,
                self.args,
                &mut running,
            )?);
        }
        if peer.connections() && self.no_connections.is_none() {
            let _switch = node.switch()?;
            let clients = Clients {
                netns: &self.network.client,
                cores: self.cores.all_list(),
                duration: self.args.duration,
            };
            measured.extend(measure::connections(&clients, &mut running)?);
        }
        measured.extend(measure::at_rest(&running, self.args.duration));
        Ok(measured)
    }
}

fn start_servers(network: &Network, cores: &Cores, directory: &Path) -> Result<Vec<Process>, Failure> {
    servers::start(
        &network.backends,
        &cores.all_list(),
        directory,
        servers::At::Backends,
    )
}

/// The peers with these names, or all of them.
fn chosen(names: &[String], balancer: &Path) -> Result<Vec<Box<dyn Peer>>, Failure> {
    let mut peers = peer::all(balancer);
    if let Some(unknown) = names
        .iter()
        .find(|name| peers.iter().all(|peer| peer.name() != **name))
    {
        let known: Vec<&str> = peers.iter().map(|peer| peer.name()).collect();
        return Err(Failure::arguments(format!(
            "--peer {unknown}: there is none of this name; want {}",
            known.join(", ")
        )));
    }
    if !names.is_empty() {
        peers.retain(|peer| names.iter().any(|name| name == peer.name()));
    }
    Ok(peers)
}

/// The vl3-lb binary: the one that was named, or the one beside this program.
pub(crate) fn balancer(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return std::path::absolute(path)
            .map_err(|error| Failure::arguments(format!("--balancer {}: {error}", path.display())));
    }
    let own = std::env::current_exe().map_err(|error| Failure::new(format!("find this program: {error}")))?;
    Ok(own.with_file_name("vl3-lb"))
}

/// A directory of this run; it goes with it.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("vl3-perf-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .map_err(|error| Failure::new(format!("make {}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in /tmp harms nobody.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Result<Vec<&'static str>, String> {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        let peers = chosen(&wanted, Path::new("/vl3-lb")).map_err(|failure| failure.to_string())?;
        Ok(peers.iter().map(|peer| peer.name()).collect())
    }

    #[test]
    fn peers_are_chosen_by_name() {
        assert_eq!(
            names(&["nftables", "vl3-lb-native"]),
            Ok(vec!["vl3-lb-native", "nftables"])
        );
        assert!(names(&[]).unwrap().len() > 8);
    }

    #[test]
    fn an_unknown_peer_is_refused_with_those_there_are() {
        let refusal = names(&["nftables", "ipvs"]).unwrap_err();
        assert!(
            refusal.starts_with("--peer ipvs: there is none of this name; want vl3-lb-native, "),
            "{refusal}"
        );
    }
}
