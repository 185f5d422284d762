//! The faults of the predecessor, and what a control plane does: each has a test, which the tables in
//! tests/nsm/README.md name.

use std::path::{Path, PathBuf};

use serde_json::Value;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = top().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn each_fault_of_the_predecessor_and_each_behaviour_of_the_control_plane_has_a_test() {
    let table = read("tests/nsm/README.md");
    let rows = (1..=24).map(|number| format!("P{number}"));
    for number in rows.chain((1..=22).map(|number| format!("C{number}"))) {
        let begin = format!("| {number} |");
        let row = table.lines().find(|line| line.starts_with(&begin));
        let row = row.unwrap_or_else(|| panic!("there is no row {begin}"));
        let (_, tests) = row
            .trim_end_matches(" |")
            .rsplit_once(" | ")
            .expect("three columns");
        for test in tests.split(", ") {
            let names: Vec<&str> = test.split('`').collect();
            let [_, file, _, name, _] = names[..] else {
                panic!("{number}: {test} is no file and test");
            };
            let text = read(file);
            let definition = format!("fn {name}(");
            let at = text.find(&definition);
            let at = at.unwrap_or_else(|| panic!("{number}: {file} has no test {name}"));
            // The end of its attributes, some lines above.
            let above: Vec<&str> = text[..at].lines().rev().take(4).collect();
            let is_test = above
                .iter()
                .any(|line| line.contains("#[test]") || line.contains("#[tokio::test"));
            let is_property = text.contains("proptest!");
            let takes_attachment = text[at..].starts_with(&format!("{definition}attachment: &Attachment"));
            assert!(
                is_test || is_property || takes_attachment,
                "{number}: {name} in {file} is no test"
            );
        }
    }
}

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
