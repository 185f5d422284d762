//! Connects the parts of the control side, and starts their tasks.

use std::path::PathBuf;
use std::sync::Arc;

use crate::admin::{self, Listeners};
use crate::api::{EventCode, Time};
use crate::attachment::Attacher;
use crate::cli::Failure;
use crate::config::{ApiFor, Config, Discovery, Listener};
use crate::discovery::{
    DesiredSender, Kubernetes, Nsm, NsmClients, Origin, Source, SourceStatus, StaticFile,
};
use crate::dns::Dns;
use crate::flow_log::{FlowLog, FlowLogStats};
use crate::health::{Checker, NetworkProbe, PassiveChecker, Sockets};
use crate::local_ports::Watcher;
use crate::network::{Monitor, NetworkReceiver};
use crate::nsm::client::Handle;
use crate::nsm::connector::Connector;
use crate::observe::events::{Event, Events};
use crate::observe::report::{Identity, Reporter, Sources};
use crate::peers::{self, KubeServices, Membership, Peers};
use crate::profile::Profiler;
use crate::publisher::{CurrentReceiver, Publisher};
use crate::supervise::{Supervisor, Tasks};
use crate::version;
use tokio::sync::{Notify, watch};
use tracing::{error, info};
use vl3lb_common::dataplane::Dataplane;
use vl3lb_dataplane::Plane;

use super::{nsm, refused, telemetry};

/// All parts of the control side.
pub(super) struct Control {
    pub(super) supervisor: Supervisor,
    pub(super) reporter: Arc<Reporter>,
    /// `None` outside of a pod.
    pub(super) membership: Option<Membership>,
    /// The client of the vL3 network; `None` where another process makes the interface.
    pub(super) nsm: Option<Handle>,
    /// Has the configuration file read again.
    pub(super) reload: Arc<Notify>,
}

impl Control {
    /// Opens the listeners, connects the parts and starts their tasks.
    pub(super) async fn start(
        config: &Arc<Config>,
        path: Option<PathBuf>,
        start_time: Time,
        plane: &Arc<Plane>,
    ) -> Result<Self, Failure> {
        let dataplane: Arc<dyn Dataplane> = Arc::<Plane>::clone(plane);
        let events: Arc<Events> = Arc::default();
        let (monitor, network, resolver) = Monitor::new(
            config.interface.clone(),
            config.addresses.clone(),
            Arc::clone(&events),
        );
        let (mut attacher, attach_failure) = Attacher::new(
            Arc::clone(&dataplane),
            config.interface.clone(),
            network.clone(),
            Arc::clone(&events),
        );
        let monitor = monitor.with_attachment(attacher.attached());
        // Before the listeners: of two balancers on one interface the second one learns that from its log.
        attacher.start().await.map_err(refused)?;
        let listeners = Listeners::open(&config.admin.listeners(), &config.admin.socket)
            .await
            .map_err(refused)?;
        let (desired, desired_updates) = watch::channel(None);
        let sockets = Sockets::of_process();
        let (checker, health) = Checker::new(NetworkProbe, sockets, desired_updates.clone(), network.clone());
        let (publisher, current, publisher_stats) = Publisher::new(
            Arc::clone(&dataplane),
            config.nat_ports,
            desired_updates,
            network.clone(),
            Arc::clone(&health),
            resolver,
            Arc::clone(&events),
        );
        let (watcher, local_ports) = Watcher::new(config.nat_ports, network.clone()).await;
        let publisher = publisher.with_local_ports(local_ports.clone());
        let passive = PassiveChecker::new(
            Arc::clone(&dataplane),
            current.clone(),
            network.clone(),
            Arc::clone(&health),
        );
        let nsm = nsm::prepare(config, &network, &events)?;
        let connector = nsm.as_ref().map(|nsm| &nsm.connector);
        let supervisor = Supervisor::new();
        let tasks = supervisor.tasks();
        let Found {
            source,
            connections,
            file,
            services,
            reload,
        } = discover(
            config,
            path.clone(),
            desired,
            &network,
            connector,
            &events,
            &tasks,
        )?;
        let (peers, membership) = join(config, &current, services, &events).unzip();
        let peer_set = membership
            .as_ref()
            .map_or_else(|| watch::Sender::default().subscribe(), Membership::peers);
        let (dns, dns_stats) =
            Dns::new(&config.dns, current.clone(), peer_set, network.clone()).map_err(refused)?;
        let flow_log = config
            .flow_log
            .as_ref()
            .map(|log| Arc::new(FlowLogStats::new(log)));
        let identity = Identity {
            instance: telemetry::instance(),
            start_time,
            interface: config.interface.clone(),
            nat_ports: config.nat_ports,
            dns_zone: config.dns.zone.clone(),
            config_path: path.map(|path| path.display().to_string()),
        };
        let sources = Sources {
            dataplane,
            current,
            network,
            local_ports,
            attach_failure,
            health,
            source,
            connections,
            file,
            publisher: publisher_stats,
            dns: dns_stats,
            events: Arc::clone(&events),
            membership: membership.clone(),
            nsm: nsm.as_ref().and_then(|nsm| nsm.handle.clone()),
            flow_log: flow_log.clone(),
        };
        let reporter = Arc::new(Reporter::new(identity, sources));
        if let Some((log, stats)) = config.flow_log.as_ref().zip(flow_log) {
            let log = FlowLog::start(log, reporter.flow_events(), stats).await;
            let log =
                log.map_err(|error| refused(format!("flowLog: open it: {error}; does the folder exist?")))?;
            tasks.spawn("the flow log", log.run());
        }
        for Listener {
            key,
            address,
            api_for,
        } in config.admin.listeners()
        {
            let served = match api_for {
                ApiFor::All => "probes, metrics, status page and API",
                ApiFor::Loopback => "probes and metrics, status page and API on loopback only",
                ApiFor::Nobody => "probes and metrics",
            };
            info!("listening on {address} ({key}): {served}");
        }
        info!("listening on {} (admin.socket)", config.admin.socket.display());

        let started = format!("vl3-lb {} started", version::LONG);
        events.emit(Event::new(EventCode::Started, started));
        tasks.spawn("the network monitor", monitor.run());
        tasks.spawn("the attachment to the interface", attacher.run());
        tasks.spawn("the health checks", checker.run());
        tasks.spawn("the ports of this host", watcher.run());
        tasks.spawn("the passive health checks", passive.run());
        tasks.spawn("the publisher", publisher.run());
        tasks.spawn("the DNS server", dns.run());
        if let Some(peers) = peers {
            let reporter = Arc::clone(&reporter);
            let ready = move || reporter.readiness().is_ok();
            tasks.spawn("the membership of the group", peers.run(ready));
        }
        tasks.spawn("the sampling of counters", Arc::clone(&reporter).run());
        tasks.spawn("the flow events", Arc::clone(reporter.flow_events()).run());
        tasks.spawn("the captures", Arc::clone(reporter.captures()).run());
        telemetry::send_metrics(config, &reporter, &tasks).map_err(refused)?;
        tasks.spawn("the admin server", {
            let reporter = Arc::clone(&reporter);
            let metrics = config.metrics;
            let profiler = Profiler::new(config.admin.profile, &config.admin.socket);
            async move {
                if let Err(error) = admin::serve(listeners, reporter, metrics, profiler).await {
                    error!("serve metrics and the command line: {error}");
                }
            }
        });
        let handle = nsm.as_ref().and_then(|nsm| nsm.handle.clone());
        // Last: a start that fails has nothing to close.
        nsm.map_or(Ok(()), |nsm| nsm.start(&tasks))?;
        Ok(Self {
            supervisor,
            reporter,
            membership,
            nsm: handle,
            reload,
        })
    }
}

/// This balancer among others, if it runs in a pod and may use the Kubernetes API.
fn join(
    config: &Config,
    current: &CurrentReceiver,
    services: KubeServices,
    events: &Arc<Events>,
) -> Option<(Peers, Membership)> {
    let kubernetes = config.kubernetes.as_ref()?;
    let Some(identity) = peers::Identity::read(&kubernetes.group, &|name| std::env::var(name).ok()) else {
        info!(
            "POD_NAME and POD_NAMESPACE are not set: this balancer writes nothing to Kubernetes and joins no group"
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

/// The state of discovery.
struct Found {
    /// Of the source of backends.
    source: watch::Receiver<SourceStatus>,
    /// Of the addresses of pods, where they have a source of their own.
    connections: Option<watch::Receiver<SourceStatus>>,
    /// Of the configuration file.
    file: watch::Receiver<SourceStatus>,
    /// Services of Kubernetes.
    services: KubeServices,
    reload: Arc<Notify>,
}

/// Starts to discover services and backends.
fn discover(
    config: &Arc<Config>,
    path: Option<PathBuf>,
    desired: DesiredSender,
    network: &NetworkReceiver,
    connector: Option<&Connector>,
    events: &Arc<Events>,
    tasks: &Tasks,
) -> Result<Found, Failure> {
    let env = |name: &str| std::env::var(name).ok();
    let reload: Arc<Notify> = Arc::default();
    let file = StaticFile::new(path, env, Arc::clone(config), Arc::clone(events));
    let file = file.with_reload(Arc::clone(&reload));
    let (file_status, file_state) = watch::channel(SourceStatus::new(Origin::Static));
    let clients = match (&config.network_service, connector) {
        (Some(service), Some(connector)) => {
            info!("clients of network service {service} are followed");
            let clients = NsmClients::new(
                connector.clone(),
                &config.nsm,
                service,
                network.clone(),
                Arc::clone(events),
            );
            Some(clients.map_err(refused)?)
        }
        _ => None,
    };
    let mut connections = None;
    let mut services = KubeServices::none();
    let source = match (config.discovery, clients) {
        (Discovery::Static, _) => {
            tasks.spawn("discovery", file.run(desired, file_status));
            file_state.clone()
        }
        (Discovery::Kubernetes, clients) => {
            let (status, state) = watch::channel(SourceStatus::new(Origin::Kubernetes));
            let mut source = Kubernetes::new(file, file_status).with_network(network.clone());
            if let Some(clients) = clients {
                let (status, state) = watch::channel(SourceStatus::new(Origin::Nsm));
                let (receiver, task) = clients.connections(status);
                tasks.spawn("the addresses of pods", task);
                source = source.with_connections(receiver);
                connections = Some(state);
            }
            services = KubeServices {
                accepted: source.accepted(),
                refused: source.refused(),
                stale: source.stale_statuses(),
            };
            tasks.spawn("discovery", source.run(desired, status));
            state
        }
        (Discovery::Nsm, clients) => {
            let clients = clients.expect("the configuration names a network service");
            let (status, state) = watch::channel(SourceStatus::new(Origin::Nsm));
            let source = Nsm::new(file, file_status, clients);
            tasks.spawn("discovery", source.run(desired, status));
            state
        }
    };
    Ok(Found {
        source,
        connections,
        file: file_state,
        services,
        reload,
    })
}
