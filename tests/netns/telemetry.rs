//! Metrics and traces, received by the collector of OpenTelemetry itself: `tests/collector`, a Go program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::process::Process;
use vl3lb_testbed::{Netns, OrPanic};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait::{self, until};

use crate::finance::{self, PORT};

/// Where the collector listens, in the balancer's namespace.
const LISTEN: &str = "127.0.0.1:4317";

/// A collector that writes what it receives into files.
struct Collector {
    process: Process,
    folder: TempDir,
}

impl Collector {
    fn start(netns: &Netns) -> Self {
        let path = std::env::var_os("VL3LB_COLLECTOR").map(PathBuf::from);
        let path = path.expect("VL3LB_COLLECTOR, the path of the collector: `./run test netns` sets it");
        let folder = TempDir::new().expect("a folder");
        let file = |name: &str| json!({"path": folder.path().join(name), "flush_interval": "100ms"});
        let pipeline = |name: &str| json!({"receivers": ["otlp"], "exporters": [format!("file/{name}")]});
        let config = json!({
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": LISTEN}}}},
            "exporters": {"file/metrics": file("metrics"), "file/traces": file("traces")},
            "service": {
                "pipelines": {"metrics": pipeline("metrics"), "traces": pipeline("traces")},
                // It would listen, too.
                "telemetry": {"metrics": {"level": "none"}},
            },
        });
        let mut command = netns.command(path);
        command.arg(format!("--config=yaml:{config}"));
        let process = Process::start(&mut command, &folder.path().join("log")).or_panic();
        Self { process, folder }
    }

    /// Waits until `read` finds something in the lines of a file.
    fn wait<T>(&mut self, what: &str, name: &str, read: impl Fn(&[Value]) -> Option<T>) -> T {
        until(what, wait::STEP, || {
            self.process.check_running().map_err(|error| error.to_string())?;
            let lines = lines(&self.folder.path().join(name));
            read(&lines).ok_or_else(|| format!("not in {} lines; {}", lines.len(), self.process.log_tail(3)))
        })
    }
}

/// The whole lines of a file that is being written.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parsed = whole.lines().map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().expect("each line is an object")
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

/// The value of an attribute.
fn attribute<'a>(attributes: &'a Value, name: &str) -> Option<&'a str> {
    let mut found = attributes.as_array()?.iter().filter(|pair| pair["key"] == name);
    found.next()?["value"]["stringValue"].as_str()
}

/// All metrics of one export, by `resourceMetrics`, `scopeMetrics` and `metrics`.
fn metrics(export: &Value) -> impl Iterator<Item = &Value> {
    list(export, "resourceMetrics")
        .flat_map(|resource| list(resource, "scopeMetrics"))
        .flat_map(|scope| list(scope, "metrics"))
}

/// The newest value of a counter with this attribute.
fn newest(exports: &[Value], name: &str, (key, value): (&str, &str)) -> Option<f64> {
    let metric = metrics(exports.last()?).find(|metric| metric["name"] == name)?;
    assert_eq!(metric["sum"]["isMonotonic"], true, "{metric}");
    // AGGREGATION_TEMPORALITY_CUMULATIVE.
    assert_eq!(metric["sum"]["aggregationTemporality"], 2, "{metric}");
    let points = list(&metric["sum"], "dataPoints");
    let mut matching = points.filter(|point| attribute(&point["attributes"], key) == Some(value));
    let point = matching.next()?;
    // Integers are text in OTLP's JSON.
    let integer = point["asInt"].as_str().and_then(|text| text.parse().ok());
    integer.or_else(|| point["asDouble"].as_f64())
}

#[test]
fn the_collector_of_opentelemetry_gets_metrics_and_traces() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::http_servers(&topology);
    let mut collector = Collector::start(&topology.balancer.netns);
    let config = finance::config(&topology, "auto").with(
        "telemetry",
        json!({"endpoint": format!("http://{LISTEN}"), "interval": "1s"}),
    );
    let mut balancer = Balancer::start(&topology.balancer, &config);
    let url = client::url(Family::V4.balancer(), PORT, "/");
    for _ in 0..5 {
        client::curl(&topology.clients[0].netns, &url);
    }
    let opened = collector.wait("five flows of the service", "metrics", |exports| {
        newest(exports, "vl3lb_service_flows_opened", ("service", "finance")).filter(|flows| *flows >= 5.0)
    });
    assert_eq!(opened, 5.0);

    // The families of /metrics, and who sent them.
    let (exported, service) = collector.wait("an export", "metrics", |exports| {
        let newest = exports.last()?;
        let names = metrics(newest).filter_map(|metric| metric["name"].as_str());
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        let resource = &newest["resourceMetrics"][0]["resource"]["attributes"];
        Some((names, attribute(resource, "service.name")?.to_owned()))
    });
    assert_eq!(service, "vl3-lb");
    let (_, page) = balancer.http("/metrics").expect("scrape it");
    let scraped: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
        .collect();
    let missing: Vec<_> = scraped.difference(&exported).collect();
    assert!(missing.is_empty(), "not sent: {missing:?}");

    // Spans are sent in batches, the last ones at the end.
    balancer.terminate();
    collector.wait("spans of control actions", "traces", |exports| {
        let scopes = exports
            .iter()
            .flat_map(|export| list(export, "resourceSpans"))
            .flat_map(|resource| list(resource, "scopeSpans"));
        let names = scopes
            .flat_map(|scope| list(scope, "spans"))
            .filter_map(|span| span["name"].as_str());
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        names
            .is_superset(&["attach", "publish"].map(str::to_owned).into())
            .then_some(())
    });
}
