//! A source that follows a scripted manager.

use tokio::sync::watch;

use super::manager::{Manager, PlainDial};
use super::*;
use crate::api::NsmDiscovery;
use crate::config::join_errors;
use crate::discovery::nsm::follower::Scope;
use crate::discovery::nsm::{Nsm, NsmClients};
use crate::discovery::{DesiredReceiver, Origin, Source, SourceStatus, StaticFile};
use crate::network::NetworkView;
use crate::observe::events::Events;

pub(super) const LOCAL: &str = "inode://65024/9994788";

/// A manager with one endpoint of its own.
pub(super) fn manager() -> Manager {
    let manager = Manager::start();
    manager.register("nse-0", LOCAL);
    manager
}

pub(super) fn server(number: u8) -> Wire {
    Wire::new(
        &format!("server-{number}"),
        "nse-0",
        &[&format!("172.16.1.{number}/32")],
    )
}

/// A source that follows a manager.
pub(super) struct Following {
    pub(super) desired: DesiredReceiver,
    pub(super) status: watch::Receiver<SourceStatus>,
    pub(super) events: Arc<Events>,
    pub(super) network: watch::Sender<Option<Arc<NetworkView>>>,
    pub(super) task: tokio::task::JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    pub(super) fn start(manager: &Manager) -> Self {
        Self::start_with(manager, PlainDial::default())
    }

    pub(super) fn start_with(manager: &Manager, dial: PlainDial) -> Self {
        let text = "{discovery: nsm, networkService: vl3-lb, services: [{name: finance, port: 8080, targetPort: 80, \
                    selector: {app: finance}}]}";
        let loaded = Config::parse(Some(text), "lb.yaml", &|_| None, &(32768..=60999));
        let config = Arc::new(loaded.map_err(|errors| join_errors(&errors)).unwrap().config);
        let events: Arc<Events> = Arc::default();
        let (network, view) = watch::channel(None);
        let clients = NsmClients {
            dial,
            scope: Scope {
                service: SERVICE.to_owned(),
                manager: manager.target.clone(),
                limit: Duration::from_millis(300),
                own_name: "finance-lb".to_owned(),
            },
            network: view,
            events: Arc::clone(&events),
        };
        let file = StaticFile::new(None, |_: &str| None, config, Arc::clone(&events));
        let (file_status, _) = watch::channel(SourceStatus::new(Origin::Static));
        let source = Nsm::new(file, file_status, clients);
        let (send_desired, desired) = watch::channel(None);
        let (send_status, status) = watch::channel(SourceStatus::new(Origin::Nsm));
        Self {
            desired,
            status,
            events,
            network,
            task: tokio::spawn(source.run(send_desired, send_status)),
        }
    }

    /// Waits for a set with exactly these backends.
    pub(super) async fn backends(&mut self, expected: &[&str]) {
        let shown = |desired: &Option<Arc<Desired>>| -> Option<Vec<String>> {
            let backends = &desired.as_ref()?.services[0].backends;
            Some(
                backends
                    .iter()
                    .map(|backend| backend.address.to_string())
                    .collect(),
            )
        };
        let found = self
            .desired
            .wait_for(|desired| shown(desired).is_some_and(|shown| shown == expected));
        let is_found = tokio::time::timeout(Duration::from_secs(20), found).await.is_ok();
        let last = shown(&self.desired.borrow());
        assert!(
            is_found,
            "expected {expected:?}, the last set is {last:?}: {:?}",
            self.status.borrow()
        );
    }

    pub(super) async fn status(&mut self, expected: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        let found = self.status.wait_for(|status| expected(status));
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        let found = found.ok().and_then(Result::ok).map(|status| status.clone());
        found.unwrap_or_else(|| panic!("the last status is {:?}", self.status.borrow()))
    }

    pub(super) async fn synced(&mut self) -> NsmDiscovery {
        let status = self
            .status(|status| status.synced && status.error.is_none())
            .await;
        (*status.nsm.unwrap()).clone()
    }

    /// Whether a set was sent since the last call.
    pub(super) fn has_changed(&mut self) -> bool {
        let changed = self.desired.has_changed().unwrap();
        self.desired.mark_unchanged();
        changed
    }

    pub(super) fn event_texts(&self) -> Vec<String> {
        self.events.kept().into_iter().map(|event| event.text).collect()
    }
}
