//! How long a pod's change takes from the API server to every worker, at 1,000 backends. It prints figures and
//! judges none: deploy/README.md has some, with what they were measured on.

use std::time::{Duration, Instant};

use kube::Api;
use serde_json::Value;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::wait;

use crate::pods::{NAMESPACE, Pods, set_ready};
use crate::watching::{World, expect_backends};

const BACKENDS: usize = 1000;
const CHANGES: usize = 200;

#[test]
fn a_change_among_a_thousand_pods_reaches_every_worker() {
    let world = World::build_with(&Attachment::VETH_AUTO.two_queues());
    let server = world.server();
    let pods = Pods::new(&server);
    pods.create(0..BACKENDS);
    let balancer = world.balancer(&server);
    expect_backends(&balancer, 1000, 0);

    let status = || -> Value {
        let (_, body) = balancer.http("/api/v1/status").expect("the balancer answers");
        let answer: Value = serde_json::from_str(&body).expect("it answers in JSON");
        answer["items"][0].clone()
    };
    // The generation that all workers use.
    let generation = || {
        let status = status();
        let workers = status["workers"].as_array().expect("a list of workers");
        workers
            .iter()
            .map(|worker| worker["generation"].as_u64())
            .min()
            .flatten()
    };
    // From the request on, and from the server's answer on, which comes with the watch event.
    let mut times: [Vec<Duration>; 2] = server.run(async |client| {
        let pods = Api::namespaced(client, NAMESPACE);
        let mut times = [Vec::new(), Vec::new()];
        for change in 0..CHANGES {
            let before = generation();
            let begin = Instant::now();
            set_ready(&pods, change / 2, change % 2 == 1)
                .await
                .expect("change a pod");
            let answered = Instant::now();
            wait::until("the change to reach the workers", wait::STEP, || {
                (generation() > before)
                    .then_some(())
                    .ok_or_else(|| format!("{before:?}"))
            });
            times[0].push(begin.elapsed());
            times[1].push(answered.elapsed());
        }
        times
    });
    for times in &mut times {
        times.sort_unstable();
    }
    let figures = times.map(|times| {
        let millis = |index: usize| times[index].as_secs_f64() * 1e3;
        format!(
            "median {:.1} ms, p99 {:.1} ms",
            millis(CHANGES / 2),
            millis(CHANGES * 99 / 100)
        )
    });
    let apply = &status()["snapshotApplySeconds"];
    let millis = |quantile: &str| apply[quantile].as_f64().unwrap_or(f64::NAN) * 1e3;
    println!(
        "{BACKENDS} backends, {CHANGES} changes of one pod each, until the last worker uses it:\n\
         from the request to the API server:    {}\n\
         from its answer:                       {}\n\
         from the balancer's set of backends:   median {:.1} ms, p99 {:.1} ms",
        figures[0],
        figures[1],
        millis("p50"),
        millis("p99"),
    );
}
