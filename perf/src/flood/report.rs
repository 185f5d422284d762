//! The report of floods: JSON and a table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::compare::report::PeerReport;
use crate::report::header::Header;
use crate::report::table::Table;
use crate::report::{Verdict, number};

use super::attack::Attack;
use super::legitimate::WANTED;

/// All measurements.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) header: Header,
    pub(crate) parameters: Parameters,
    pub(crate) peers: Vec<PeerReport>,
    /// In the order in which they were made.
    pub(crate) runs: Vec<Run>,
    pub(crate) verdict: Verdict,
    /// Each failure with its peer.
    pub(crate) failed: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Parameters {
    pub(crate) before_seconds: f64,
    pub(crate) flood_seconds: f64,
    pub(crate) after_seconds: f64,
    /// Spoofed source addresses.
    pub(crate) sources: u32,
}

/// One attack on one peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Run {
    pub(crate) peer: String,
    pub(crate) attack: Attack,
    pub(crate) start_time: String,
    /// With start and end of the peer.
    pub(crate) duration_seconds: f64,
    pub(crate) flood_packets_per_second: f64,
    pub(crate) before: Legitimate,
    pub(crate) during: Legitimate,
    /// Established connections that were lost since the flood began.
    pub(crate) broken_connections: u64,
    /// From the end of the flood until everything arrives again; `None` if it does not.
    pub(crate) recovery_seconds: Option<f64>,
    /// Counters of vl3-lb that grew during the flood, by how much.
    pub(crate) counters: BTreeMap<String, f64>,
}

/// Legitimate traffic in one phase.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Legitimate {
    /// Responses over established connections, as a share of the requests due.
    pub(crate) goodput_ratio: f64,
    /// New connections that had their response within a second, as a share of all.
    pub(crate) new_connections_ratio: f64,
}

impl Legitimate {
    fn is_whole(&self) -> bool {
        self.goodput_ratio >= WANTED && self.new_connections_ratio >= WANTED
    }
}

impl Report {
    pub(super) fn new(
        header: Header,
        parameters: Parameters,
        peers: Vec<PeerReport>,
        runs: Vec<Run>,
    ) -> Self {
        let failed = PeerReport::all_failures(&peers);
        let verdict = if !failed.is_empty() {
            Verdict::Fail
        } else if runs.iter().any(|run| !run.before.is_whole()) {
            // The machine is too busy for the legitimate traffic alone.
            Verdict::GeneratorBound
        } else {
            Verdict::Pass
        };
        Self {
            header,
            parameters,
            peers,
            runs,
            verdict,
            failed,
        }
    }

    /// An attack on a peer.
    pub(crate) fn run(&self, peer: &str, attack: Attack) -> Option<&Run> {
        self.runs
            .iter()
            .find(|run| run.peer == peer && run.attack == attack)
    }

    /// A table, after lines that name flood and machine.
    pub(crate) fn to_text(&self) -> String {
        let Parameters {
            before_seconds,
            flood_seconds,
            after_seconds,
            sources,
        } = self.parameters;
        let mut table = Table::new([
            "PEER",
            "ATTACK",
            "FLOOD/S",
            "GOODPUT BEFORE",
            "GOODPUT",
            "BROKEN",
            "NEW BEFORE",
            "NEW IN 1S",
            "RECOVERY",
        ]);
        for run in &self.runs {
            let recovery = run.recovery_seconds.map_or_else(
                || format!("> {}", number::time(after_seconds - 1.0)),
                number::time,
            );
            table.row([
                run.peer.clone(),
                run.attack.name().to_owned(),
                number::short(run.flood_packets_per_second),
                number::percent(run.before.goodput_ratio),
                number::percent(run.during.goodput_ratio),
                run.broken_connections.to_string(),
                number::percent(run.before.new_connections_ratio),
                number::percent(run.during.new_connections_ratio),
                recovery,
            ]);
        }
        let mut text = format!(
            "flood  {} from {} sources, after {} and before {} without\n{}\n\n{}",
            number::time(flood_seconds),
            number::count(sources.into()),
            number::time(before_seconds),
            number::time(after_seconds),
            self.header.environment.line(),
            table.to_text(),
        );
        let absent = self.peers.iter().filter_map(PeerReport::absence);
        let notes: Vec<String> = absent.chain(self.failed.iter().cloned()).collect();
        if !notes.is_empty() {
            text.push_str(&format!("\n{}\n", notes.join("\n")));
        }
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::environment::Environment;

    fn run(peer: &str, attack: Attack, during: f64, recovery: Option<f64>) -> Run {
        Run {
            peer: peer.to_owned(),
            attack,
            start_time: "2026-01-01T00:00:00.000Z".to_owned(),
            duration_seconds: 12.0,
            flood_packets_per_second: 412_000.0,
            before: Legitimate {
                goodput_ratio: 1.0,
                new_connections_ratio: 1.0,
            },
            during: Legitimate {
                goodput_ratio: 0.99,
                new_connections_ratio: during,
            },
            broken_connections: 3,
            recovery_seconds: recovery,
            counters: BTreeMap::new(),
        }
    }

    /// vl3-lb fails new connections during SYN floods; nftables does not recover from them.
    pub(crate) fn report() -> Report {
        let parameters = Parameters {
            before_seconds: 2.0,
            flood_seconds: 5.0,
            after_seconds: 6.0,
            sources: 1_000_000,
        };
        let runs = vec![
            run("vl3-lb-native", Attack::Syn, 0.5, Some(0.4)),
            run("nftables", Attack::Syn, 0.25, None),
            run("vl3-lb-native", Attack::Ports, 0.97, Some(0.0)),
        ];
        Report::new(Header::new(Environment::here()), parameters, Vec::new(), runs)
    }

    #[test]
    fn each_run_is_a_row_and_a_peer_that_does_not_recover_says_so() {
        let text = report().to_text();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let row = |peer: &str| rows.iter().find(|row| row.first() == Some(&peer)).unwrap();
        assert_eq!(
            row("vl3-lb-native"),
            &[
                "vl3-lb-native",
                "syn",
                "412k",
                "100%",
                "99%",
                "3",
                "100%",
                "50%",
                "400ms"
            ],
            "{text}"
        );
        assert!(row("nftables").ends_with(&[">", "5.00s"]), "{text}");
    }

    #[test]
    fn a_machine_that_cannot_carry_the_legitimate_traffic_is_the_limit() {
        let mut report = report();
        assert_eq!(report.verdict, Verdict::Pass);
        report.runs[0].before.new_connections_ratio = 0.9;
        let again = Report::new(report.header, report.parameters, report.peers, report.runs);
        assert_eq!(again.verdict, Verdict::GeneratorBound);
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let report = report();
        let text = crate::report::header::document(&report);
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(crate::report::header::document(&read), text);
        assert!(read.run("vl3-lb-native", Attack::Ports).is_some());
        assert!(read.run("nftables", Attack::Udp).is_none());
    }
}
