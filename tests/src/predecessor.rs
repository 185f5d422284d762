//! What the deployment for Network Service Mesh has, and that of the predecessor had not.

use serde_json::Value;

use crate::named_tests::read;

/// P24: the predecessor had no probes, 300m of CPU around a polling program, and traced all.
#[test]
fn the_deployment_has_probes_and_no_limit_of_cpu() {
    let text = read("deploy/nsm/balancer/deployment.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("a manifest is YAML");
    let deployment = documents.iter().find(|document| document["kind"] == "Deployment");
    let spec = &deployment.expect("a Deployment")["spec"];
    // Two pods would claim one DNS name.
    assert_eq!(
        (&spec["replicas"], &spec["strategy"]["type"]),
        (&1.into(), &"Recreate".into())
    );
    let container = &spec["template"]["spec"]["containers"][0];
    for (probe, path) in [
        ("startupProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/healthz"),
    ] {
        assert_eq!(container[probe]["httpGet"]["path"], path, "{probe}");
    }
    let limits = &container["resources"]["limits"];
    assert!(
        limits["cpu"].is_null() && limits["memory"].is_string(),
        "{limits}"
    );
    let environment = container["env"].as_array().expect("variables");
    assert!(
        environment
            .iter()
            .all(|variable| variable["name"] != "NSM_LOG_LEVEL")
    );
    // Longer than the drain of 20 s and the Close of the connection.
    let grace = spec["template"]["spec"]["terminationGracePeriodSeconds"].as_u64();
    assert!(grace >= Some(35), "{grace:?}");
}
