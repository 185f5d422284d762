//! A comparison for people and for programs.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::net::Wire;
use crate::report::envelope;
use crate::report::environment::Environment;
use crate::report::{Verdict, number};
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
    pub(crate) runs: Vec<Run>,
    pub(crate) failures: Vec<String>,
}

/// One peer in one round.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) round: u32,
    pub(crate) started: SystemTime,
    /// With the peer's start and end.
    pub(crate) duration: Duration,
    pub(crate) measured: Measured,
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
        let values = self
            .runs
            .iter()
            .flat_map(|run| run.measured.iter().filter(of_metric));
        Summary::of(values.map(|&(_, value)| value).collect())
    }

    fn about(&self) -> Value {
        json!({
            "name": self.name,
            "about": self.about,
            "absent": self.absent,
            "commands": self.commands,
            "failures": self.failures,
        })
    }

    fn summaries(&self) -> Value {
        let summaries = Metric::ALL
            .into_iter()
            .filter_map(|metric| Some((metric.key().to_owned(), json!(self.summary(metric)?))));
        Value::Object(summaries.collect())
    }
}

impl Run {
    fn json(&self, peer: &str) -> Value {
        let mut run = json!({
            "peer": peer,
            "round": self.round,
            "startTime": envelope::time(self.started),
            "durationSeconds": self.duration.as_secs_f64(),
        });
        for metric in Metric::ALL {
            let value = self.measured.iter().find(|(measured, _)| *measured == metric);
            let value = json!(value.map(|(_, value)| value));
            match metric.key().split_once('.') {
                Some((outer, inner)) => run[outer][inner] = value,
                None => run[metric.key()] = value,
            }
        }
        run
    }
}

impl Report {
    /// One JSON document.
    pub(crate) fn to_json(&self) -> String {
        let parameters = json!({
            "link": self.link.name(),
            "rounds": self.rounds,
            "durationSeconds": self.duration.as_secs_f64(),
            "flows": self.flows,
            "frameBytes": super::frame::FRAME_LEN,
            "testerCore": self.cores.tester_core(),
            "peerCore": self.cores.peer_core(),
        });
        let mut runs: Vec<_> = self
            .peers
            .iter()
            .flat_map(|peer| peer.runs.iter().map(|run| (run.started, run.json(peer.name))))
            .collect();
        // As they were made: one peer after the other, round by round.
        runs.sort_by_key(|(started, _)| *started);
        let summary: Map<String, Value> = self
            .peers
            .iter()
            .filter(|peer| !peer.runs.is_empty())
            .map(|peer| (peer.name.to_owned(), peer.summaries()))
            .collect();
        let mut document = envelope::envelope(&self.command, &self.environment, &parameters);
        document.extend([
            ("noConnections".to_owned(), json!(self.no_connections)),
            (
                "peers".to_owned(),
                self.peers.iter().map(PeerReport::about).collect(),
            ),
            ("runs".to_owned(), runs.into_iter().map(|(_, run)| run).collect()),
            ("summary".to_owned(), Value::Object(summary)),
            ("verdict".to_owned(), self.verdict().name().into()),
            ("failed".to_owned(), json!(self.failed())),
        ]);
        envelope::text(document)
    }

    /// What went wrong in some round.
    fn failed(&self) -> Vec<String> {
        let failures = |peer: &PeerReport| {
            let name = peer.name;
            let lines: Vec<_> = peer
                .failures
                .iter()
                .map(|failure| format!("{name}: {failure}"))
                .collect();
            lines
        };
        self.peers.iter().flat_map(failures).collect()
    }

    fn verdict(&self) -> Verdict {
        let tester_bound = |peer: &PeerReport| {
            peer.summary(Metric::TesterBound)
                .is_some_and(|summary| summary.max > 0.0)
        };
        if self.peers.iter().any(|peer| !peer.failures.is_empty()) {
            Verdict::Fail
        } else if self.peers.iter().any(tester_bound) {
            Verdict::GeneratorBound
        } else {
            Verdict::Pass
        }
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
        for metrics in Metric::tables() {
            text.push_str(&self.table(metrics));
        }
        for peer in &self.peers {
            if let Some(reason) = &peer.absent {
                text.push_str(&format!("{}: not measured: {reason}\n", peer.name));
            }
        }
        for failure in self.failed() {
            text.push_str(&format!("{failure}\n"));
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
                .zip(1..)
                .map(|(&rate, round)| Run {
                    round,
                    started: SystemTime::UNIX_EPOCH + Duration::from_secs(round.into()),
                    duration: Duration::from_secs(10),
                    measured: vec![
                        (Metric::LossFree, rate),
                        (Metric::CpuFull, 1e-6),
                        (Metric::LatencyP99, 2e-3),
                    ],
                })
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
                offloads: None,
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
        let runs = json["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 3);
        assert_eq!(
            runs[1],
            json!({
                "peer": "one",
                "round": 2,
                "startTime": "1970-01-01T00:00:02.000Z",
                "durationSeconds": 10.0,
                "lossFreePacketsPerSecond": 800e3,
                "flatOutPacketsPerSecond": null,
                "fullLoadCpuSecondsPerPacket": 1e-6,
                "halfLoadCpuSecondsPerPacket": null,
                "testerBoundRatio": null,
                "halfLoadLatencySeconds": {"p50": null, "p99": 2e-3, "p999": null, "typicalP99": null},
                "halfLoadTesterWaitRatio": null,
                "halfLoadPeerWaitRatio": null,
                "newConnectionsPerSecond": null,
                "requestsPerSecond": null,
                "bulkBitsPerSecond": null,
                "concurrentConnections": null,
                "idleCpuRatio": null,
                "residentBytes": null,
            })
        );
        assert_eq!(
            json["summary"]["one"]["lossFreePacketsPerSecond"],
            json!({"median": 750e3, "min": 700e3, "max": 800e3})
        );
        assert_eq!(json["summary"]["one"]["halfLoadLatencySeconds.p99"]["max"], 2e-3);
        assert_eq!(json["summary"]["two"], Value::Null);
        assert_eq!(json["peers"][1]["absent"], "not installed");
        assert_eq!(json["parameters"]["peerCore"], 1);
        assert_eq!(json["verdict"], "pass");
    }

    #[test]
    fn a_peer_that_fails_in_a_round_is_the_verdict() {
        let mut report = report();
        report.peers[0].failures.push("it ended".to_owned());
        let json: Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["verdict"], "fail");
        assert_eq!(json["failed"], json!(["one: it ended"]));
    }
}
