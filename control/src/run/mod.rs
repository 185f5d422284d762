//! The life of a balancer: start in order, follow signals, drain, stop in order.
//!
//! Start: configuration, log, privileges, data plane, then everything that feeds it and tells about
//! it. Nothing is balanced before the first complete set of services, and `/readyz` says so.
//! SIGTERM or SIGINT: not ready at once, then out of the answers of every name server if there are other
//! balancers, flows may finish within a limit, then the data plane detaches; a second signal ends the wait.

mod signals;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tracing::{error, info, warn};
use vl3lb_common::dataplane::{Attachment, Dataplane};
use vl3lb_control::admin::{self, Listeners};
use vl3lb_control::api::{EventCode, Time};
use vl3lb_control::capabilities::{Needs, Privileges};
use vl3lb_control::cli::args::ConfigArgs;
use vl3lb_control::cli::{Failure, FailureKind, load_config};
use vl3lb_control::config::{self, Config, Discovery};
use vl3lb_control::discovery::{DesiredSender, Kubernetes, Origin, Source, SourceStatus, StaticFile};
use vl3lb_control::dns::{self, Dns};
use vl3lb_control::health::{Checker, TcpConnect};
use vl3lb_control::log::Log;
use vl3lb_control::network::Monitor;
use vl3lb_control::observe::events::{Events, Happening};
use vl3lb_control::observe::report::{Identity, Reporter, Sources};
use vl3lb_control::peers::{self, KubeServices, Membership, Peers};
use vl3lb_control::publisher::{CurrentReceiver, Publisher};
use vl3lb_control::version;
use vl3lb_dataplane::config as dataplane;
use vl3lb_dataplane::plane::Plane;

use signals::{Signals, Wish};

/// The wait for flows at shutdown is the longest drain time of a service, but never longer than
/// this: less than the 30 s that Kubernetes grants by default.
const LONGEST_DRAIN: Duration = Duration::from_secs(20);
/// Peers know of a balancer that leaves within this time, and answer without it from then on.
const PEERS_KNOW: Duration = Duration::from_secs(1);
/// How often to look whether flows are left.
const DRAIN_LOOK: Duration = Duration::from_millis(100);
/// How often to look whether all workers run, and whether the log has folded lines to tell.
const WORKER_LOOK: Duration = Duration::from_secs(1);
/// Readers of flow tables and file accesses that are still busy get this long at the end.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// Bytes of a UMEM frame.
const FRAME: u64 = 4096;

/// Balances until told to stop.
///
/// Errors: what was refused at the start, or what failed for good while running; once the log runs
/// it is told there.
pub(crate) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let loaded = load_config(args.config.as_deref())?;
    let config = Arc::new(loaded.config);
    let format = args.log_format.map_or(config.log_format, Into::into);
    let log = Log::start(config.log_level, format).map_err(refused)?;
    introduce(&config, args);
    for note in &loaded.notes {
        warn!("{note}");
    }
    live(config, args.config.clone(), &log).map_err(|failure| {
        let hint = failure.hint.as_deref().unwrap_or_default();
        let separator = if hint.is_empty() { "" } else { "; " };
        error!("{}{separator}{hint}", failure.error);
        Failure::new(failure.kind, "")
    })
}

fn refused(error: impl ToString) -> Failure {
    Failure::new(FailureKind::Refused, error.to_string())
}

fn failed(error: impl ToString) -> Failure {
    Failure::new(FailureKind::Answered, error.to_string())
}

/// The first lines of the log.
fn introduce(config: &Config, args: &ConfigArgs) {
    info!("vl3-lb {}", version::LONG);
    match &args.config {
        Some(path) => info!("configuration: {} and the environment", path.display()),
        None => info!("configuration: the environment"),
    }
    // One line: for machines it is one message, and people have `vl3-lb check`.
    let resolved = serde_json::to_string(config).unwrap_or_default();
    info!("resolved configuration: {resolved}");
}

/// Checks what can be checked beforehand, then lives in a runtime of its own.
fn live(config: Arc<Config>, path: Option<PathBuf>, log: &Log) -> Result<(), Failure> {
    check_privileges(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_name("vl3lb-control")
        .enable_all()
        .build()
        .map_err(|error| failed(format!("start the control side's threads: {error}")))?;
    let done = runtime.block_on(balance(config, path, log));
    runtime.shutdown_timeout(LAST_MOMENT);
    done
}

fn check_privileges(config: &Config) -> Result<(), Failure> {
    let privileges =
        Privileges::read().map_err(|error| failed(format!("read this process's capabilities: {error}")))?;
    info!("capabilities: {privileges}");
    let workers = match &config.workers {
        config::Workers::Auto => 1,
        config::Workers::Cores(cores) => cores.len() as u64,
    };
    let dns = match config.dns.listen {
        config::DnsListen::OwnAddresses(port) => ([0, 0, 0, 0], port).into(),
        config::DnsListen::Address(address) => address,
    };
    let missing = privileges.missing(&Needs {
        packet_memory: u64::from(config.frames) * FRAME * workers,
        listeners: vec![dns, config.admin.listen],
    });
    if missing.is_empty() {
        return Ok(());
    }
    let texts: Vec<_> = missing.iter().map(ToString::to_string).collect();
    Err(refused(texts.join("; "))
        .hint("run as root, or add the capability: securityContext.capabilities.add, or setcap"))
}

/// Everything that runs beside the data plane.
struct Control {
    tasks: JoinSet<&'static str>,
    reporter: Arc<Reporter>,
    /// `None` outside of a pod.
    membership: Option<Membership>,
}

async fn balance(config: Arc<Config>, path: Option<PathBuf>, log: &Log) -> Result<(), Failure> {
    let start_time = Time::now();
    // First, so that a signal during the start is not lost.
    let mut signals = Signals::listen().map_err(failed)?;
    let plane = start_plane(&config).await?;
    let control = Control::start(&config, path, start_time, &plane).await;
    let done = match control {
        Ok(mut control) => {
            let done = control.watch(&mut signals, &plane, log).await;
            control.drain(&mut signals).await;
            // The data plane goes first, while metrics can still be read.
            stop_plane(plane).await;
            done
        }
        Err(failure) => {
            stop_plane(plane).await;
            Err(failure)
        }
    };
    if done.is_ok() {
        info!("stopped");
    }
    done
}

async fn start_plane(config: &Config) -> Result<Arc<Plane>, Failure> {
    let dataplane = dataplane_config(config);
    let plane = tokio::task::spawn_blocking(move || Plane::start(&dataplane))
        .await
        .map_err(failed)?
        .map_err(refused)?;
    let Attachment {
        interface,
        driver,
        mode,
        zero_copy,
        reason,
        refuses,
        cores,
        ..
    } = plane.attachment();
    let copy = if *zero_copy { "zero-copy" } else { "copy" };
    let why = if reason.is_empty() { "" } else { ": " };
    info!(
        "mode: {} XDP, {copy}, on {interface} (driver {driver}){why}{reason}; workers on cores {cores:?}",
        mode.name(),
    );
    if !refuses.is_empty() {
        warn!("mode {}: {refuses}", mode.name());
    }
    Ok(Arc::new(plane))
}

async fn stop_plane(plane: Arc<Plane>) {
    match tokio::task::spawn_blocking(move || plane.stop()).await {
        Ok(0) => {}
        Ok(lost) => error!("{lost} frames were not given back at the end; report it"),
        Err(error) => error!("stop the data plane: {error}"),
    }
}

impl Control {
    async fn start(
        config: &Arc<Config>,
        path: Option<PathBuf>,
        start_time: Time,
        plane: &Arc<Plane>,
    ) -> Result<Self, Failure> {
        let dataplane: Arc<dyn Dataplane> = Arc::<Plane>::clone(plane);
        let listeners = Listeners::open(config.admin.listen, &config.admin.socket)
            .await
            .map_err(refused)?;
        let events: Arc<Events> = Arc::default();
        let (monitor, network, resolver) = Monitor::new(
            config.interface.clone(),
            config.addresses.clone(),
            Arc::clone(&events),
        );
        let (desired, wanted) = watch::channel(None);
        let (checker, board) = Checker::new(TcpConnect, wanted.clone(), network.clone());
        let (publisher, current, publisher_stats) = Publisher::new(
            Arc::clone(&dataplane),
            config.nat_ports,
            wanted,
            network.clone(),
            Arc::clone(&board),
            resolver,
            Arc::clone(&events),
        );
        let mut tasks = JoinSet::new();
        let Found {
            source,
            file,
            services,
        } = discover(config, path.clone(), desired, &events, &mut tasks);
        let (peers, membership) = join(config, &current, services, &events).unzip();
        let peer_set = membership
            .as_ref()
            .map_or_else(|| watch::Sender::default().subscribe(), Membership::peers);
        let (dns, dns_stats) =
            Dns::new(&config.dns, current.clone(), peer_set, network.clone()).map_err(refused)?;
        let identity = Identity {
            instance: instance(),
            start_time,
            nat_ports: config.nat_ports,
            dns_zone: config.dns.zone.clone(),
            config_path: path.map(|path| path.display().to_string()),
        };
        let sources = Sources {
            dataplane,
            current,
            network,
            health: board,
            source,
            file,
            publisher: publisher_stats,
            dns: dns_stats,
            events: Arc::clone(&events),
            membership: membership.clone(),
        };
        let reporter = Arc::new(Reporter::new(identity, sources));
        info!(
            "telling about it on {} and {}",
            config.admin.listen,
            config.admin.socket.display()
        );

        let started = format!("vl3-lb {} started", version::LONG);
        events.tell(Happening::new(EventCode::Started, started));
        tasks.spawn(named("the network monitor", monitor.run()));
        tasks.spawn(named("the health checks", checker.run()));
        tasks.spawn(named("the publisher", publisher.run()));
        tasks.spawn(named("the name server", dns.run()));
        if let Some(peers) = peers {
            let reporter = Arc::clone(&reporter);
            let ready = move || reporter.readiness().is_ok();
            tasks.spawn(named("the membership of the group", peers.run(ready)));
        }
        tasks.spawn(named("sampling", {
            let reporter = Arc::clone(&reporter);
            async move { reporter.run().await }
        }));
        tasks.spawn(named("the admin server", {
            let reporter = Arc::clone(&reporter);
            async move {
                if let Err(error) = admin::serve(listeners, reporter).await {
                    error!("serve metrics and the command line: {error}");
                }
            }
        }));
        Ok(Self {
            tasks,
            reporter,
            membership,
        })
    }

    /// Follows signals until one asks for the end, or something that should run has ended.
    async fn watch(&mut self, signals: &mut Signals, plane: &Arc<Plane>, log: &Log) -> Result<(), Failure> {
        let mut looks = interval(WORKER_LOOK);
        log.fold();
        loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::End(name) => {
                        info!("{name}: shutting down");
                        return Ok(());
                    }
                    Wish::LogEverything => log.trace(),
                    Wish::LogAsConfigured => log.configured(),
                },
                Some(ended) = self.tasks.join_next() => {
                    return Err(failed(match ended {
                        Ok(name) => format!("{name} has ended, which it never should; report it"),
                        Err(error) => format!("a task of the control side failed: {error}; report it"),
                    }));
                }
                _ = looks.tick() => {
                    log.tell_folded(Instant::now());
                    let plane = Arc::clone(plane);
                    // May wait for a snapshot that is being published.
                    tokio::task::spawn_blocking(move || plane.healthy())
                        .await
                        .map_err(failed)?
                        .map_err(failed)?;
                }
            }
        }
    }

    fn tell_drain(&self, text: String) {
        let happening = Happening::new(EventCode::Draining, text).turn("running", "draining");
        self.reporter.events().tell(happening);
    }

    /// Not ready from now on; sends new clients to other balancers, and waits until no flow is open: for
    /// the limit at most, or until a second signal.
    async fn drain(&self, signals: &mut Signals) {
        self.reporter.drain();
        let end = Instant::now() + LONGEST_DRAIN;
        tokio::select! {
            () = self.leave() => {}
            name = signals.end() => {
                warn!("{name} again: cutting open flows ({})", self.reporter.open_flows());
                return;
            }
        }
        let flows = self.reporter.open_flows();
        if flows == 0 {
            self.tell_drain("draining: no flow is open".to_owned());
            return;
        }
        let left = end
            .saturating_duration_since(Instant::now())
            .min(self.reporter.longest_drain());
        let noun = if flows == 1 { "flow" } else { "flows" };
        self.tell_drain(format!("draining: {flows} {noun}, limit {left:?}"));
        let finished = async {
            while self.reporter.open_flows() > 0 {
                sleep(DRAIN_LOOK).await;
            }
        };
        tokio::select! {
            () = finished => info!("all flows have finished"),
            () = sleep(left) => warn!("limit reached: cutting open flows ({})", self.reporter.open_flows()),
            name = signals.end() => warn!("{name} again: cutting open flows ({})", self.reporter.open_flows()),
        }
    }

    /// Leaves the answers of all name servers, if there are other balancers to answer with: the last
    /// answers with this one are used up when it returns.
    async fn leave(&self) {
        let Some(membership) = &self.membership else {
            return;
        };
        if membership.leave().await {
            let used_up = PEERS_KNOW + dns::ANSWERS_LAST;
            info!(
                "new clients are sent to other balancers; waiting {used_up:?} for those that know this one"
            );
            sleep(used_up).await;
        }
    }
}

/// This balancer among others, if it runs in a pod and may ask the Kubernetes API.
fn join(
    config: &Config,
    current: &CurrentReceiver,
    services: KubeServices,
    events: &Arc<Events>,
) -> Option<(Peers, Membership)> {
    let kubernetes = config.kubernetes.as_ref()?;
    let Some(identity) = peers::Identity::read(&kubernetes.group, &|name| std::env::var(name).ok()) else {
        info!(
            "POD_NAME and POD_NAMESPACE are not set: nothing is written to Kubernetes, no other balancers are looked for"
        );
        return None;
    };
    info!(
        "balancer {} of group {} in namespace {}",
        identity.pod, identity.group, identity.namespace
    );
    Some(Peers::new(
        identity,
        current.clone(),
        services,
        Arc::clone(events),
    ))
}

/// What is known of services and backends, and of how they are found.
struct Found {
    /// How the source of backends is doing.
    source: watch::Receiver<SourceStatus>,
    /// How the file is doing.
    file: watch::Receiver<SourceStatus>,
    /// Those of Kubernetes.
    services: KubeServices,
}

/// Starts to find services and backends.
fn discover(
    config: &Arc<Config>,
    path: Option<PathBuf>,
    desired: DesiredSender,
    events: &Arc<Events>,
    tasks: &mut JoinSet<&'static str>,
) -> Found {
    let env = |name: &str| std::env::var(name).ok();
    let file = StaticFile::new(path, env, Arc::clone(config), Arc::clone(events));
    let (file_status, file_state) = watch::channel(SourceStatus::new(Origin::Static));
    match config.discovery {
        Discovery::Static => {
            tasks.spawn(named("discovery", file.run(desired, file_status)));
            Found {
                source: file_state.clone(),
                file: file_state,
                services: KubeServices::none(),
            }
        }
        Discovery::Kubernetes => {
            let (status, state) = watch::channel(SourceStatus::new(Origin::Kubernetes));
            let source = Kubernetes::new(file, file_status);
            let services = KubeServices {
                accepted: source.accepted(),
                refused: source.refused(),
                left: source.left(),
            };
            tasks.spawn(named("discovery", source.run(desired, status)));
            Found {
                source: state,
                file: file_state,
                services,
            }
        }
    }
}

/// A task that tells its name when it ends.
async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// The name of the pod or host.
fn instance() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

fn dataplane_config(config: &Config) -> dataplane::Config {
    dataplane::Config {
        interface: config.interface.clone(),
        mode: match config.mode {
            config::Mode::Auto => dataplane::Mode::Auto,
            config::Mode::Native => dataplane::Mode::Native,
            config::Mode::Generic => dataplane::Mode::Generic,
            config::Mode::Companion => dataplane::Mode::Companion,
        },
        zero_copy: match config.zero_copy {
            config::ZeroCopy::Auto => dataplane::ZeroCopy::Auto,
            config::ZeroCopy::On => dataplane::ZeroCopy::On,
            config::ZeroCopy::Off => dataplane::ZeroCopy::Off,
        },
        cores: match &config.workers {
            config::Workers::Auto => None,
            config::Workers::Cores(cores) => Some(cores.clone()),
        },
        flows: config.flows,
        frames: config.frames,
        nat_ports: config.nat_ports,
        timeouts: dataplane::Timeouts {
            tcp_established: config.timeouts.tcp_established,
            tcp_transitory: config.timeouts.tcp_transitory,
            udp: config.timeouts.udp,
        },
    }
}
