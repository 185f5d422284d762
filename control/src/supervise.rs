//! Supervision of long-running tasks: the end or panic of any of them is reported by name.
//!
//! A task that dies unseen leaves a balancer that looks healthy and lacks a part. So every long-running task is
//! spawned through [`Tasks`], and the process stops when one of them ends.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Why a supervised task is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    #[error("{name} exited unexpectedly; please report this bug")]
    Exited { name: &'static str },
    #[error("{name} panicked: {message}; please report this bug")]
    Panicked { name: &'static str, message: String },
}

/// Spawns supervised tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    failures: mpsc::UnboundedSender<TaskError>,
}

/// Receives the failures of all tasks that its [`Tasks`] spawned.
#[derive(Debug)]
pub struct Supervisor {
    failures: mpsc::UnboundedReceiver<TaskError>,
    /// Keeps the channel open.
    tasks: Tasks,
}

impl Supervisor {
    /// A supervisor without tasks.
    pub fn new() -> Self {
        let (sender, failures) = mpsc::unbounded_channel();
        let tasks = Tasks { failures: sender };
        Self { failures, tasks }
    }

    /// The spawner of this supervisor's tasks.
    pub fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    /// Waits for the next failure of a task. Cancel-safe.
    pub async fn failure(&mut self) -> TaskError {
        match self.failures.recv().await {
            Some(failure) => failure,
            // `tasks` holds a sender.
            None => std::future::pending().await,
        }
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// Spawns a task that runs as long as the process. `name` is a noun phrase: `the publisher`. Both its end and
    /// its panic are failures; being aborted is none.
    ///
    /// Call it in a tokio runtime.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let failed = self.failures.clone();
        spawn(async move {
            let failure = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) => TaskError::Exited { name },
                Err(panic) => panicked(name, &*panic),
            };
            failed.send(failure).ok();
        })
    }

    /// Spawns a task that may end on its own. Only its panic is a failure.
    ///
    /// Call it in a tokio runtime.
    pub fn spawn_finite(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let failed = self.failures.clone();
        spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                failed.send(panicked(name, &*panic)).ok();
            }
        })
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(task).abort_handle()
}

fn panicked(name: &'static str, panic: &(dyn Any + Send)) -> TaskError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    TaskError::Panicked { name, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_task_is_reported_by_name() {
        let mut supervisor = Supervisor::new();
        supervisor.tasks().spawn("the listener", async {});
        let failure = supervisor.failure().await;
        assert_eq!(failure, TaskError::Exited { name: "the listener" });
        assert_eq!(
            failure.to_string(),
            "the listener exited unexpectedly; please report this bug"
        );
    }

    #[tokio::test]
    async fn a_panic_is_reported_with_its_message() {
        let mut supervisor = Supervisor::new();
        let number = 7;
        supervisor
            .tasks()
            .spawn("the feed", async move { panic!("index {number}") });
        let failure = supervisor.failure().await;
        assert_eq!(
            failure.to_string(),
            "the feed panicked: index 7; please report this bug"
        );
        supervisor
            .tasks()
            .spawn_finite("the feed", async { panic!("again") });
        let failure = supervisor.failure().await;
        assert!(matches!(failure, TaskError::Panicked { name: "the feed", .. }));
    }

    #[tokio::test]
    async fn aborted_and_finite_tasks_are_no_failures() {
        let mut supervisor = Supervisor::new();
        let tasks = supervisor.tasks();
        tasks.spawn("aborted", std::future::pending()).abort();
        tasks.spawn_finite("finite", async {});
        tokio::task::yield_now().await;
        tasks.spawn("last", async {});
        assert_eq!(supervisor.failure().await, TaskError::Exited { name: "last" });
    }
}
