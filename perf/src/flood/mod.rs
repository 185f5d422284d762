//! `vl3-perf flood`: floods from spoofed sources, while legitimate clients keep connections and open new ones.
//!
//! The topology is that of `compare`. The flood enters the balancer's link at the network's end; clients and backends
//! are programs with the kernel's TCP. What the balancer sends to a spoofed source ends in the router.

pub(crate) mod attack;
mod counters;
mod generator;
mod legitimate;
pub(crate) mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum;

use crate::compare::cores::Cores;
use crate::compare::error::CompareError;
use crate::compare::peer::{Peer, PeerHost};
use crate::compare::report::PeerReport;
use crate::compare::services::{PACKETS, WEB};
use crate::compare::{balancer, selected, temporary_directory};
use crate::failure::Failure;
use crate::load::pacing::Rate;
use crate::net::{self, Network, Process, Wire};
use crate::report::environment::Environment;
use crate::report::header::{self, Header};
use crate::report::number;

use attack::Attack;
use counters::Source;
use generator::{Generator, MAX_SOURCES, SOURCES};
use legitimate::{Load, Traffic};
use report::{Legitimate, Parameters, Run};

pub(crate) use report::Report;
#[cfg(test)]
pub(crate) use report::tests::report as test_report;

/// Arguments of `flood`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FloodArgs {
    /// Peers to flood; those that pass TCP connections
    #[arg(
        long = "peer",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "vl3-lb-fastpath,vl3-lb-native,nftables,nftables-filtered"
    )]
    pub(crate) peers: Vec<String>,

    /// Attacks [default: all]
    #[arg(long = "attack", value_enum, value_name = "NAME", value_delimiter = ',')]
    pub(crate) attacks: Vec<Attack>,

    /// Length of each flood
    #[arg(short, long, value_name = "TIME", default_value = "5s", value_parser = number::parse_duration)]
    pub(crate) duration: Duration,

    /// Legitimate traffic alone before each flood
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = number::parse_duration)]
    pub(crate) before: Duration,

    /// Legitimate traffic alone after each flood, in which recovery is looked for
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = number::parse_duration)]
    pub(crate) after: Duration,

    /// Packets per second of each flood [default: syn, udp and ack as fast as possible, table and ports 20k]
    #[arg(short = 'R', long, value_name = "N", value_parser = number::parse_count)]
    pub(crate) rate: Option<f64>,

    /// Spoofed source addresses
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SOURCES)))]
    pub(crate) sources: u32,

    /// The vl3-lb binary [default: vl3-lb in the directory of this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) balancer: Option<PathBuf>,

    /// Print one JSON document instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// The shortest time without a flood: a connection fails after a second, and counts are cut into intervals.
const SHORTEST: Duration = Duration::from_millis(1500);

/// The times of one run.
#[derive(Debug, Clone, Copy)]
struct Phases {
    before: Duration,
    flood: Duration,
    after: Duration,
}

/// Floods the selected peers. `progress` receives a line for each attack.
pub(crate) fn run(args: &FloodArgs, progress: &mut dyn FnMut(String)) -> Result<Report, Failure> {
    check(args)?;
    let binary = balancer(args.balancer.as_deref())?;
    let peers = selected(&args.peers, &binary)?;
    let attacks = match args.attacks[..] {
        [] => Attack::value_variants(),
        _ => &args.attacks,
    };
    let cores = Cores::here()?.exchanged();
    let network = Network::build()?;
    network
        .router
        .netns
        .ip(&format!("route add blackhole {SOURCES}"))?;
    let directory = temporary_directory()?;
    let servers = servers(&network, &cores, directory.path())?;
    let measurement = Measurement {
        args,
        network: &network,
        cores: &cores,
        directory: directory.path(),
    };
    let mut reports: Vec<PeerReport> = peers
        .iter()
        .map(|peer| PeerReport::new(peer, Wire::Veth))
        .collect();
    let mut runs = Vec::new();
    let start = Instant::now();
    for &attack in attacks {
        for (peer, report) in peers.iter().zip(&mut reports) {
            if report.absent.is_some() {
                continue;
            }
            if !peer.connections {
                report.absent = Some("passes no TCP connections".to_owned());
                continue;
            }
            progress(format!(
                "{:4}s  {}  {}",
                start.elapsed().as_secs(),
                attack.name(),
                peer.name
            ));
            match measurement.measure(peer, attack, report) {
                Ok(run) => runs.push(run),
                Err(failure) => {
                    progress(format!("       {}: {failure}", peer.name));
                    report.failures.push(format!("{}: {failure}", attack.name()));
                }
            }
        }
    }
    drop(servers);
    let parameters = Parameters {
        before_seconds: args.before.as_secs_f64(),
        flood_seconds: args.duration.as_secs_f64(),
        after_seconds: args.after.as_secs_f64(),
        sources: args.sources,
    };
    let header = Header::new(Environment::of_namespaces());
    Ok(Report::new(header, parameters, reports, runs))
}

fn check(args: &FloodArgs) -> Result<(), CompareError> {
    for (option, length) in [("--before", args.before), ("--after", args.after)] {
        if length < SHORTEST {
            return Err(CompareError::TooShort {
                option,
                length,
                least: SHORTEST,
            });
        }
    }
    Ok(())
}

/// Echo servers for both services.
fn servers(network: &Network, cores: &Cores, directory: &Path) -> Result<Vec<Process>, Failure> {
    let own = std::env::current_exe().map_err(Failure::system("find the path of this program"))?;
    [PACKETS, WEB]
        .iter()
        .map(|service| {
            let program = [
                own.display().to_string(),
                "serve".to_owned(),
                format!(":{}", service.target_port),
            ];
            let log = directory.join(format!("{}.log", service.name));
            net::start(&network.backends, &cores.all_list(), &program, &log)
        })
        .collect()
}

/// What all runs share.
struct Measurement<'a> {
    args: &'a FloodArgs,
    network: &'a Network,
    cores: &'a Cores,
    directory: &'a Path,
}

/// A flood as it was.
struct Flood {
    start: SystemTime,
    end: SystemTime,
    sent: u64,
    counters: BTreeMap<String, f64>,
}

impl Measurement<'_> {
    fn measure(&self, peer: &Peer, attack: Attack, report: &mut PeerReport) -> Result<Run, Failure> {
        let (start_time, start) = (SystemTime::now(), Instant::now());
        let directory = self.directory.join(peer.name);
        std::fs::create_dir_all(&directory)
            .map_err(Failure::system(format!("make {}", directory.display())))?;
        let node = self.network.peer_node(Wire::Veth)?;
        let host = PeerHost {
            network: self.network,
            node: &node,
            directory: &directory,
            cores: self.cores,
            services: &attack.services(),
            flows: attack.flows(),
            is_pinned: false,
        };
        let mut running = (peer.start)(&host)?;
        report.commands.clone_from(&running.commands);
        // The kernel receives the flood on the core that it comes from, as it does by default, not on the peer's.
        report.commands.push(host.steer_to_all_cores()?);
        running.processes.extend(host.begin_capture(&running.capture)?);
        let counters = Source::of(peer.name, &directory);
        let measured = legitimate::wait(&self.network.client)
            .map_err(Failure::from)
            .and_then(|()| self.flood(attack, &counters));
        // The end of the peer is the cause of any other failure.
        for process in &mut running.processes {
            process.check_running()?;
        }
        let (flood, established, new) = measured?;
        let phase = |from, to| Legitimate {
            goodput_ratio: established.goodput(from, to),
            new_connections_ratio: new.succeeded(from, to),
        };
        let after = flood.end + self.args.after;
        #[expect(clippy::cast_precision_loss, reason = "packets, far below 2^53")]
        let sent = flood.sent as f64;
        let length = flood.end.duration_since(flood.start).unwrap_or_default();
        Ok(Run {
            peer: peer.name.to_owned(),
            attack,
            start_time: header::time(start_time),
            duration_seconds: start.elapsed().as_secs_f64(),
            flood_packets_per_second: sent / length.as_secs_f64().max(f64::MIN_POSITIVE),
            before: phase(
                established.started,
                flood.start - legitimate::CONNECTION_TIMEOUT - legitimate::INTERVAL,
            ),
            during: phase(flood.start, flood.end),
            broken_connections: established.opened(flood.start, after),
            recovery_seconds: legitimate::recovery([&established, &new], flood.end)
                .map(|time| time.as_secs_f64()),
            counters: flood.counters,
        })
    }

    /// Floods while both loads run. Returns them in the order established, new.
    fn flood(&self, attack: Attack, counters: &Source) -> Result<(Flood, Traffic, Traffic), Failure> {
        let phases = Phases {
            before: self.args.before,
            flood: self.args.duration,
            after: self.args.after,
        };
        let loads = [Load::established(&phases)?, Load::new_connections(&phases)?];
        let stop = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            let mut clocks = Vec::new();
            for load in &loads {
                let (passed, clock) = mpsc::channel();
                clocks.push(clock);
                threads.push(scope.spawn(move || load.run(&self.network.client, &passed, stop)));
            }
            let ready = clocks.iter().all(|clock| {
                // Its end without the time is a failure, which it reports.
                clock.iter().any(|passed| passed >= phases.before)
            });
            let flood = ready.then(|| self.send(attack, phases.flood, counters, stop));
            if !matches!(flood, Some(Ok(_))) {
                stop.store(true, Ordering::Relaxed);
            }
            let mut traffic = threads.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            let (established, new) = (traffic.next(), traffic.next());
            let (Some(established), Some(new)) = (established, new) else {
                return Err(Failure::Panicked("load"));
            };
            let (established, new) = (established?, new?);
            let flood = flood.ok_or(Failure::Panicked("load"))??;
            Ok((flood, established, new))
        })
    }

    /// Sends the flood from the tester's core.
    fn send(
        &self,
        attack: Attack,
        duration: Duration,
        counters: &Source,
        stop: &AtomicBool,
    ) -> Result<Flood, Failure> {
        let rate = self.args.rate.map_or_else(|| attack.rate(), Rate::Fixed);
        self.network.router.netns.run(|| {
            self.cores.pin_tester()?;
            let mut generator = Generator::open(attack, self.args.sources, 1)?;
            let before = counters.read()?;
            let start = SystemTime::now();
            let sent = generator.run(rate, duration, stop);
            let end = SystemTime::now();
            Ok(Flood {
                start,
                end,
                sent,
                counters: counters.read()?.since(&before),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn checked(options: &str) -> Result<(), CompareError> {
        let words = ["vl3-perf", "flood"]
            .into_iter()
            .chain(options.split_whitespace());
        match Args::parse_from(words).command {
            Command::Flood(args) => check(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_phase_that_is_too_short_to_be_judged_is_rejected() {
        checked("").unwrap();
        checked("--before 1500ms --after 2s -d 100ms").unwrap();
        for option in ["--before", "--after"] {
            let error = checked(&format!("{option} 1s")).unwrap_err();
            assert!(error.is_usage());
            assert_eq!(
                error.to_string(),
                format!(
                    "{option} 1s: at least 1.5s are needed to see whether connections succeed within a second"
                )
            );
        }
    }
}
