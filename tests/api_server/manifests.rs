//! An API server accepts all manifests below deploy/, and the Helm chart matches the kustomize base.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use vl3lb_testbed::{Netns, OrPanic, process};
use vl3lb_tests::api_server::{ApiServer, program};
use vl3lb_tests::client::text;

use crate::permission::single_rules;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

#[test]
fn the_api_server_accepts_everything_below_deploy() {
    let netns = Netns::new("api-server").or_panic();
    let server = ApiServer::start(&netns, Ipv4Addr::LOCALHOST.into());
    server.must_kubectl(
        &["apply", "--filename=-"],
        include_str!("prometheus_operator.yaml"),
    );
    for kind in ["podmonitors", "prometheusrules"] {
        let definition = format!("crd/{kind}.monitoring.coreos.com");
        server.must_kubectl(&["wait", "--for=condition=established", &definition], "");
    }
    for namespace in ["balancers", "one", "two"] {
        server.must_kubectl(&["create", "namespace", namespace], "");
    }

    let folders = kustomizations();
    assert!(!folders.is_empty(), "no kustomization below deploy/");
    for folder in folders {
        accept(&server, &folder.display().to_string(), &kustomize(&folder));
    }
    accept(&server, "the base with all components", &with_components());
    for values in [
        "",
        "kind=Deployment",
        "podMonitor.enabled=true,podMonitor.labels.release=prometheus,podMonitor.interval=30s",
        "prometheusRule.enabled=true,prometheusRule.labels.release=prometheus,board.enabled=true",
        "config.kubernetes.namespaces=all",
        "config.kubernetes.namespaces={one,two},config.kubernetes.services=true",
        "config.kubernetes.topology.prefer=zone",
        "networkPolicy.enabled=true,networkPolicy.monitoringNamespace=metrics,podDisruptionBudget.enabled=true",
        "image.pullSecrets[0].name=registry,priorityClassName=system-node-critical,nodeSelector.zone=a",
    ] {
        accept(&server, &format!("helm --set {values}"), &chart(values));
    }
}

#[test]
fn the_chart_rejects_unknown_values() {
    for (values, named) in [
        ("kind=StatefulSet", "kind"),
        ("replica=3", "replica"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("config.kubernetes.namespaces=some", "namespaces"),
        ("podMonitor.interval=often", "interval"),
        ("networkPolicy.monitoringNamespace=", "monitoringNamespace"),
        ("sysctls[0].name=net.core.somaxconn", "value"),
    ] {
        let output = helm(values);
        let errors = text(&output);
        assert!(!output.status.success(), "--set {values} is accepted");
        assert!(
            errors.contains(named),
            "--set {values}: {named} is not named: {errors}"
        );
    }
}

#[test]
fn the_chart_and_the_base_configure_the_balancer_alike() {
    let base = objects(&kustomize(&Path::new(DEPLOY).join("kubernetes/base")));
    let deployment = objects(&kustomize(&Path::new(DEPLOY).join("kubernetes/deployment")));
    let chart_daemonset = objects(&chart(""));
    let chart_deployment = objects(&chart("kind=Deployment"));
    let find = |objects: &[Value], kind: &str, part: &str| -> Value {
        let object = objects.iter().find(|object| object["kind"] == kind);
        let object = object.unwrap_or_else(|| panic!("no {kind}"));
        object.pointer(part).cloned().unwrap_or_default()
    };
    assert_eq!(
        find(&chart_daemonset, "Role", "/rules"),
        find(&base, "Role", "/rules")
    );
    for (kind, chart, kustomize) in [
        ("DaemonSet", &chart_daemonset, &base),
        ("Deployment", &chart_deployment, &deployment),
    ] {
        for part in ["/spec/replicas", "/spec/updateStrategy", "/spec/strategy"] {
            assert_eq!(
                find(chart, kind, part),
                find(kustomize, kind, part),
                "{kind} {part}"
            );
        }
        let mut pod = find(chart, kind, "/spec/template/spec");
        // The base leaves it to Kubernetes, whose default is the same.
        let container = pod["containers"][0].as_object_mut().expect("a container");
        assert_eq!(container.remove("imagePullPolicy"), Some("IfNotPresent".into()));
        assert_eq!(
            pod,
            find(kustomize, kind, "/spec/template/spec"),
            "pods of the {kind}"
        );
    }
}

#[test]
fn the_chart_has_what_the_components_have() {
    let chart = objects(&chart(
        "prometheusRule.enabled=true,board.enabled=true,networkPolicy.enabled=true,podDisruptionBudget.enabled=true",
    ));
    let components = objects(&with_components());
    for (kind, name, part) in [
        ("PrometheusRule", "", "/spec"),
        ("ConfigMap", "-board", "/data"),
        ("NetworkPolicy", "", "/spec"),
        ("PodDisruptionBudget", "", "/spec"),
    ] {
        let find = |objects: &[Value]| -> Value {
            let object = objects.iter().find(|object| {
                let is_named = object["metadata"]["name"]
                    .as_str()
                    .is_some_and(|it| it.ends_with(name));
                object["kind"] == kind && is_named
            });
            let object = object.unwrap_or_else(|| panic!("no {kind}"));
            object.pointer(part).cloned().expect(part)
        };
        assert_eq!(find(&chart), find(&components), "{kind}");
    }
}

#[test]
fn the_chart_grants_no_permission_beyond_those_of_the_base_and_its_components() {
    let rules = |objects: &[Value]| -> Vec<(String, Vec<Value>)> {
        let roles = objects
            .iter()
            .filter(|object| object["kind"] == "Role" || object["kind"] == "ClusterRole");
        roles
            .map(|role| (role["metadata"]["name"].to_string(), single_rules(role)))
            .collect()
    };
    let base = rules(&objects(&with_components()));
    let [(_, base)] = &base[..] else {
        panic!("the base has one Role: {base:?}")
    };
    for (values, roles) in [
        (
            "config.kubernetes.namespaces=all,config.kubernetes.services=true",
            2,
        ),
        (
            "config.kubernetes.namespaces={one,two},config.kubernetes.services=true",
            3,
        ),
        ("config.kubernetes.namespaces={balancers,one}", 2),
    ] {
        let found = rules(&objects(&chart(values)));
        assert_eq!(found.len(), roles, "--set {values}");
        for (name, rules) in &found {
            for rule in rules {
                assert!(base.contains(rule), "--set {values}: {name}: {rule}");
            }
        }
    }
}

#[test]
fn the_status_of_services_may_be_written_only_where_they_are_served() {
    let writes_status = |manifests: &str| {
        let objects = objects(manifests);
        let roles = objects
            .iter()
            .filter(|object| object["kind"] == "Role" || object["kind"] == "ClusterRole");
        let mut rules = roles.flat_map(single_rules);
        rules.any(|rule| rule["resources"][0] == "services/status")
    };
    let base = kustomize(&Path::new(DEPLOY).join("kubernetes/base"));
    assert!(!writes_status(&base), "the base serves no Services");
    assert!(writes_status(&with_components()));
    for (values, expected) in [
        ("", false),
        ("config.kubernetes.namespaces=all", false),
        ("config.kubernetes.services=false", false),
        ("config.kubernetes.services=true", true),
    ] {
        assert_eq!(writes_status(&chart(values)), expected, "--set {values}");
    }
}

/// Lets the server validate `manifests` against its schemas (dry run).
fn accept(server: &ApiServer, name: &str, manifests: &str) {
    // A dry run creates no namespace, and objects in a missing one are refused.
    for object in objects(manifests) {
        if object["kind"] == "Namespace" {
            server.must_kubectl(&["apply", "--filename=-"], &object.to_string());
        }
        let containers = object
            .pointer("/spec/template/spec/containers")
            .and_then(Value::as_array);
        for container in containers.into_iter().flatten() {
            let is_balancer = container["name"] == "vl3-lb";
            let privileged = container["securityContext"]["privileged"] == true;
            assert!(!(is_balancer && privileged), "{name}: the balancer is privileged");
        }
    }
    let arguments = ["apply", "--dry-run=server", "--validate=strict", "--filename=-"];
    let output = server.kubectl(&arguments, manifests);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    assert!(errors.is_empty(), "{name}: warnings: {errors}");
}

/// The folders below deploy/ with a kustomization of their own.
fn kustomizations() -> Vec<PathBuf> {
    kustomization_files()
        .filter(|(_, text)| !text.contains("kind: Component"))
        .map(|(folder, _)| folder)
        .collect()
}

/// The base with all components.
fn with_components() -> String {
    let folder = TempDir::new().expect("make a temporary directory");
    // kustomize takes relative paths only.
    let relative = |path: &Path| {
        let up = "../".repeat(folder.path().components().count() - 1);
        let path = path.canonicalize().expect("it is there");
        format!(
            "{up}{}",
            path.strip_prefix("/").expect("it is absolute").display()
        )
    };
    let components: Vec<String> = kustomization_files()
        .filter(|(_, text)| text.contains("kind: Component"))
        .map(|(folder, _)| relative(&folder))
        .collect();
    assert!(!components.is_empty(), "no component below deploy/");
    let kustomization = serde_json::json!({
        "resources": [relative(&Path::new(DEPLOY).join("kubernetes/base"))],
        "components": components,
    });
    let file = folder.path().join("kustomization.yaml");
    std::fs::write(file, kustomization.to_string()).expect("write a kustomization");
    kustomize(folder.path())
}

fn kustomization_files() -> impl Iterator<Item = (PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(DEPLOY)];
    while let Some(folder) = folders.pop() {
        if let Ok(text) = std::fs::read_to_string(folder.join("kustomization.yaml")) {
            found.push((folder.clone(), text));
        }
        let entries = std::fs::read_dir(&folder);
        let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        folders.extend(
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.is_dir()),
        );
    }
    found.into_iter()
}

fn kustomize(folder: &Path) -> String {
    process::run(Command::new(program("kubectl")).arg("kustomize").arg(folder)).or_panic()
}

fn chart(values: &str) -> String {
    let output = helm(values);
    assert!(output.status.success(), "helm --set {values}: {}", text(&output));
    String::from_utf8(output.stdout).expect("helm prints UTF-8")
}

fn helm(values: &str) -> Output {
    Command::new(program("helm"))
        .args(["template", "vl3-lb", "--namespace", "balancers", "--set", values])
        .arg(Path::new(DEPLOY).join("helm/vl3-lb"))
        .output()
        .expect("run helm")
}

/// The objects of manifests in YAML.
fn objects(manifests: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifests).expect("manifests are YAML");
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect()
}
