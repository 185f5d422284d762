//! Each capability in the manifests is needed, and the balancer names it if it is missing.

use serde_json::json;
use vl3lb_tests::cluster::{Cluster, NAMESPACE, TIMEOUT};
use vl3lb_tests::wait;

#[test]
fn a_pod_without_a_documented_capability_names_it() {
    let cluster = Cluster::with_example();
    let daemonset = cluster.get(&["daemonset", "vl3-lb"]);
    let template = &daemonset["spec"]["template"];
    let add = &template["spec"]["containers"][0]["securityContext"]["capabilities"]["add"];
    let capabilities: Vec<String> = serde_json::from_value(add.clone()).expect("a list of names");
    assert!(!capabilities.is_empty());
    for missing in &capabilities {
        let name = format!("without-{}", missing.to_lowercase().replace('_', "-"));
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": template["spec"],
        });
        pod["spec"]["restartPolicy"] = "Never".into();
        pod["spec"]["terminationGracePeriodSeconds"] = 0.into();
        let rest: Vec<&String> = capabilities.iter().filter(|&name| name != missing).collect();
        pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] = json!(rest);
        cluster.apply(&pod.to_string());
        let log = wait::until(&format!("{name} to give up"), TIMEOUT, || {
            let pod = cluster.get(&["pod", &name]);
            let state = &pod["status"]["containerStatuses"][0]["state"];
            match state["terminated"]["exitCode"].as_i64() {
                Some(2) => Ok(cluster.must_kubectl(&["logs", &name, "-n", NAMESPACE])),
                _ => Err(state.to_string()),
            }
        });
        assert!(
            log.contains(&format!("CAP_{missing}")),
            "{missing} is not named: {log}"
        );
        cluster.must_kubectl(&["delete", "pod", &name, "-n", NAMESPACE, "--wait=false"]);
    }
}
