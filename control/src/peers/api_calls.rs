//! What is written to Kubernetes, and how that goes. Nothing of it is needed to serve: a write that fails
//! is counted, shown and tried again, and logged when its reason changes.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::{Time, WriteCount, WriteTrouble};
use tokio::time::timeout;
use tracing::{info, warn};
use vl3lb_common::Duration;

use crate::kubernetes::error::chain;

/// An API server that says nothing for so long is not waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// What the balancer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    /// Of this balancer, and the leader's.
    Leases,
    /// Of Services with our `loadBalancerClass`.
    ServicesStatus,
    EndpointSlices,
    Events,
}

impl Resource {
    const ALL: [Self; 4] = [
        Self::Leases,
        Self::ServicesStatus,
        Self::EndpointSlices,
        Self::Events,
    ];

    /// The name in RBAC rules, logs and metrics.
    const fn name(self) -> &'static str {
        match self {
            Self::Leases => "leases",
            Self::ServicesStatus => "services/status",
            Self::EndpointSlices => "endpointslices",
            Self::Events => "events",
        }
    }
}

/// Why a write was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WriteError {
    /// Somebody else wrote first. No fault.
    Conflict,
    /// There is nothing of that name. No fault where something is deleted.
    Absent,
    /// RBAC does not allow it.
    Forbidden(String),
    Failed(String),
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) => match status.code {
                409 => Self::Conflict,
                404 => Self::Absent,
                403 => Self::Forbidden(status.message.clone()),
                code => Self::Failed(format!("{code} {}", status.message)),
            },
            _ => Self::Failed(chain(&error)),
        }
    }
}

/// How many writes of one resource went which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    /// Accepted.
    done: u64,
    /// Not allowed by the balancer's Role.
    forbidden: u64,
    /// Not accepted for another reason.
    failed: u64,
}

/// How all writes went, and what does not work now.
#[derive(Debug, Default)]
pub(super) struct ApiCalls(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    tallies: BTreeMap<Resource, Tally>,
    /// By what was attempted.
    troubles: BTreeMap<String, WriteTrouble>,
}

impl ApiCalls {
    /// ApiCalls so far, of every resource.
    pub(super) fn counts(&self) -> Vec<WriteCount> {
        let books = self.lock();
        let mut counts = Vec::new();
        for resource in Resource::ALL {
            let tally = books.tallies.get(&resource).copied().unwrap_or_default();
            for (result, writes_total) in [
                ("ok", tally.done),
                ("forbidden", tally.forbidden),
                ("error", tally.failed),
            ] {
                counts.push(WriteCount {
                    resource: resource.name().to_owned(),
                    result: result.to_owned(),
                    writes_total,
                });
            }
        }
        counts
    }

    /// What does not work now, by what was attempted.
    pub(super) fn troubles(&self) -> Vec<WriteTrouble> {
        self.lock().troubles.values().cloned().collect()
    }

    /// Does one write of `resource` within a limit of time, and takes note of how it went. `attempt` says
    /// what is done on what, such as `apply lease lb-1 in namespace web`.
    ///
    /// Errors: why it was not done; told already.
    pub(super) async fn attempt<T>(
        &self,
        resource: Resource,
        attempt: &str,
        write: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        let done = match timeout(LIMIT, write).await {
            Ok(done) => done.map_err(WriteError::from),
            Err(_) => Err(WriteError::Failed(format!("no answer within {LIMIT:?}"))),
        };
        let mut books = self.lock();
        let tally = books.tallies.entry(resource).or_default();
        let reason = match &done {
            Ok(_) => {
                tally.done += 1;
                None
            }
            // Whoever attempted it knows whether that is a fault.
            Err(WriteError::Conflict | WriteError::Absent) => None,
            Err(WriteError::Forbidden(message)) => {
                tally.forbidden += 1;
                Some(forbidden(message))
            }
            Err(WriteError::Failed(message)) => {
                tally.failed += 1;
                Some(message.clone())
            }
        };
        books.note(attempt, reason);
        drop(books);
        done
    }

    /// Takes note of whether `attempt`, which is not a write, works now; `reason` says why not.
    pub(super) fn note(&self, attempt: &str, reason: Option<String>) {
        self.lock().note(attempt, reason);
    }

    /// Consistent after every step, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// Keeps why `attempt` does not work, and logs that when it changes.
    fn note(&mut self, attempt: &str, reason: Option<String>) {
        let Some(reason) = reason else {
            if self.troubles.remove(attempt).is_some() {
                info!("{attempt}: works again");
            }
            return;
        };
        let before = self.troubles.get(attempt);
        if before.is_some_and(|before| before.reason == reason) {
            return;
        }
        warn!("{attempt}: {reason}; balancing is not affected, trying again");
        let trouble = WriteTrouble {
            attempt: attempt.to_owned(),
            reason,
            since: before.map_or_else(Time::now, |before| before.since),
        };
        self.troubles.insert(attempt.to_owned(), trouble);
    }
}

/// What to do where RBAC says no.
pub(super) fn forbidden(message: &str) -> String {
    format!("forbidden ({message}); allow it in the Role of the balancer's service account")
}

/// Growing backoff between attempts.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);

    /// How long to wait after an attempt that failed, `longest` at most.
    pub(super) fn failed(&mut self, longest: Duration) -> Duration {
        let pause = Self::FIRST * 2_u32.saturating_pow(self.failures.min(8));
        self.failures += 1;
        pause.min(Self::LONGEST).min(longest)
    }

    /// The next failure is the first one again.
    pub(super) const fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use kube::core::Status;

    use super::*;

    fn refusal(code: u16) -> kube::Error {
        kube::Error::Api(
            Status::failure("it is not to be", "Because")
                .with_code(code)
                .boxed(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_failure_is_counted_and_kept_until_it_works() {
        let writes = ApiCalls::default();
        let leases = Resource::Leases;
        let attempt =
            |result: kube::Result<()>| writes.attempt(leases, "apply lease a", future::ready(result));
        attempt(Ok(())).await.unwrap();
        assert_eq!(attempt(Err(refusal(409))).await, Err(WriteError::Conflict));
        assert_eq!(attempt(Err(refusal(404))).await, Err(WriteError::Absent));
        assert!(writes.troubles().is_empty(), "these are no faults");
        attempt(Err(refusal(403))).await.unwrap_err();
        let reason = &writes.troubles()[0].reason;
        assert!(
            reason.contains("it is not to be") && reason.contains("Role"),
            "{reason}"
        );
        attempt(Err(refusal(500))).await.unwrap_err();
        let silent = future::pending::<kube::Result<()>>();
        let silent = writes.attempt(leases, "apply lease a", silent).await;
        assert_eq!(silent, Err(WriteError::Failed("no answer within 5s".to_owned())));
        let counts = writes.counts();
        let leases: Vec<_> = counts
            .iter()
            .filter(|count| count.resource == "leases")
            .map(|count| (count.result.as_str(), count.writes_total))
            .collect();
        assert_eq!(leases, [("ok", 1), ("forbidden", 1), ("error", 2)]);
        let [trouble] = &writes.troubles()[..] else {
            panic!("one attempt fails")
        };
        assert_eq!(trouble.attempt, "apply lease a");
        assert_eq!(trouble.reason, "no answer within 5s");
        attempt(Ok(())).await.unwrap();
        assert!(writes.troubles().is_empty());
    }

    #[test]
    fn pauses_grow_and_begin_again() {
        let mut backoff = Backoff::default();
        let mut seconds = |longest| backoff.failed(Duration::from_secs(longest)).as_secs();
        let grown: Vec<_> = (0..7).map(|_| seconds(60)).collect();
        assert_eq!(grown, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(seconds(5), 5);
        backoff.succeeded();
        assert_eq!(backoff.failed(Duration::from_secs(60)).as_secs(), 1);
    }
}
