//! Ten thousand pods in twenty services, and thousands of changes without a pause.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::super::follower::SETTLE;
use super::following::Following;
use super::*;
use crate::discovery::{Desired, Eligibility};
use crate::kubernetes::testing::ApiServer;

const SERVICES: u16 = 20;
const PODS: u16 = 10_000;
const CHANGES: u16 = 5_000;
const LIMIT: Duration = Duration::from_secs(120);

/// Pod `number` of service `app-N`.
fn pod(number: u16) -> Value {
    let pod = ready(
        &format!("pod-{number}"),
        &format!("10.0.{}.{}", number / 250, number % 250 + 1),
    );
    with(
        pod,
        "/metadata/labels/app",
        json!(format!("app-{}", number % SERVICES)),
    )
}

/// How many backends of each service get new flows, by its name.
fn taking(desired: Option<&Desired>) -> BTreeMap<String, usize> {
    let services = desired.into_iter().flat_map(|desired| &desired.services);
    let counted = services.map(|service| {
        let backends = service.backends.iter();
        let taking = backends.filter(|backend| backend.eligibility == Eligibility::NewFlows);
        (service.name.clone(), taking.count())
    });
    counted.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_changes_among_ten_thousand_pods_converges_in_few_sets() {
    let server = ApiServer::start().await;
    (0..PODS).for_each(|number| server.apply(&pod(number)));
    let service = |number: u16| {
        let port = 8000 + number;
        format!("{{name: app-{number}, port: {port}, selector: {{app: app-{number}}}}}")
    };
    let services: Vec<String> = (0..SERVICES).map(service).collect();
    let mut following = Following::start(server, config("{}", &services.join(", ")), None);
    let model = |per_service: &dyn Fn(u16) -> usize| -> BTreeMap<String, usize> {
        (0..SERVICES)
            .map(|service| (format!("app-{service}"), per_service(service)))
            .collect()
    };
    let all = model(&|_| usize::from(PODS / SERVICES));
    let listed = following
        .desired
        .wait_for(|desired| taking(desired.as_deref()) == all);
    timeout(LIMIT, listed)
        .await
        .expect("all pods are listed")
        .unwrap();

    let sets = Arc::new(AtomicU32::new(0));
    let counting = tokio::spawn({
        let (mut desired, sets) = (following.desired.clone(), Arc::clone(&sets));
        async move {
            while desired.changed().await.is_ok() {
                sets.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let begin = Instant::now();
    // Each of a fifth of the pods comes and goes; in the end those of the first half of the services are
    // unready, and those of the last two are gone.
    for change in 0..CHANGES {
        let number = change % (PODS / 5);
        let service = number % SERVICES;
        if service >= SERVICES - 2 {
            if change < PODS / 5 {
                following.server.delete("pods", "web", &format!("pod-{number}"));
            }
            continue;
        }
        let last = change + PODS / 5 >= CHANGES;
        let to_unready = if last {
            service < SERVICES / 2
        } else {
            change % 3 == 0
        };
        let pod = pod(number);
        following
            .server
            .apply(&if to_unready { unready(pod) } else { pod });
        if change % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let per_service = usize::from(PODS / SERVICES);
    let touched = usize::from(PODS / 5 / SERVICES);
    let intact = SERVICES / 2..SERVICES - 2;
    let end = model(&|service| {
        if intact.contains(&service) {
            per_service
        } else {
            per_service - touched
        }
    });
    let ended = following
        .desired
        .wait_for(|desired| taking(desired.as_deref()) == end);
    let ended = timeout(LIMIT, ended).await.map(|ended| ended.is_ok());
    let last = taking(following.desired.borrow().as_deref());
    assert_eq!(ended, Ok(true), "{last:?}");
    let took = begin.elapsed().as_secs_f64();
    println!(
        "{CHANGES} changes are followed in {took:.2} s, {:.0} a second",
        f64::from(CHANGES) / took
    );
    counting.abort();
    let most = begin.elapsed().as_micros() / SETTLE.as_micros() + 2;
    let sets = sets.load(Ordering::Relaxed);
    assert!(
        u128::from(sets) <= most,
        "{sets} sets, and {most} fit into that time"
    );
}
