//! The report of a comparison: JSON and tables.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::net::Wire;
use crate::report::header::{self, Header};
use crate::report::table::Table;
use crate::report::{Verdict, number};
use crate::summary::Summary;

use super::metric::{Measured, Metric};
use super::peer::Peer;
use super::requirement::first_unmet;

/// All measurements of a comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) header: Header,
    pub(crate) parameters: Parameters,
    /// Why nothing with connections was measured.
    pub(crate) no_connections: Option<String>,
    pub(crate) peers: Vec<PeerReport>,
    /// In the order in which they were made.
    pub(crate) runs: Vec<Run>,
    /// By name of the peer, over all rounds.
    pub(crate) summary: BTreeMap<String, BTreeMap<Metric, Summary>>,
    pub(crate) verdict: Verdict,
    /// Each failure with its peer.
    pub(crate) failed: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Parameters {
    pub(crate) link: String,
    pub(crate) rounds: u32,
    pub(crate) duration_seconds: f64,
    pub(crate) flows: u16,
    pub(crate) frame_bytes: usize,
    pub(crate) tester_core: usize,
    pub(crate) peer_core: usize,
}

/// A peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PeerReport {
    pub(crate) name: String,
    pub(crate) about: String,
    /// Why it was not measured.
    pub(crate) absent: Option<String>,
    /// Commands and configuration.
    pub(crate) commands: Vec<String>,
    pub(crate) failures: Vec<String>,
}

/// One peer in one round.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Run {
    pub(crate) peer: String,
    pub(crate) round: u32,
    pub(crate) start_time: String,
    /// With start and end of the peer.
    pub(crate) duration_seconds: f64,
    #[serde(flatten)]
    pub(crate) measured: Measured,
}

impl PeerReport {
    /// Of a peer that was not measured yet, with the reason if it cannot be over `link`.
    pub(crate) fn new(peer: &Peer, link: Wire) -> Self {
        Self {
            name: peer.name.to_owned(),
            about: peer.about.to_owned(),
            absent: first_unmet(&peer.requirements, link).map(|unmet| unmet.to_string()),
            commands: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A line if it was not measured.
    pub(crate) fn absence(&self) -> Option<String> {
        let reason = self.absent.as_ref()?;
        Some(format!("{}: not measured: {reason}", self.name))
    }

    /// The failures of all peers, each with its peer.
    pub(crate) fn all_failures(peers: &[Self]) -> Vec<String> {
        let of_peer = |peer: &Self| -> Vec<String> {
            let failures = peer.failures.iter();
            failures
                .map(|failure| format!("{}: {failure}", peer.name))
                .collect()
        };
        peers.iter().flat_map(of_peer).collect()
    }
}

impl Run {
    pub(super) fn new(
        peer: &str,
        round: u32,
        start: SystemTime,
        duration: Duration,
        measured: Measured,
    ) -> Self {
        Self {
            peer: peer.to_owned(),
            round,
            start_time: header::time(start),
            duration_seconds: duration.as_secs_f64(),
            measured,
        }
    }
}

impl Report {
    pub(super) fn new(
        header: Header,
        parameters: Parameters,
        no_connections: Option<String>,
        peers: Vec<PeerReport>,
        runs: Vec<Run>,
    ) -> Self {
        let mut values: BTreeMap<String, BTreeMap<Metric, Vec<f64>>> = BTreeMap::new();
        for run in &runs {
            let of_peer = values.entry(run.peer.clone()).or_default();
            for (&metric, &value) in &run.measured {
                of_peer.entry(metric).or_default().push(value);
            }
        }
        let summary = values.into_iter().map(|(peer, values)| {
            let summaries = values.into_iter();
            let summaries = summaries.filter_map(|(metric, values)| Some((metric, Summary::of(values)?)));
            (peer, summaries.collect())
        });
        let failed = PeerReport::all_failures(&peers);
        let tester_bound = |run: &Run| run.measured.get(&Metric::TesterBound) > Some(&0.0);
        let verdict = if !failed.is_empty() {
            Verdict::Fail
        } else if runs.iter().any(tester_bound) {
            Verdict::GeneratorBound
        } else {
            Verdict::Pass
        };
        Self {
            summary: summary.collect(),
            header,
            parameters,
            no_connections,
            peers,
            runs,
            verdict,
            failed,
        }
    }

    /// A metric of a peer over all rounds.
    pub(crate) fn summary(&self, peer: &str, metric: Metric) -> Option<Summary> {
        self.summary.get(peer)?.get(&metric).copied()
    }

    /// Tables, after lines that name load and machine.
    pub(crate) fn to_text(&self) -> String {
        let Parameters {
            link,
            rounds,
            duration_seconds,
            flows,
            frame_bytes,
            tester_core,
            peer_core,
        } = &self.parameters;
        let mut text = format!(
            "compare  {link}, one-armed  udp {frame_bytes}B, {flows} flows  median of {rounds} rounds of {} \
             (min..max)\n{}; tester on core {tester_core}, peer on core {peer_core}\n",
            number::time(*duration_seconds),
            self.header.environment.line(),
        );
        for metrics in Metric::tables() {
            text.push_str(&self.table(&metrics));
        }
        let absent = self.peers.iter().filter_map(PeerReport::absence);
        let connections = self
            .no_connections
            .iter()
            .map(|reason| format!("connections: not measured: {reason}"));
        let notes: Vec<String> = absent
            .chain(self.failed.iter().cloned())
            .chain(connections)
            .collect();
        if !notes.is_empty() {
            text.push_str(&format!("\n{}\n", notes.join("\n")));
        }
        text
    }

    /// One row for each peer with one of the metrics.
    fn table(&self, metrics: &[Metric]) -> String {
        let headings = metrics.iter().map(|metric| metric.heading());
        let mut table = Table::new(["PEER"].into_iter().chain(headings));
        for peer in &self.peers {
            let summaries: Vec<_> = metrics
                .iter()
                .map(|&metric| self.summary(&peer.name, metric).map(|summary| (metric, summary)))
                .collect();
            if summaries.iter().any(Option::is_some) {
                let cells = summaries.into_iter().map(cell);
                table.row([peer.name.clone()].into_iter().chain(cells));
            }
        }
        if table.is_empty() {
            String::new()
        } else {
            format!("\n{}", table.to_text())
        }
    }
}

fn cell(summary: Option<(Metric, Summary)>) -> String {
    let Some((metric, summary)) = summary else {
        return "-".to_owned();
    };
    let [median, min, max] = [summary.median, summary.min, summary.max].map(|value| metric.show(value));
    format!("{median} ({min}..{max})")
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::environment::Environment;

    /// A report of these runs, and of a peer that is not installed.
    pub(crate) fn report(runs: &[(&str, &[(Metric, f64)])]) -> Report {
        let peer = |name: &str, absent: Option<&str>| PeerReport {
            name: name.to_owned(),
            about: format!("about {name}"),
            absent: absent.map(str::to_owned),
            commands: vec![format!("start {name}")],
            failures: Vec::new(),
        };
        let mut names: Vec<&str> = runs.iter().map(|(name, _)| *name).collect();
        names.dedup();
        let mut peers: Vec<_> = names.into_iter().map(|name| peer(name, None)).collect();
        peers.push(peer("vpp", Some("vpp is not installed")));
        let runs = runs.iter().zip(1..).map(|((peer, measured), round)| {
            let start = SystemTime::UNIX_EPOCH + Duration::from_secs(round.into());
            let measured = measured.iter().copied().collect();
            Run::new(peer, round, start, Duration::from_secs(10), measured)
        });
        let parameters = Parameters {
            link: "veth".to_owned(),
            rounds: 3,
            duration_seconds: 2.0,
            flows: 1000,
            frame_bytes: 64,
            tester_core: 0,
            peer_core: 1,
        };
        let header = Header::new(Environment::example());
        Report::new(header, parameters, None, peers, runs.collect())
    }

    fn three_rounds() -> Report {
        let run = |rate| {
            [
                (Metric::LossFree, rate),
                (Metric::CpuFull, 1e-6),
                (Metric::LatencyP99, 2e-3),
            ]
        };
        let runs = [700e3, 800e3, 750e3].map(run);
        report(&runs.each_ref().map(|run| ("one", &run[..])))
    }

    #[test]
    fn the_table_has_a_row_for_each_measured_peer_and_the_reason_for_each_other() {
        let text = three_rounds().to_text();
        assert!(
            text.contains("one   750k (700k..800k)           -  1000ns (1000ns..1000ns)"),
            "{text}"
        );
        assert!(
            text.contains("vpp: not measured: vpp is not installed\n"),
            "{text}"
        );
        assert!(text.contains("tester on core 0, peer on core 1"), "{text}");
    }

    #[test]
    fn the_json_has_every_run_and_is_read_back() {
        let report = three_rounds();
        let text = header::document(&report);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["runs"].as_array().unwrap().len(), 3);
        assert_eq!(
            json["runs"][1],
            json!({
                "peer": "one",
                "round": 2,
                "startTime": "1970-01-01T00:00:02.000Z",
                "durationSeconds": 10.0,
                "lossFreePacketsPerSecond": 800e3,
                "fullLoadCpuSecondsPerPacket": 1e-6,
                "halfLoadLatencySeconds.p99": 2e-3,
            })
        );
        assert_eq!(
            json["summary"]["one"]["lossFreePacketsPerSecond"],
            json!({"median": 750e3, "min": 700e3, "max": 800e3})
        );
        assert_eq!(json["peers"][1]["absent"], "vpp is not installed");
        assert_eq!(json["parameters"]["peerCore"], 1);
        assert_eq!(json["verdict"], "pass");
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(header::document(&read), text);
    }

    #[test]
    fn a_peer_that_fails_in_a_round_decides_the_verdict() {
        let Report {
            header,
            parameters,
            mut peers,
            runs,
            ..
        } = three_rounds();
        peers[0].failures.push("it ended".to_owned());
        let report = Report::new(header, parameters, None, peers, runs);
        assert_eq!(report.verdict, Verdict::Fail);
        assert_eq!(report.failed, ["one: it ended"]);
    }
}
