//! Services and backends from the configuration file, which is reloaded when it changes.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::api::EventCode;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::field::Empty;
use tracing::{info, warn};
use vl3lb_common::Duration;

use super::file_events::FileEvents;
use super::{
    BackendSpec, Desired, DesiredSender, Eligibility, ErrorReason, Origin, ServiceSpec, Source, SourceStatus,
};
use crate::config::{self, Config, TargetPort};
use crate::log::CONTROL_ACTION;
use crate::observe::events::{Event, Events};

/// Time between two polls of the file. It is read when two polls agree, which detects edits, renames and ConfigMap
/// symlink swaps on every file system. After a notification of the kernel it is read at once.
const POLL: Duration = Duration::from_millis(200);

/// The configuration file as a source. The configuration at start is its first complete set.
pub struct StaticFile<E> {
    path: Option<PathBuf>,
    env: E,
    /// The configuration at start, which still applies to settings that need a restart.
    started_with: Arc<Config>,
    events: Arc<Events>,
    /// Notified when the file is to be read although it may not have changed.
    reload: Arc<Notify>,
}

impl<E> std::fmt::Debug for StaticFile<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl<E> StaticFile<E>
where
    E: Fn(&str) -> Option<String> + Send + Sync,
{
    /// Follows `path`, whose settings `env` overrides, and emits `events`. Without a path `started_with` is the only
    /// set.
    pub fn new(path: Option<PathBuf>, env: E, started_with: Arc<Config>, events: Arc<Events>) -> Self {
        Self {
            path,
            env,
            started_with,
            events,
            reload: Arc::default(),
        }
    }

    /// Reads the file also when `reload` is notified, and logs the result whatever it is.
    #[must_use]
    pub fn with_reload(mut self, reload: Arc<Notify>) -> Self {
        self.reload = reload;
        self
    }
}

impl<E> Source for StaticFile<E>
where
    E: Fn(&str) -> Option<String> + Send + Sync,
{
    async fn run(self, desired: DesiredSender, status: watch::Sender<SourceStatus>) {
        self.follow(&status, |config| {
            desired.send_replace(Some(Arc::new(Desired::from(config))));
        })
        .await;
    }
}

impl<E> StaticFile<E>
where
    E: Fn(&str) -> Option<String> + Send + Sync,
{
    /// Follows the file for ever and passes each configuration whose services changed to `accept`, beginning with the
    /// configuration at start.
    pub(super) async fn follow(&self, status: &watch::Sender<SourceStatus>, accept: impl Fn(&Config) + Send) {
        accept(&self.started_with);
        accepted(status);
        let Some(path) = &self.path else {
            loop {
                self.reload.notified().await;
                warn!(
                    "there is no configuration file to read again; the environment is read at the start alone"
                );
            }
        };
        let mut services = self.started_with.services.clone();
        let mut file_events = FileEvents::of(path);
        let mut polls = interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The file may have changed since the start: read it once more.
        let mut read = None;
        let mut seen = None;
        loop {
            let mut is_asked = false;
            let complete = tokio::select! {
                _ = polls.tick() => false,
                () = file_events.next() => true,
                () = self.reload.notified() => {
                    is_asked = true;
                    read = None;
                    true
                }
            };
            let state = FileState::at(path);
            let settled = complete || seen.as_ref() == Some(&state);
            seen = Some(state);
            if !settled || read == seen {
                continue;
            }
            read.clone_from(&seen);
            let span =
                tracing::info_span!(target: CONTROL_ACTION, "read the configuration", is_valid = Empty);
            let loaded = span.in_scope(|| Config::load(Some(path), &self.env));
            span.record("is_valid", loaded.is_ok());
            drop(span);
            match loaded {
                Ok(loaded) => {
                    for note in &loaded.notes {
                        info!("{note}");
                    }
                    self.warn_of_restart(path, &loaded.config);
                    let was_refused = accepted(status);
                    if was_refused || loaded.config.services != services {
                        self.events.emit(reloaded(path, was_refused));
                    }
                    if loaded.config.services != services {
                        services.clone_from(&loaded.config.services);
                        accept(&loaded.config);
                    } else if is_asked {
                        info!("{}: read again, no service has changed", path.display());
                    }
                }
                Err(errors) => {
                    // The content of a file that can be opened was refused.
                    let reason = match std::fs::File::open(path) {
                        Ok(_) => ErrorReason::Invalid,
                        Err(_) => ErrorReason::Io,
                    };
                    self.events
                        .emit(refused(status, reason, config::join_errors(&errors)));
                }
            }
        }
    }
}

impl<E> StaticFile<E> {
    /// Where events go.
    pub(super) const fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// The configuration at start.
    pub(super) const fn started_with(&self) -> &Arc<Config> {
        &self.started_with
    }

    fn warn_of_restart(&self, path: &Path, config: &Config) {
        let changed = self.started_with.needs_restart(config);
        if !changed.is_empty() {
            warn!(
                "{}: change of {} takes effect at the next start",
                path.display(),
                changed.join(", ")
            );
        }
    }
}

/// Marks the file as in use. Whether it was refused before.
fn accepted(status: &watch::Sender<SourceStatus>) -> bool {
    let now = SystemTime::now();
    let mut was_refused = false;
    status.send_modify(|status| {
        was_refused = status.error.take().is_some();
        status.synced = true;
        status.loaded = Some(now);
        status.last_event = Some(now);
        status.events += 1;
    });
    was_refused
}

fn reloaded(path: &Path, was_refused: bool) -> Event {
    let before = if was_refused { "rejected" } else { "read" };
    let text = format!("{} reloaded", path.display());
    Event::new(EventCode::ConfigRead, text).transition(before, "read")
}

fn refused(status: &watch::Sender<SourceStatus>, reason: ErrorReason, text: String) -> Event {
    let message = format!("config rejected, keeping the running one: {text}");
    let mut before = "read";
    status.send_modify(|status| {
        if status.error.is_some() {
            before = "rejected";
        }
        status.synced = false;
        status.last_event = Some(SystemTime::now());
        status.error = Some(text);
        status.errors.count(reason);
    });
    Event::warn(EventCode::ConfigRejected, message).transition(before, "rejected")
}

/// Identifies a state of the file at a path, following symbolic links.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FileState {
    File {
        device: u64,
        inode: u64,
        size: u64,
        /// Seconds and nanoseconds.
        modified: (i64, i64),
        /// Detects edits within one tick of `modified`, and a `modified` that is set back.
        changed: (i64, i64),
    },
    Unreadable(io::ErrorKind),
}

impl FileState {
    /// One stat, a few microseconds on the file systems that configurations live on.
    fn at(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(file) => Self::File {
                device: file.dev(),
                inode: file.ino(),
                size: file.size(),
                modified: (file.mtime(), file.mtime_nsec()),
                changed: (file.ctime(), file.ctime_nsec()),
            },
            Err(error) => Self::Unreadable(error.kind()),
        }
    }
}

impl From<&Config> for Desired {
    fn from(config: &Config) -> Self {
        let services = config.services.iter().map(|service| {
            let port = match service.target_port {
                TargetPort::Number(port) => port,
                // The configuration refuses this with static discovery.
                TargetPort::Name(_) => service.port,
            };
            let backends = service.backends.iter().map(|backend| BackendSpec {
                address: backend.address,
                port,
                instance: None,
                weight: backend.weight,
                backup: backend.backup,
                eligibility: Eligibility::NewFlows,
                changed: None,
                origin: Origin::Static,
                pod: None,
            });
            Arc::new(ServiceSpec::new(service, port, backends.collect()))
        });
        Self {
            services: services.collect(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::DesiredReceiver;
    use super::*;

    fn text(port: u16) -> String {
        format!("services: [{{name: finance, port: {port}}}]")
    }

    fn no_env(_: &str) -> Option<String> {
        None
    }

    struct Running {
        directory: tempfile::TempDir,
        desired: DesiredReceiver,
        status: watch::Receiver<SourceStatus>,
        reload: Arc<Notify>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Running {
        /// Starts a source for `lb.yaml` in a directory that `prepare` fills.
        async fn start(prepare: impl FnOnce(&Path)) -> Self {
            let directory = tempfile::tempdir().unwrap();
            prepare(directory.path());
            let path = directory.path().join("lb.yaml");
            let config = Config::load(Some(&path), &no_env).unwrap().config;
            let (desired, receiver) = watch::channel(None);
            let (status, status_receiver) = watch::channel(SourceStatus::new(Origin::Static));
            let reload: Arc<Notify> = Arc::default();
            let source = StaticFile::new(Some(path), no_env, Arc::new(config), Arc::default())
                .with_reload(Arc::clone(&reload));
            let task = tokio::spawn(source.run(desired, status));
            let mut running = Self {
                directory,
                desired: receiver,
                status: status_receiver,
                reload,
                task,
            };
            running.read(2).await;
            running
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// Waits until the file was read `count` times and returns the port then.
        async fn read(&mut self, count: u64) -> u16 {
            let done = |status: &SourceStatus| status.events + status.errors.total() >= count;
            let waited = tokio::time::timeout(Duration::from_secs(20), self.status.wait_for(done));
            waited.await.expect("the file is read again").unwrap();
            self.desired.borrow().as_ref().unwrap().services[0].port
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    #[tokio::test]
    async fn a_file_is_read_when_that_is_asked_for() {
        let mut running = Running::start(|dir| fs::write(dir.join("lb.yaml"), text(80)).unwrap()).await;
        let before = running.status.borrow().events;
        running.reload.notify_one();
        assert_eq!(running.read(before + 1).await, 80, "although it has not changed");
        fs::write(running.path("lb.yaml"), "services: [{name: finance, port: 0}]").unwrap();
        running.reload.notify_one();
        let refused = running.status.wait_for(|status| status.error.is_some());
        let error = refused.await.unwrap().error.clone().unwrap();
        assert!(error.starts_with("services[0].port: 0"), "{error}");
        assert_eq!(running.desired.borrow().as_ref().unwrap().services[0].port, 80);
    }

    #[tokio::test]
    async fn an_edit_in_place_is_applied() {
        let mut running = Running::start(|dir| fs::write(dir.join("lb.yaml"), text(80)).unwrap()).await;
        fs::write(running.path("lb.yaml"), text(81)).unwrap();
        assert_eq!(running.read(3).await, 81);
    }

    #[tokio::test]
    async fn a_replacement_by_rename_is_applied() {
        let mut running = Running::start(|dir| fs::write(dir.join("lb.yaml"), text(80)).unwrap()).await;
        for (count, port) in [(3, 81), (4, 82)] {
            fs::write(running.path("new.yaml"), text(port)).unwrap();
            fs::rename(running.path("new.yaml"), running.path("lb.yaml")).unwrap();
            assert_eq!(running.read(count).await, port);
        }
    }

    #[tokio::test]
    async fn a_configmap_symlink_swap_is_applied() {
        // As the kubelet does it: lb.yaml -> ..data/lb.yaml, ..data -> ..1, then ..data -> ..2.
        let version = |dir: &Path, name: &str, port| {
            fs::create_dir(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("lb.yaml"), text(port)).unwrap();
        };
        let link = std::os::unix::fs::symlink::<&str, PathBuf>;
        let mut running = Running::start(|dir| {
            version(dir, "..1", 80);
            link("..1", dir.join("..data")).unwrap();
            link("..data/lb.yaml", dir.join("lb.yaml")).unwrap();
        })
        .await;
        version(running.directory.path(), "..2", 81);
        link("..2", running.path("..data_tmp")).unwrap();
        fs::rename(running.path("..data_tmp"), running.path("..data")).unwrap();
        fs::remove_dir_all(running.path("..1")).unwrap();
        assert_eq!(running.read(3).await, 81);
    }

    #[tokio::test]
    async fn an_invalid_edit_is_reported_and_changes_nothing() {
        let mut running = Running::start(|dir| fs::write(dir.join("lb.yaml"), text(80)).unwrap()).await;
        for (count, bad) in [(3, "services: [{name: finance, port: 70000}]"), (4, ""), (5, "{")] {
            fs::write(running.path("lb.yaml"), bad).unwrap();
            assert_eq!(running.read(count).await, 80, "{bad}");
            let status = running.status.borrow().clone();
            assert!(!status.synced && status.error.is_some(), "{bad}");
        }
        fs::remove_file(running.path("lb.yaml")).unwrap();
        assert_eq!(running.read(6).await, 80);
        let errors = running.status.borrow().errors;
        let counted: Vec<_> = errors.by_reason().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(ErrorReason::Invalid, 3), (ErrorReason::Io, 1)]);
        fs::write(running.path("lb.yaml"), text(81)).unwrap();
        assert_eq!(running.read(7).await, 81);
        let status = running.status.borrow().clone();
        assert!(status.synced && status.error.is_none());
    }

    #[tokio::test]
    async fn inotify_reports_a_complete_file() {
        let link = std::os::unix::fs::symlink::<&str, PathBuf>;
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        fs::create_dir(dir.join("..1")).unwrap();
        fs::write(dir.join("..1/lb.yaml"), text(80)).unwrap();
        link("..1", dir.join("..data")).unwrap();
        link("..data/lb.yaml", dir.join("lb.yaml")).unwrap();
        let path = dir.join("lb.yaml");

        let mut events = FileEvents::of(&path);
        fs::write(dir.join("other.yaml"), text(81)).unwrap();
        let other = tokio::time::timeout(Duration::from_millis(20), events.next());
        assert!(other.await.is_err(), "events of another file are ignored");

        link("..1", dir.join("..new")).unwrap();
        fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
        events.next().await;

        fs::write(dir.join("new.yaml"), text(82)).unwrap();
        fs::rename(dir.join("new.yaml"), &path).unwrap();
        events.next().await;

        fs::write(&path, text(83)).unwrap();
        events.next().await;
    }

    #[tokio::test]
    async fn an_edit_without_effect_sends_nothing() {
        let mut running = Running::start(|dir| fs::write(dir.join("lb.yaml"), text(80)).unwrap()).await;
        running.desired.mark_unchanged();
        fs::write(running.path("lb.yaml"), format!("{} # a comment", text(80))).unwrap();
        running.read(3).await;
        assert!(!running.desired.has_changed().unwrap());
    }
}
