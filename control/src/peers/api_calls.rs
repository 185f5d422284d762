//! Calls to the Kubernetes API: each has a time limit, and its failure is counted, shown in `vl3-lb status` and
//! logged when the reason changes. Balancing needs none of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::core::Status;
use tokio::time::timeout;
use tracing::{info, warn};
use vl3lb_common::Duration;

use crate::api::{Time, WriteCount, WriteTrouble};
use crate::error_chain::chain;

/// The time limit of a call.
const LIMIT: Duration = Duration::from_secs(5);

/// A kind of object that the balancer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    /// This balancer's, and the leader's.
    Leases,
    /// Of Services with the balancer's `loadBalancerClass`.
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

/// The role in which a call is made. Its failure is forgotten when the role ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Of this balancer for itself: its Lease, its Events, its watches. Never ends.
    Member,
    /// Writing the leader's Lease. Ends when another balancer holds it.
    Candidate,
    /// Writing for the group. Ends with leadership.
    Leader,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    role: Role,
    /// The resource whose writes it counts among; `None` for a list.
    resource: Option<Resource>,
    /// Verb and object, such as `apply lease lb-1 in namespace web`.
    attempt: &'a str,
    limit: Duration,
}

impl<'a> Call<'a> {
    pub(super) const fn write(role: Role, resource: Resource, attempt: &'a str) -> Self {
        Self {
            role,
            resource: Some(resource),
            attempt,
            limit: LIMIT,
        }
    }

    pub(super) const fn list(role: Role, attempt: &'a str) -> Self {
        Self {
            role,
            resource: None,
            attempt,
            limit: LIMIT,
        }
    }

    /// The same call with another time limit.
    pub(super) const fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Another writer was first. No fault.
    #[error("changed by another writer")]
    Conflict(#[source] Box<Status>),
    /// Not an error of a delete.
    #[error("not found ({})", .0.message)]
    NotFound(#[source] Box<Status>),
    #[error("forbidden ({}); allow it in the Role of the balancer's service account", .0.message)]
    Forbidden(#[source] Box<Status>),
    #[error("{} {}", .0.code, .0.message)]
    Rejected(#[source] Box<Status>),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{}", chain(.0))]
    Failed(#[source] kube::Error),
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(status),
            error => Self::Failed(error),
        }
    }
}

impl From<Box<Status>> for CallError {
    fn from(status: Box<Status>) -> Self {
        match status.code {
            403 => Self::Forbidden(status),
            404 => Self::NotFound(status),
            409 => Self::Conflict(status),
            _ => Self::Rejected(status),
        }
    }
}

/// Writes of one resource, by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    accepted: u64,
    /// Denied by RBAC.
    forbidden: u64,
    /// Failed for another reason.
    failed: u64,
    /// Given up without an attempt that succeeded.
    dropped: u64,
}

/// Counts of all writes, and the failures that persist.
#[derive(Debug, Default)]
pub(super) struct ApiCalls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tallies: BTreeMap<Resource, Tally>,
    /// By attempt.
    failures: BTreeMap<String, (Role, WriteTrouble)>,
}

impl ApiCalls {
    /// Writes so far, of every resource.
    pub(super) fn counts(&self) -> Vec<WriteCount> {
        let state = self.lock();
        let mut counts = Vec::new();
        for resource in Resource::ALL {
            let tally = state.tallies.get(&resource).copied().unwrap_or_default();
            let mut results = vec![
                ("ok", tally.accepted),
                ("forbidden", tally.forbidden),
                ("error", tally.failed),
            ];
            if resource == Resource::Events {
                results.push(("dropped", tally.dropped));
            }
            counts.extend(results.into_iter().map(|(result, writes_total)| WriteCount {
                resource: resource.name().to_owned(),
                result: result.to_owned(),
                writes_total,
            }));
        }
        counts
    }

    /// The failures that persist, by attempt.
    pub(super) fn troubles(&self) -> Vec<WriteTrouble> {
        let state = self.lock();
        state
            .failures
            .values()
            .map(|(_, trouble)| trouble.clone())
            .collect()
    }

    /// Makes one call, and records how it went.
    ///
    /// Errors: the call failed or exceeded its limit; recorded already.
    pub(super) async fn run<T>(
        &self,
        call: Call<'_>,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        let result = match timeout(call.limit, request).await {
            Ok(result) => result.map_err(CallError::from),
            Err(_) => Err(CallError::Timeout(call.limit)),
        };
        let mut state = self.lock();
        let mut unread = Tally::default();
        let tally = match call.resource {
            Some(resource) => state.tallies.entry(resource).or_default(),
            None => &mut unread,
        };
        let failure = match &result {
            Ok(_) => {
                tally.accepted += 1;
                None
            }
            // No fault of a write; the caller decides.
            Err(CallError::Conflict(_) | CallError::NotFound(_)) if call.resource.is_some() => None,
            Err(error @ CallError::Forbidden(_)) => {
                tally.forbidden += 1;
                Some(error)
            }
            Err(error) => {
                tally.failed += 1;
                Some(error)
            }
        };
        state.record(call.role, call.attempt, failure.map(ToString::to_string));
        drop(state);
        result
    }

    /// Records the result of something other than a single call, such as a watch; `failure` is the reason why it
    /// does not work, `None` if it does.
    pub(super) fn record(&self, role: Role, attempt: &str, failure: Option<String>) {
        self.lock().record(role, attempt, failure);
    }

    /// Counts objects of `resource` that will not be written.
    pub(super) fn count_dropped(&self, resource: Resource, objects: u64) {
        self.lock().tallies.entry(resource).or_default().dropped += objects;
    }

    /// Forgets the failures of a role that has ended. They would persist, because its calls are not repeated.
    pub(super) fn end_role(&self, ended: Role) {
        self.lock().failures.retain(|_, (role, _)| *role != ended);
    }

    /// Consistent after every step, so a panic elsewhere leaves it intact.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn record(&mut self, role: Role, attempt: &str, failure: Option<String>) {
        let Some(reason) = failure else {
            if self.failures.remove(attempt).is_some() {
                info!("{attempt}: works again");
            }
            return;
        };
        let before = self.failures.get(attempt).map(|(_, trouble)| trouble);
        if before.is_some_and(|before| before.reason == reason) {
            return;
        }
        warn!("{attempt}: {reason}; balancing is not affected, trying again");
        let trouble = WriteTrouble {
            attempt: attempt.to_owned(),
            reason,
            since: before.map_or_else(Time::now, |before| before.since),
        };
        self.failures.insert(attempt.to_owned(), (role, trouble));
    }
}

/// Growing pauses between attempts.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);

    /// The pause after one more failure, `longest` at most.
    pub(super) fn failed(&mut self, longest: Duration) -> Duration {
        let pause = Self::FIRST * 2_u32.saturating_pow(self.failures.min(8));
        self.failures += 1;
        pause.min(Self::LONGEST).min(longest)
    }

    /// Pauses start from the shortest again.
    pub(super) const fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use super::*;

    fn rejection(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("not allowed", "Because").with_code(code).boxed())
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_and_kept_until_the_call_succeeds() {
        let calls = ApiCalls::default();
        let call = Call::write(Role::Member, Resource::Leases, "apply lease a");
        let run = |result: kube::Result<()>| calls.run(call, future::ready(result));
        run(Ok(())).await.unwrap();
        assert!(matches!(
            run(Err(rejection(409))).await,
            Err(CallError::Conflict(_))
        ));
        assert!(matches!(
            run(Err(rejection(404))).await,
            Err(CallError::NotFound(_))
        ));
        assert!(calls.troubles().is_empty(), "these are no faults");
        run(Err(rejection(403))).await.unwrap_err();
        let reason = &calls.troubles()[0].reason;
        assert!(
            reason.contains("not allowed") && reason.contains("Role"),
            "{reason}"
        );
        run(Err(rejection(500))).await.unwrap_err();
        let silent = calls.run(call, future::pending::<kube::Result<()>>()).await;
        assert!(matches!(silent, Err(CallError::Timeout(LIMIT))));
        let counts = calls.counts();
        let leases: Vec<_> = counts
            .iter()
            .filter(|count| count.resource == "leases")
            .map(|count| (count.result.as_str(), count.writes_total))
            .collect();
        assert_eq!(leases, [("ok", 1), ("forbidden", 1), ("error", 2)]);
        let [trouble] = &calls.troubles()[..] else {
            panic!("one attempt fails")
        };
        assert_eq!(trouble.attempt, "apply lease a");
        assert_eq!(trouble.reason, "no answer within 5s");
        run(Ok(())).await.unwrap();
        assert!(calls.troubles().is_empty());
    }

    #[tokio::test]
    async fn a_list_counts_as_no_write_and_its_failure_is_kept() {
        let calls = ApiCalls::default();
        let call = Call::list(Role::Leader, "list endpointslices");
        for code in [403, 404, 500] {
            let failed = future::ready(kube::Result::<()>::Err(rejection(code)));
            calls.run(call, failed).await.unwrap_err();
            assert_eq!(calls.troubles().len(), 1, "{code}");
        }
        assert!(calls.counts().iter().all(|count| count.writes_total == 0));
    }

    #[test]
    fn the_failures_of_a_role_end_with_it() {
        let calls = ApiCalls::default();
        for (role, attempt) in [
            (Role::Member, "apply lease lb-a"),
            (Role::Candidate, "write lease finance-leader"),
            (Role::Leader, "apply status"),
        ] {
            calls.record(role, attempt, Some("no".to_owned()));
        }
        let attempts = || {
            let troubles = calls.troubles().into_iter();
            troubles.map(|trouble| trouble.attempt).collect::<Vec<_>>()
        };
        calls.end_role(Role::Leader);
        assert_eq!(attempts(), ["apply lease lb-a", "write lease finance-leader"]);
        calls.end_role(Role::Candidate);
        assert_eq!(attempts(), ["apply lease lb-a"]);
    }

    #[test]
    fn pauses_grow_and_start_again() {
        let mut backoff = Backoff::default();
        let mut seconds = |longest| backoff.failed(Duration::from_secs(longest)).as_secs();
        let grown: Vec<_> = (0..7).map(|_| seconds(60)).collect();
        assert_eq!(grown, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(seconds(5), 5);
        backoff.succeeded();
        assert_eq!(backoff.failed(Duration::from_secs(60)).as_secs(), 1);
    }
}
