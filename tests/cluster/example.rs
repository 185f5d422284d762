//! The example of the documentation, with its commands.

use std::process::Command;

use vl3lb_tests::client::text;
use vl3lb_tests::cluster::{Cluster, NAMESPACE, TIMEOUT, example};

#[test]
fn the_example_works_with_its_four_commands() {
    Cluster::shared();
    let run = |line: &str| {
        let line = line.replace("deploy/examples/vl3-lb", example());
        let output = Command::new("sh")
            .args(["-c", &line])
            .env(
                "PATH",
                concat!("/run/vl3-lb-cluster/bin:", "/usr/sbin:/usr/bin:/sbin:/bin"),
            )
            .output()
            .expect("run sh");
        assert!(output.status.success(), "{line}: {}", text(&output));
        String::from_utf8(output.stdout).expect("kubectl prints UTF-8")
    };
    run("kubectl apply -k deploy/examples/vl3-lb");
    run(&format!(
        "kubectl wait --for=condition=ready --timeout={}s pod -l type=vl3-client -n {NAMESPACE}",
        TIMEOUT.as_secs()
    ));
    let answer = run("kubectl exec deployments/finance-client -n ns-vl3-lb -- curl -s finance.vl3-lb:8080");
    assert!(answer.starts_with("Hello! I'm finance-server-"), "{answer}");
    run("kubectl delete ns ns-vl3-lb");
}
