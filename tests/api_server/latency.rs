//! Time of a pod's change from the API server to every worker, at 1,000 backends. It prints the times without a limit;
//! deploy/README.md has results of a known machine.

use std::time::{Duration, Instant};

use kube::Api;
use serde_json::Value;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::wait;

use crate::pods::{NAMESPACE, Pods, set_ready};
use crate::watch::{Testbed, expect_backends};

const BACKENDS: usize = 1000;
const CHANGES: usize = 200;
/// Time between two changes.
const PAUSE: Duration = Duration::from_millis(20);

#[test]
fn a_change_among_a_thousand_pods_reaches_every_worker() {
    let testbed = Testbed::build_with(&Attachment::VETH_AUTO.two_queues());
    let server = testbed.server();
    let pods = Pods::new(&server);
    pods.create(0..BACKENDS);
    let balancer = testbed.balancer(&server);
    expect_backends(&balancer, 1000, 0);

    let status = || -> Value {
        let (_, body) = balancer.http("/api/v1/status").expect("the balancer answers");
        let answer: Value = serde_json::from_str(&body).expect("it answers in JSON");
        answer["items"][0].clone()
    };
    let mut server_times = Vec::new();
    let mut own_times = Vec::new();
    server.run(async |client| {
        let pods = Api::namespaced(client, NAMESPACE);
        for change in 0..CHANGES {
            // Changes in quick succession are published together, after a pause.
            tokio::time::sleep(PAUSE).await;
            let before = status();
            let begin = Instant::now();
            set_ready(&pods, change / 2, change % 2 == 1)
                .await
                .expect("change a pod");
            server_times.push(begin.elapsed());
            let applied = |status: &Value, field: &str| status["snapshotApplySeconds"][field].as_f64();
            let after = wait::until("the change to reach the workers", wait::STEP, || {
                let after = status();
                let count = applied(&after, "count");
                (count > applied(&before, "count"))
                    .then_some(after)
                    .ok_or_else(|| format!("{count:?} snapshots"))
            });
            let more = |field| Some(applied(&after, field)? - applied(&before, field)?);
            let (count, sum) = more("count").zip(more("sum")).expect("a histogram");
            own_times.push(Duration::from_secs_f64(sum / count));
        }
    });
    println!(
        "{BACKENDS} backends, {CHANGES} changes of one pod each:\n\
         answer of the API server:                           {}\n\
         from its watch event to the last worker that has it: {}",
        summary(server_times),
        summary(own_times),
    );
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let millis = |index: usize| times[index].as_secs_f64() * 1e3;
    let last = times.len() - 1;
    format!(
        "median {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        millis(last / 2),
        millis(last * 99 / 100),
        millis(last)
    )
}
