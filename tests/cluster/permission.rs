//! What the role that we ship allows of pods can not be left out: the balancer says what is denied.

use serde_json::Value;
use vl3lb_tests::wait;

use crate::pods::{NAMESPACE, Pods};
use crate::watching::{CONVERGENCE, ROLE, World, expect_backends};

#[test]
fn each_permission_for_pods_is_needed_and_named_when_it_is_missing() {
    let world = World::build();
    let server = world.server();
    Pods::new(&server).create(0..2);
    let balancer = world.balancer(&server);
    expect_backends(&balancer, 2, 0);
    let forbidden = |log: &str| log.contains("forbidden");
    assert!(!forbidden(&balancer.log()), "the role does not suffice");
    drop(balancer);

    let get = ["get", "role", "vl3-lb", "--namespace", NAMESPACE, "--output=json"];
    let mut role: Value = serde_json::from_str(&server.must_kubectl(&get, "")).expect("kubectl prints JSON");
    // Else the server takes one change of it only.
    role["metadata"]["resourceVersion"].take();
    let lesser = without_each_verb(&role);
    assert!(!lesser.is_empty());
    for (verb, resource, role) in lesser {
        // The others are for what this balancer, which is in no pod, does not do.
        if resource != "pods" {
            continue;
        }
        server.must_kubectl(&["replace", "--filename=-"], &role.to_string());
        let balancer = world.launch(&server);
        let denied = format!("cannot {verb} resource \\\"{resource}\\\"");
        wait::until(&format!("the log to have: {denied}"), CONVERGENCE, || {
            let log = balancer.log();
            (log.contains(&denied)).then_some(()).ok_or(log)
        });
    }
    server.must_kubectl(&["apply", "--namespace", NAMESPACE, "--filename", ROLE], "");
}

/// The role without one verb of one resource, for each: verb, resource, role.
fn without_each_verb(role: &Value) -> Vec<(String, String, Value)> {
    let strings =
        |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).expect("a list of strings") };
    let mut lesser = Vec::new();
    for (index, rule) in role["rules"]
        .as_array()
        .expect("a role has rules")
        .iter()
        .enumerate()
    {
        for resource in strings(&rule["resources"]) {
            for verb in strings(&rule["verbs"]) {
                let mut without = role.clone();
                let rules = without["rules"].as_array_mut().expect("it is a copy");
                // The resource on its own, so that only it loses the verb.
                let mut narrowed = rule.clone();
                narrowed["resources"] = [resource.as_str()].into();
                let verbs: Vec<Value> = strings(&rule["verbs"])
                    .into_iter()
                    .filter(|other| *other != verb)
                    .map(Value::from)
                    .collect();
                if verbs.is_empty() {
                    rules.remove(index);
                } else {
                    narrowed["verbs"] = verbs.into();
                    rules[index] = narrowed;
                }
                let mut others = rule.clone();
                let rest: Vec<Value> = strings(&rule["resources"])
                    .into_iter()
                    .filter(|other| *other != resource)
                    .map(Value::from)
                    .collect();
                if !rest.is_empty() {
                    others["resources"] = rest.into();
                    rules.push(others);
                }
                lesser.push((verb, resource.clone(), without));
            }
        }
    }
    lesser
}
