//! `vl3-perf churn`: backends change under load.
//!
//! vl3-lb runs in the topology of `compare` with many backends from its configuration file. The file is replaced
//! repeatedly, each time with some other backends, while the packet tester keeps its flows going. A change lasts from
//! the rename of the file until every worker uses the new backends, by the balancer's own status.

mod report;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::compare::admin::Admin;
use crate::compare::cores::Cores;
use crate::compare::error::CompareError;
use crate::compare::measure::open_flows;
use crate::compare::peer::{PacketPath, vl3lb};
use crate::compare::requirement::first_unmet;
use crate::compare::services::PACKETS;
use crate::compare::tester::{Load, MAX_FLOWS, Tester, Trial};
use crate::compare::{balancer, temporary_directory};
use crate::failure::Failure;
use crate::load::pacing::Rate;
use crate::net::{self, BACKENDS, Network, PeerNode, Process, Wire, backend_address};
use crate::report::environment::Environment;
use crate::report::header::{self, Header};
use crate::report::number;

use report::{Parameters, Run, Times};

pub(crate) use report::Report;
#[cfg(test)]
pub(crate) use report::tests::report;

/// Time until the balancer is ready, and for each change.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks at the status. The status has the time of the change, so frequent looks are not needed, and
/// a report about a thousand backends costs the balancer a millisecond.
const POLL: Duration = Duration::from_millis(2);
/// Shortest load of a trial.
const TRIAL: Duration = Duration::from_millis(500);
/// Backend addresses that the tester receives packets for.
const MAX_BACKENDS: u16 = 16_000;
/// Changes between two lines of progress.
const PROGRESS: u16 = 20;

/// Arguments of `churn`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ChurnArgs {
    /// Backends of the service
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=4000))]
    pub(crate) backends: u16,

    /// Backends that each change replaces
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) replace: u16,

    /// Changes
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) changes: u16,

    /// Requests per second during the changes
    #[arg(short = 'R', long, value_name = "RATE", default_value = "10k", value_parser = number::parse_count)]
    pub(crate) rate: f64,

    /// Flows
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_FLOWS)))]
    pub(crate) flows: u16,

    /// How vl3-lb attaches to its interface
    #[arg(long, value_name = "MODE", default_value = "native", value_parser = ["native", "generic", "companion"])]
    pub(crate) mode: String,

    /// The vl3-lb binary [default: vl3-lb in the directory of this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) balancer: Option<PathBuf>,

    /// Print one JSON document instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Changes backends as `args` say. `progress` receives a line from time to time.
pub(crate) fn run(args: &ChurnArgs, progress: &mut dyn FnMut(String)) -> Result<Report, Failure> {
    check(args)?;
    let binary = balancer(args.balancer.as_deref())?;
    if let Some(unmet) = first_unmet(&[vl3lb::built(&binary)], Wire::Veth) {
        return Err(CompareError::Unmet(unmet).into());
    }
    let cores = Cores::here()?;
    let network = Network::build()?;
    let node = network.peer_node(Wire::Veth)?;
    let directory = temporary_directory()?;
    let source = Source {
        args,
        directory: directory.path().to_owned(),
        cores: &cores,
    };
    source.replace(0)?;
    progress(format!("{} backends: starting", args.backends));
    let mut process = source.start(&node, &binary)?;
    let measured = Admin::wait(vl3lb::socket(directory.path()), TIMEOUT)
        .map_err(Failure::from)
        .and_then(|admin| measure(&source, &admin, &network, progress));
    // The end of the balancer is the cause of any other failure.
    process.check_running()?;
    let parameters = Parameters {
        backends: args.backends,
        replaced: args.replace,
        changes: args.changes,
        flows: args.flows,
        requests_per_second: args.rate,
        mode: args.mode.clone(),
    };
    let header = Header::new(Environment::of_namespaces());
    Ok(Report::new(header, parameters, measured?))
}

fn check(args: &ChurnArgs) -> Result<(), CompareError> {
    let (changes, replaced) = (args.changes, args.replace);
    let backends = u32::from(BACKENDS) + u32::from(args.backends) + u32::from(changes) * u32::from(replaced);
    if backends > u32::from(MAX_BACKENDS) {
        return Err(CompareError::TooManyBackends {
            changes,
            replaced,
            backends,
            most: MAX_BACKENDS,
        });
    }
    Ok(())
}

/// Makes the changes while another thread sends.
fn measure(
    source: &Source<'_>,
    admin: &Admin,
    network: &Network,
    progress: &mut dyn FnMut(String),
) -> Result<Run, Failure> {
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (ready, opened) = mpsc::channel();
        let args = source.args;
        let load = scope.spawn(move || network.router.netns.run(|| send(args, &ready, done)));
        // Without flows there is nothing to change; the load's failure is the cause.
        let flows_are_open = opened.recv().is_ok();
        let (start_time, start) = (SystemTime::now(), Instant::now());
        let times = flows_are_open.then(|| changes(source, admin, progress));
        let duration = start.elapsed();
        done.store(true, Ordering::Relaxed);
        let loads = load
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let times = times.transpose()?.unwrap_or_default();
        let during = loads.during.iter();
        let flows_moved = during
            .clone()
            .chain([&loads.after])
            .map(|trial| trial.flows_moved);
        let flows_moved: u32 = flows_moved.sum();
        let (before, after) = (loads.before.flows_alive, loads.after.flows_alive);
        let (sent, lost) = (
            during.clone().map(Trial::sent).sum::<u64>(),
            during.clone().map(Trial::lost).sum(),
        );
        Ok(Run {
            start_time: header::time(start_time),
            duration_seconds: duration.as_secs_f64(),
            change_seconds: Times::new(&times),
            applied_seconds_mean: admin.mean_apply_seconds(),
            sent,
            received: sent - lost,
            lost,
            flows_before: before,
            flows_after: after,
            flows_moved,
            flows_lost: before.saturating_sub(after) + flows_moved,
            generator_bound: loads.during.iter().any(Trial::is_generator_bound),
        })
    })
}

/// The trials before, during and after all changes.
struct Loads {
    before: Trial,
    during: Vec<Trial>,
    after: Trial,
}

/// Sends from the calling thread until `done`; `ready` is signalled when the flows are open.
fn send(args: &ChurnArgs, ready: &mpsc::Sender<()>, done: &AtomicBool) -> Result<Loads, Failure> {
    let mut tester = Tester::open(PacketPath::Balanced, args.flows, MAX_BACKENDS)?;
    open_flows(&mut tester, args.flows)?;
    let load = Load {
        rate: Rate::Fixed(args.rate),
        duration: TRIAL.max(Duration::from_secs_f64(4.0 * f64::from(args.flows) / args.rate)),
        busy_poll: false,
    };
    let before = tester.run(load)?;
    // Without a receiver the changes have failed, which `measure` reports.
    ready.send(()).ok();
    let mut during = Vec::new();
    while !done.load(Ordering::Relaxed) {
        during.push(tester.run(load)?);
    }
    let after = tester.run(load)?;
    Ok(Loads {
        before,
        during,
        after,
    })
}

/// The configuration file.
struct Source<'a> {
    args: &'a ChurnArgs,
    directory: PathBuf,
    cores: &'a Cores,
}

impl Source<'_> {
    fn path(&self) -> PathBuf {
        self.directory.join("vl3-lb.yaml")
    }

    /// Writes version `number` of the file and renames it into place; returns the time just before the rename.
    fn replace(&self, number: u16) -> Result<SystemTime, Failure> {
        let first = u16::from(BACKENDS) + number * self.args.replace;
        let backends = (first..first + self.args.backends).map(backend_address);
        let mut service = vl3lb::service(PACKETS, backends);
        // The balancer must not end flows of backends that leave.
        service["drain"] = json!("1h");
        let core = self.cores.peer_core();
        let config = vl3lb::config(&self.args.mode, core, &self.directory, vl3lb::FLOWS, &[service]);
        let (path, new) = (self.path(), self.directory.join("new.yaml"));
        let attempt = || Failure::system(format!("replace {}", path.display()));
        std::fs::write(&new, format!("{config}\n")).map_err(attempt())?;
        let start = SystemTime::now();
        std::fs::rename(&new, &path).map_err(attempt())?;
        Ok(start)
    }

    /// Starts vl3-lb. Its worker is on the peer's core, the rest of it runs on all cores.
    fn start(&self, node: &PeerNode<'_>, binary: &std::path::Path) -> Result<Process, Failure> {
        let program = [
            binary.display().to_string(),
            "run".to_owned(),
            "--config".to_owned(),
            self.path().display().to_string(),
        ];
        let log = self.directory.join("vl3-lb.log");
        net::start(node.netns(), &self.cores.all_list(), &program, &log)
    }
}

/// Makes the changes one by one; returns the duration of each.
fn changes(
    source: &Source<'_>,
    admin: &Admin,
    progress: &mut dyn FnMut(String),
) -> Result<Vec<Duration>, Failure> {
    let count = source.args.changes;
    let mut times = Vec::new();
    for change in 1..=count {
        let (before, _) = admin.snapshot()?;
        let start_time = source.replace(change)?;
        let start = Instant::now();
        // A change is one generation, for backends that leave and those that come.
        let applied = loop {
            std::thread::sleep(POLL);
            let (generation, applied) = admin.snapshot()?;
            if generation > before {
                break applied;
            }
            if start.elapsed() > TIMEOUT {
                let limit = TIMEOUT;
                return Err(CompareError::NotApplied { change, limit }.into());
            }
        };
        let duration = applied.duration_since(start_time);
        times.push(duration.map_err(|_| CompareError::ClockSetBack { change })?);
        if change % PROGRESS == 0 {
            progress(format!("{change} of {count} changes"));
        }
    }
    Ok(times)
}
