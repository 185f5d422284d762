//! `vl3-perf churn`: backends come and go under load.
//!
//! vl3-lb runs in the topology of `compare` with many backends from its configuration file. The file is replaced
//! again and again; each time some backends leave and as many new ones come. Meanwhile the packet tester keeps its
//! flows going. The time of a change is from the rename of the file until every worker uses the new backends, as the
//! balancer itself says it.

mod admin;
mod report;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::compare::cores::Cores;
use crate::compare::measure::open_flows;
use crate::compare::peer::{Path as PacketPath, Peer, Place, Vl3Lb};
use crate::compare::services::PACKETS;
use crate::compare::tester::{Load, Outcome, Tester};
use crate::compare::{Scratch, balancer};
use crate::failure::Failure;
use crate::net::{BACKENDS, Network, Process, Wire, backend_address, start};
use crate::report::environment::Environment;
use crate::report::number;

use admin::Admin;
pub(crate) use report::Report;

/// How long a change may take at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two questions whether a change is in force. When it was, the balancer says itself: answers
/// about a thousand backends cost it a millisecond, which a change should not have to wait for.
const PAUSE: Duration = Duration::from_millis(2);
/// Length of a stretch of load.
const STRETCH: Duration = Duration::from_millis(500);
/// Backends that the tester listens for: all that will ever be there.
const MOST_BACKENDS: u16 = 16_000;

/// What to change, and how often.
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

    /// Requests per second meanwhile; each is answered
    #[arg(short = 'R', long, value_name = "RATE", default_value = "10k", value_parser = number::parse_count)]
    pub(crate) rate: f64,

    /// Flows that are kept going
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=40_000))]
    pub(crate) flows: u16,

    /// How vl3-lb attaches
    #[arg(long, value_name = "MODE", default_value = "native", value_parser = ["native", "generic", "companion"])]
    pub(crate) mode: String,

    /// The vl3-lb binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) balancer: Option<PathBuf>,

    /// Print one JSON document instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Measures what `args` ask for; `progress` is told what is being done.
pub(crate) fn run(args: &ChurnArgs, progress: &mut dyn FnMut(String)) -> Result<Report, Failure> {
    let highest =
        u32::from(BACKENDS) + u32::from(args.backends) + u32::from(args.changes) * u32::from(args.replace);
    if highest > u32::from(MOST_BACKENDS) {
        return Err(Failure::arguments(format!(
            "--changes {} of --replace {} backends are {highest} in all; at most {MOST_BACKENDS} fit",
            args.changes, args.replace
        )));
    }
    let binary = balancer(args.balancer.as_deref())?;
    if let Some(reason) = Vl3Lb::new("vl3-lb", "", "native", binary.clone()).absent() {
        return Err(Failure::new(reason));
    }
    let cores = Cores::here()?;
    let network = Network::build()?;
    let node = network.peer_node(Wire::Veth)?;
    let scratch = Scratch::new()?;
    let place = Place {
        node: &node,
        directory: &scratch.0,
        cores: &cores,
        balancer: &binary,
    };
    let source = Source { args, place: &place };
    source.replace(0)?;
    progress(format!("{} backends: starting", args.backends));
    let mut process = source.start()?;
    let mut admin =
        Admin::wait(node.netns(), PATIENCE).map_err(|failure| explained(failure, &mut process))?;
    let done = AtomicBool::new(false);
    let (times, loads, started, duration) = std::thread::scope(|scope| {
        let (ready, opened) = std::sync::mpsc::channel();
        let (network, done) = (&network, &done);
        let load = scope.spawn(move || {
            network.router.netns.run(|| {
                let mut tester = Tester::open(PacketPath::Balanced, args.flows, MOST_BACKENDS)?;
                open_flows(&mut tester, args.flows)?;
                let before = stretch(&mut tester, args);
                // Nobody listens any more if the changes have failed.
                ready.send(()).ok();
                let during = keep_going(&mut tester, args, done);
                let after = stretch(&mut tester, args);
                Ok::<_, Failure>(Loads {
                    before,
                    during,
                    after,
                })
            })
        });
        let opened = opened
            .recv()
            .map_err(|_| Failure::new("open the flows: see above"));
        let (started, begun) = (SystemTime::now(), Instant::now());
        let changes = opened.and_then(|()| changes(&source, &mut admin, progress));
        let duration = begun.elapsed();
        done.store(true, Ordering::Relaxed);
        let load = load
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok::<_, Failure>((changes?, load, started, duration))
    })
    .map_err(|failure| explained(failure, &mut process))?;
    process.check_running()?;
    Ok(Report {
        command: std::env::args().collect(),
        environment: Environment::of_namespaces(),
        args: args.clone(),
        started,
        duration,
        times,
        applied: admin.applied(),
        lost: loads.during.iter().map(Outcome::lost).sum(),
        sent: loads.during.iter().map(|part| part.requests + part.replies).sum(),
        generator_bound: loads.during.iter().any(Outcome::is_generator_bound),
        flows_before: loads.before.flows_alive,
        flows_after: loads.after.flows_alive,
        flows_moved: loads
            .during
            .iter()
            .chain([&loads.after])
            .map(|part| part.flows_moved)
            .sum(),
    })
}

/// What the tester saw.
struct Loads {
    before: Outcome,
    during: Vec<Outcome>,
    after: Outcome,
}

/// The configuration file.
struct Source<'a> {
    args: &'a ChurnArgs,
    place: &'a Place<'a>,
}

impl Source<'_> {
    fn path(&self) -> PathBuf {
        self.place.directory.join("vl3-lb.yaml")
    }

    /// Writes the file of version `number` and renames it into place; when that was.
    fn replace(&self, number: u16) -> Result<SystemTime, Failure> {
        let path = self.path();
        let failed = |error: std::io::Error| Failure::new(format!("replace {}: {error}", path.display()));
        let first = u16::from(BACKENDS) + number * self.args.replace;
        let backends = (first..first + self.args.backends).map(backend_address);
        let mut service = Vl3Lb::service(PACKETS, backends);
        // Flows of backends that leave end by themselves or not at all.
        service["drain"] = json!("1h");
        let core = self.place.cores.peer_core();
        let config = Vl3Lb::config_with(&self.args.mode, core, self.place.directory, &[service]);
        let new = self.place.directory.join("new.yaml");
        std::fs::write(&new, format!("{config}\n")).map_err(failed)?;
        let start = SystemTime::now();
        std::fs::rename(&new, &path).map_err(failed)?;
        Ok(start)
    }

    /// Starts vl3-lb: its worker has the peer's core, the rest of it may run anywhere.
    fn start(&self) -> Result<Process, Failure> {
        let program = [
            self.place.balancer.display().to_string(),
            "run".to_owned(),
            "--config".to_owned(),
            self.path().display().to_string(),
        ];
        let log: &Path = &self.place.directory.join("vl3-lb.log");
        start(
            self.place.node.netns(),
            &self.place.cores.all_list(),
            &program,
            log,
        )
    }
}

/// Makes the changes one by one; how long each took.
fn changes(
    source: &Source<'_>,
    admin: &mut Admin<'_>,
    progress: &mut dyn FnMut(String),
) -> Result<Vec<Duration>, Failure> {
    let count = source.args.changes;
    let mut times = Vec::new();
    for number in 1..=count {
        let (before, _) = admin.snapshot()?;
        let start = source.replace(number)?;
        let asked = Instant::now();
        // A change is one generation: backends that leave and those that come.
        let published = loop {
            std::thread::sleep(PAUSE);
            let (generation, published) = admin.snapshot()?;
            if generation > before {
                break published;
            }
            if asked.elapsed() > PATIENCE {
                return Err(Failure::new(format!(
                    "change {number}: not in force after {PATIENCE:?}"
                )));
            }
        };
        let took = published.duration_since(start);
        times.push(
            took.map_err(|_| Failure::new("the clock was set back while vl3-lb changed its backends"))?,
        );
        if number % 20 == 0 {
            progress(format!("{number} of {count} changes"));
        }
    }
    Ok(times)
}

fn stretch(tester: &mut Tester, args: &ChurnArgs) -> Outcome {
    tester.run(Load {
        rate: Some(args.rate),
        duration: STRETCH.max(Duration::from_secs_f64(4.0 * f64::from(args.flows) / args.rate)),
        gentle: true,
    })
}

fn keep_going(tester: &mut Tester, args: &ChurnArgs, done: &AtomicBool) -> Vec<Outcome> {
    let mut all = Vec::new();
    while !done.load(Ordering::Relaxed) {
        all.push(stretch(tester, args));
    }
    all
}

/// If the balancer has ended, that is why.
fn explained(failure: Failure, process: &mut Process) -> Failure {
    match process.check_running() {
        Ok(()) => failure,
        Err(ended) => ended.into(),
    }
}
