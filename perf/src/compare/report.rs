//! A comparison for people and for programs.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::net::Wire;
use crate::report::environment::Environment;
use crate::report::number;
use crate::summary::Summary;

use super::cores::Cores;
use super::metric::{Measured, Metric};
use super::peer::Peer;

/// Everything that was measured, and where.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) command: Vec<String>,
    pub(crate) environment: Environment,
    pub(crate) cores: Cores,
    pub(crate) duration: Duration,
    pub(crate) link: Wire,
    pub(crate) flows: u16,
    pub(crate) rounds: u32,
    /// Why nothing with sockets was measured.
    pub(crate) no_connections: Option<String>,
    pub(crate) peers: Vec<PeerReport>,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct PeerReport {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Why it was not measured.
    pub(crate) absent: Option<String>,
    pub(crate) commands: Vec<String>,
    /// One for each round that it came through.
    pub(crate) runs: Vec<Measured>,
    pub(crate) failures: Vec<String>,
}

impl PeerReport {
    pub(crate) fn new(peer: &dyn Peer, wire: Wire) -> Self {
        Self {
            name: peer.name(),
            about: peer.about(),
            absent: peer.absent().or_else(|| peer.refuses(wire)),
            commands: Vec::new(),
            runs: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A number over all rounds.
    pub(crate) fn summary(&self, metric: Metric) -> Option<Summary> {
        let of_metric = |&&(measured, _): &&(Metric, f64)| measured == metric;
        let values = self.runs.iter().flat_map(|run| run.iter().filter(of_metric));
        Summary::of(values.map(|&(_, value)| value).collect())
    }

    fn json(&self) -> Value {
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|run| {
                let numbers = run
                    .iter()
                    .map(|&(metric, value)| (metric.key().to_owned(), json!(value)));
                Value::Object(numbers.collect())
            })
            .collect();
        let summary: Map<String, Value> = Metric::ALL
            .into_iter()
            .filter_map(|metric| Some((metric.key().to_owned(), json!(self.summary(metric)?))))
            .collect();
        json!({
            "name": self.name,
            "about": self.about,
            "absent": self.absent,
            "commands": self.commands,
            "runs": runs,
            "failures": self.failures,
            "summary": summary,
        })
    }
}

impl Report {
    /// One JSON document.
    pub(crate) fn to_json(&self) -> String {
        let document = json!({
            "schema": 1,
            "tool": {"name": "vl3-perf", "version": env!("CARGO_PKG_VERSION")},
            "command": self.command,
            "environment": self.environment,
            "parameters": {
                "link": self.link.name(),
                "rounds": self.rounds,
                "durationSeconds": self.duration.as_secs_f64(),
                "flows": self.flows,
                "frameBytes": super::frame::FRAME_LEN,
                "testerCore": self.cores.tester_core(),
                "peerCore": self.cores.peer_core(),
            },
            "noConnections": self.no_connections,
            "peers": self.peers.iter().map(PeerReport::json).collect::<Vec<_>>(),
        });
        format!("{document:#}\n")
    }

    /// Tables, with a line in front that says where they come from.
    pub(crate) fn to_table(&self) -> String {
        let mut text = format!(
            "compare  {}, one-armed  udp {}B, {} flows  median of {} rounds (min..max)\n{}; tester on core {}, peer on core {}\n",
            self.link.name(),
            super::frame::FRAME_LEN,
            self.flows,
            self.rounds,
            self.environment.line(),
            self.cores.tester_core(),
            self.cores.peer_core(),
        );
        for metrics in [&Metric::ALL[..5], &Metric::ALL[5..8], &Metric::ALL[8..]] {
            text.push_str(&self.table(metrics));
        }
        for peer in &self.peers {
            if let Some(reason) = &peer.absent {
                text.push_str(&format!("{}: not measured: {reason}\n", peer.name));
            }
            for failure in &peer.failures {
                text.push_str(&format!("{}: {failure}\n", peer.name));
            }
        }
        if let Some(reason) = &self.no_connections {
            text.push_str(&format!("nothing with connections was measured: {reason}\n"));
        }
        text
    }

    fn table(&self, metrics: &[Metric]) -> String {
        let mut rows = vec![row(
            "PEER",
            metrics.iter().map(|metric| metric.heading().to_owned()),
        )];
        let measured = self
            .peers
            .iter()
            .filter(|peer| metrics.iter().any(|&metric| peer.summary(metric).is_some()));
        for peer in measured {
            let cells = metrics.iter().map(|&metric| cell(metric, peer.summary(metric)));
            rows.push(row(peer.name, cells));
        }
        if rows.len() == 1 {
            return String::new();
        }
        format!("\n{}", number::aligned(&rows))
    }
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    [name.to_owned()].into_iter().chain(cells).collect()
}

fn cell(metric: Metric, summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "-".to_owned(),
        |Summary { median, min, max }| {
            format!(
                "{} ({}..{})",
                metric.show(median),
                metric.show(min),
                metric.show(max)
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let peer = |name, absent: Option<&str>, runs: &[f64]| PeerReport {
            name,
            about: "a peer",
            absent: absent.map(str::to_owned),
            commands: vec!["start it".to_owned()],
            runs: runs
                .iter()
                .map(|&rate| vec![(Metric::LossFree, rate), (Metric::CpuFull, 1e-6)])
                .collect(),
            failures: Vec::new(),
        };
        Report {
            command: vec!["vl3-perf".to_owned(), "compare".to_owned()],
            environment: Environment {
                kernel: "6.18".to_owned(),
                cpu: "Some CPU".to_owned(),
                cores: 2,
                governor: None,
                engine: None,
                engine_reason: None,
                interface: None,
                mode: None,
            },
            cores: Cores::for_tests(),
            duration: Duration::from_secs(2),
            link: Wire::Veth,
            flows: 1000,
            rounds: 3,
            no_connections: None,
            peers: vec![
                peer("one", None, &[700e3, 800e3, 750e3]),
                peer("two", Some("not installed"), &[]),
            ],
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_measured_peer_and_the_reason_for_each_other() {
        let table = report().to_table();
        assert!(
            table.contains("one   750k (700k..800k)           -  1000ns (1000ns..1000ns)"),
            "{table}"
        );
        assert!(table.contains("two: not measured: not installed\n"));
        assert!(table.contains("tester on core 0, peer on core 1"));
    }

    #[test]
    fn the_json_has_every_run_and_their_summary() {
        let json: Value = serde_json::from_str(&report().to_json()).unwrap();
        let peer = &json["peers"][0];
        assert_eq!(peer["runs"].as_array().unwrap().len(), 3);
        assert_eq!(
            peer["summary"]["lossFreePacketsPerSecond"],
            json!({"median": 750e3, "min": 700e3, "max": 800e3})
        );
        assert_eq!(json["peers"][1]["absent"], "not installed");
        assert_eq!(json["parameters"]["peerCore"], 1);
    }
}
