//! The alert rules and the Grafana board with a real Prometheus that scrapes a real balancer.
//!
//! Grafana itself is not packaged by Debian: its board is checked panel by panel against Prometheus' API.

mod board;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::process::{self, Process};
use vl3lb_testbed::{Netns, OrPanic};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait::until;

use crate::finance::{self, PORT, TARGET_PORT};
use board::Board;

const COMPONENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/components");
/// Where the test's Prometheus listens, in the balancer's namespace.
const LISTEN: &str = "127.0.0.1:9091";
/// What a balancer does not export that is no client of Network Service Mesh, has no Kubernetes and no control group with
/// a CPU controller.
const ABSENT: [&str; 3] = ["vl3lb_nsm_", "vl3lb_network_programming_", "vl3lb_cpu_throttled_"];

/// The groups of the PrometheusRule, as Prometheus reads them.
fn rules() -> Value {
    let file = std::fs::read_to_string(Path::new(COMPONENTS).join("alerts/prometheusrule.yaml"));
    let rule: Value = serde_saphyr::from_str(&file.expect("read the rules")).expect("parse the rules");
    rule["spec"].clone()
}

/// Name and expression of each alert.
fn alerts() -> Vec<(String, String)> {
    let rules = rules();
    let alerts = rules["groups"][0]["rules"].as_array().expect("rules");
    let text = |alert: &Value, key: &str| alert[key].as_str().expect(key).to_owned();
    alerts
        .iter()
        .map(|alert| (text(alert, "alert"), text(alert, "expr")))
        .collect()
}

/// Writes the rules into `folder`. JSON is YAML.
fn write_rules(folder: &Path) -> PathBuf {
    let path = folder.join("rules.yaml");
    std::fs::write(&path, rules().to_string()).expect("write the rules");
    path
}

#[test]
fn each_alert_fires_on_its_series_and_none_on_those_of_a_healthy_balancer() {
    let cases = include_str!("alerts.yaml");
    for (name, _) in alerts() {
        let fires = format!("ALERTS{{alertname=\"{name}\",");
        assert!(cases.contains(&fires), "no case in which {name} fires");
    }
    let folder = TempDir::new().expect("a folder");
    let rules = write_rules(folder.path());
    std::fs::write(folder.path().join("alerts.yaml"), cases).expect("write the cases");
    process::run(
        std::process::Command::new("promtool")
            .args(["check", "rules"])
            .arg(rules),
    )
    .or_panic();
    process::run(
        std::process::Command::new("promtool")
            .args(["test", "rules", "alerts.yaml"])
            .current_dir(folder.path()),
    )
    .or_panic();
}

#[test]
fn each_alert_has_a_heading_in_the_runbook() {
    let runbook = include_str!("../../../docs/runbook.md");
    for (name, _) in alerts() {
        assert!(runbook.contains(&format!("\n## {name}\n")), "{name}");
    }
}

/// A Prometheus that scrapes the balancer in `netns`.
struct Prometheus<'a> {
    process: Process,
    netns: &'a Netns,
    _folder: TempDir,
}

impl<'a> Prometheus<'a> {
    fn start(netns: &'a Netns) -> Self {
        let folder = TempDir::new().expect("a folder");
        write_rules(folder.path());
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "vl3-lb", "static_configs": [{"targets": ["127.0.0.1:9090"]}]}],
        });
        let path = folder.path().join("prometheus.yaml");
        std::fs::write(&path, config.to_string()).expect("write the configuration");
        let mut command = netns.command("prometheus");
        command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={LISTEN}"));
        let process = Process::start(&mut command, &folder.path().join("log")).or_panic();
        Self {
            process,
            netns,
            _folder: folder,
        }
    }

    fn get(&self, path: &str, query: Option<&str>) -> Result<Value, String> {
        let mut command = self.netns.command("curl");
        command.args(["--silent", "--show-error", "--max-time", "5", "--get"]);
        if let Some(query) = query {
            command.args(["--data-urlencode", &format!("query={query}")]);
        }
        command.arg(format!("http://{LISTEN}/api/v1/{path}"));
        let answer = process::run(&mut command).map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
        if answer["status"] != "success" {
            return Err(format!("{query:?}: {answer}"));
        }
        Ok(answer["data"].clone())
    }

    /// Waits until `query` has a result.
    fn has_data(&mut self, query: &str) {
        until(query, Duration::from_secs(30), || {
            self.process.check_running().map_err(|error| error.to_string())?;
            let found = self.get("query", Some(query))?;
            match found["result"].as_array() {
                Some(result) if !result.is_empty() => Ok(()),
                _ => Err("no data".to_owned()),
            }
        });
    }
}

/// The series of an expression, each as a selector: `NAME{...}` or `NAME`.
fn selectors(expression: &str) -> Vec<String> {
    let mut selectors = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find("vl3lb_") {
        rest = &rest[start..];
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let mut end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        if rest[end..].starts_with('{') {
            end += rest[end..].find('}').expect("a closing brace") + 1;
        }
        selectors.push(rest[..end].to_owned());
        rest = &rest[end..];
    }
    selectors
}

fn is_absent(expression: &str) -> bool {
    ABSENT.iter().any(|name| expression.contains(name))
}

#[test]
fn every_expression_of_board_and_rules_answers_with_data() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::http_servers(&topology);
    let mut service = service("finance", "TCP", PORT, TARGET_PORT, &finance::backends(&topology));
    service["healthCheck"] = json!({"tcp": {}, "interval": "500ms", "timeout": "500ms"});
    let _balancer = Balancer::start(&topology.balancer, &Config::new("auto").service(service));
    let netns = &topology.balancer.netns;
    let mut prometheus = Prometheus::start(netns);
    prometheus.has_data("up{job=\"vl3-lb\"} == 1");

    // Connections and queries between the scrapes, so that rates and histograms have something to show.
    let client = &topology.clients[0].netns;
    let server = Family::V4.balancer();
    for _ in 0..5 {
        client::curl(client, &client::url(server, PORT, "/"));
        client::dig(client, server, &["finance.vl3-lb", "A"]);
        std::thread::sleep(Duration::from_secs(1));
    }

    let board = Board::read(&Path::new(COMPONENTS).join("board/vl3-lb.json"));
    assert!(
        board.expressions.len() > 40,
        "{} expressions",
        board.expressions.len()
    );
    for expression in &board.expressions {
        if is_absent(expression) {
            // It must be valid all the same.
            prometheus
                .get("query", Some(expression))
                .expect("a valid expression");
        } else {
            prometheus.has_data(expression);
        }
    }
    for variable in &board.variables {
        prometheus.has_data(variable);
    }
    // An alert has data when it fires, so each series that it uses must have some.
    for (name, expression) in alerts() {
        for selector in selectors(&expression)
            .iter()
            .filter(|selector| !is_absent(selector))
        {
            // The first failed snapshot and the first drop for a reason are what the alert waits for.
            prometheus.has_data(selector);
            assert!(!selector.is_empty(), "{name}");
        }
    }

    let evaluated = prometheus.get("rules", None).expect("the rules");
    let evaluated = evaluated["groups"][0]["rules"].as_array().expect("rules").clone();
    assert_eq!(evaluated.len(), alerts().len());
    for rule in evaluated {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_eq!(rule["state"], "inactive", "{rule}");
    }
}
