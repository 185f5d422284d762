//! The result for people and for programs.

use std::fmt::Write as _;
use std::fs;

use serde::Serialize;

use crate::args::{Distribution, PipelineArgs};
use crate::stopwatch::Stopwatch;
use crate::summary::Summary;

/// Everything that was measured, and where.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    schema: u32,
    tool: Tool,
    environment: Environment,
    parameters: Parameters,
    results: Vec<FlowsResult>,
}

#[derive(Debug, Serialize)]
struct Tool {
    version: &'static str,
}

/// The machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Environment {
    pub(super) cpu: String,
    pub(super) kernel: String,
    pub(super) core: usize,
    /// Cycles of the time stamp counter in a nanosecond; 1 if there is no such counter, and then
    /// cycles are nanoseconds.
    pub(super) cycles_per_nanosecond: f64,
    pub(super) counts_cycles: bool,
    pub(super) build: &'static str,
}

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Parameters {
    pub(super) distribution: Distribution,
    pub(super) bursts: Vec<u64>,
    pub(super) runs: u32,
    pub(super) packets: u32,
    pub(super) frame_bytes: usize,
    pub(super) seed: u64,
}

/// One number of flows. The costs on top are those of the first burst.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FlowsResult {
    flows: u32,
    #[serde(flatten)]
    headline: Costs,
    bytes_per_flow: f64,
    memory_bytes: usize,
    bursts: Vec<BurstResult>,
}

/// One length of bursts.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BurstResult {
    burst: u64,
    #[serde(flatten)]
    costs: Costs,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Costs {
    request: Cost,
    reply: Cost,
    new_flow: Cost,
    new_flow_tcp: Cost,
}

/// What one packet costs: the median of all runs, and the spread of cycles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cost {
    cycles: f64,
    ns: f64,
    cycles_min: f64,
    cycles_max: f64,
}

impl Environment {
    pub(super) fn new(core: usize, stopwatch: &Stopwatch) -> Self {
        Self {
            cpu: cpu_model(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            core,
            cycles_per_nanosecond: rounded(stopwatch.ticks_per_nano(), 4),
            counts_cycles: stopwatch.counts_cycles(),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
        }
    }

    pub(super) fn cost(&self, cycles: Summary) -> Cost {
        Cost {
            cycles: rounded(cycles.median, 1),
            ns: rounded(cycles.median / self.cycles_per_nanosecond, 2),
            cycles_min: rounded(cycles.min, 1),
            cycles_max: rounded(cycles.max, 1),
        }
    }
}

impl Parameters {
    pub(super) fn new(args: &PipelineArgs) -> Self {
        Self {
            distribution: args.distribution,
            bursts: args.bursts.clone(),
            runs: args.runs,
            packets: args.packets,
            frame_bytes: super::packets::FRAME_LEN,
            seed: args.seed,
        }
    }
}

impl BurstResult {
    /// Costs of requests, replies, new UDP flows and new TCP flows.
    pub(super) const fn new(burst: u64, [request, reply, new_flow, new_flow_tcp]: [Cost; 4]) -> Self {
        let costs = Costs {
            request,
            reply,
            new_flow,
            new_flow_tcp,
        };
        Self { burst, costs }
    }
}

impl FlowsResult {
    /// `bursts` has at least one result.
    pub(super) fn new(flows: u32, memory_bytes: usize, bursts: Vec<BurstResult>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let bytes_per_flow = memory_bytes as f64 / f64::from(flows);
        Self {
            flows,
            headline: bursts[0].costs,
            bytes_per_flow: rounded(bytes_per_flow, 1),
            memory_bytes,
            bursts,
        }
    }
}

impl Report {
    pub(super) fn new(environment: Environment, parameters: Parameters, results: Vec<FlowsResult>) -> Self {
        let tool = Tool {
            version: env!("CARGO_PKG_VERSION"),
        };
        Self {
            schema: 1,
            tool,
            environment,
            parameters,
            results,
        }
    }

    /// One JSON document.
    pub(crate) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("numbers and strings only");
        text.push('\n');
        text
    }

    /// The table, with a line in front that says where it comes from.
    pub(crate) fn to_table(&self) -> String {
        let Environment {
            cpu,
            kernel,
            core,
            cycles_per_nanosecond,
            counts_cycles,
            build,
        } = &self.environment;
        let Parameters {
            distribution,
            runs,
            frame_bytes,
            ..
        } = &self.parameters;
        let mut text = format!(
            "pipeline  udp {frame_bytes}B  {distribution:?}  median of {runs} runs (min..max), cycles per packet\n\
             {cpu}, core {core}, {cycles_per_nanosecond:.3} GHz counter, Linux {kernel}, {build} build\n",
        );
        if !counts_cycles {
            text.push_str("this processor has no constant cycle counter: cycles are nanoseconds\n");
        }
        if *build == "debug" {
            text.push_str("a debug build says nothing about speed: build with --release\n");
        }
        let headings = [
            "FLOWS",
            "BURST",
            "REQUEST",
            "REPLY",
            "NEW UDP FLOW",
            "NEW TCP FLOW",
            "NEW/S",
            "B/FLOW",
        ];
        let mut rows = vec![headings.map(str::to_owned)];
        for result in &self.results {
            rows.extend(result.bursts.iter().map(|burst| row(result, burst)));
        }
        text.push_str(&aligned(&rows));
        text
    }
}

fn row(result: &FlowsResult, BurstResult { burst, costs }: &BurstResult) -> [String; 8] {
    let cost = |cost: Cost| {
        format!(
            "{:.0} ({:.0}..{:.0})",
            cost.cycles, cost.cycles_min, cost.cycles_max
        )
    };
    [
        result.flows.to_string(),
        burst.to_string(),
        cost(costs.request),
        cost(costs.reply),
        cost(costs.new_flow),
        cost(costs.new_flow_tcp),
        format!("{:.2}M", 1000.0 / costs.new_flow.ns),
        format!("{:.1}", result.bytes_per_flow),
    ]
}

/// Right-aligned columns, two spaces between them.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = if index == 0 { "" } else { "  " };
            write!(text, "{gap}{cell:>width$}").expect("a string takes all text");
        }
        text.push('\n');
    }
    text
}

/// The first model name in `/proc/cpuinfo`.
fn cpu_model(cpuinfo: &str) -> String {
    cpuinfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(": ")
                .map(|(_, model)| model.to_owned())
        })
        .unwrap_or_else(|| "unknown CPU".to_owned())
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let environment = Environment {
            cpu: "Some CPU".to_owned(),
            kernel: "6.18".to_owned(),
            core: 1,
            cycles_per_nanosecond: 2.5,
            counts_cycles: true,
            build: "release",
        };
        let parameters = Parameters {
            distribution: Distribution::Uniform,
            bursts: vec![64, 256],
            runs: 3,
            packets: 1_000_000,
            frame_bytes: 64,
            seed: 1,
        };
        let cost = |cycles| {
            environment.cost(Summary {
                median: cycles,
                min: cycles - 1.0,
                max: cycles + 2.04,
            })
        };
        let bursts = vec![
            BurstResult::new(64, [100.0, 101.0, 500.0, 510.0].map(cost)),
            BurstResult::new(256, [90.0, 91.0, 490.0, 500.0].map(cost)),
        ];
        let results = vec![FlowsResult::new(1000, 116_200, bursts)];
        Report::new(environment, parameters, results)
    }

    #[test]
    fn the_json_has_the_shape_of_the_contract() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        let result = &json["results"][0];
        assert_eq!(result["flows"], 1000);
        assert_eq!(result["bytesPerFlow"], 116.2);
        for (key, cycles, ns) in [
            ("request", 100.0, 40.0),
            ("reply", 101.0, 40.4),
            ("newFlow", 500.0, 200.0),
        ] {
            assert_eq!(
                (&result[key]["cycles"], &result[key]["ns"]),
                (&cycles.into(), &ns.into()),
                "{key}"
            );
        }
        assert_eq!(result["request"]["cyclesMax"], 102.0);
        assert_eq!(result["bursts"][1]["burst"], 256);
        assert_eq!(result["bursts"][1]["reply"]["cycles"], 91.0);
        assert_eq!(json["parameters"]["distribution"], "uniform");
    }

    #[test]
    fn the_table_has_a_row_for_each_burst() {
        let table = report().to_table();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .skip(3)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows,
            [
                [
                    "1000",
                    "64",
                    "100",
                    "(99..102)",
                    "101",
                    "(100..103)",
                    "500",
                    "(499..502)",
                    "510",
                    "(509..512)"
                ]
                .iter()
                .chain(&["5.00M", "116.2"])
                .copied()
                .collect::<Vec<_>>(),
                [
                    "1000",
                    "256",
                    "90",
                    "(89..92)",
                    "91",
                    "(90..93)",
                    "490",
                    "(489..492)",
                    "500",
                    "(499..502)"
                ]
                .iter()
                .chain(&["5.10M", "116.2"])
                .copied()
                .collect(),
            ]
        );
        assert!(
            table.starts_with("pipeline  udp 64B  Uniform  median of 3 runs"),
            "{table}"
        );
    }

    #[test]
    fn the_cpu_is_named() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nprocessor\t: 1\nmodel name\t: Other\n";
        assert_eq!(cpu_model(cpuinfo), "Some CPU @ 2 GHz");
        assert_eq!(cpu_model(""), "unknown CPU");
    }
}
