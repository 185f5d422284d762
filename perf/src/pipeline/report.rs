//! The report of `pipeline`: JSON and a table.

use serde::{Deserialize, Serialize};

use super::args::{Distribution, PipelineArgs};
use crate::report::header::Header;
use crate::report::number;
use crate::report::table::Table;
use crate::stopwatch::Stopwatch;
use crate::summary::Summary;

/// All measurements.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) header: Header,
    pub(crate) parameters: Parameters,
    pub(crate) results: Vec<FlowsResult>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Parameters {
    pub(super) distribution: Distribution,
    pub(super) bursts: Vec<u64>,
    pub(super) runs: u32,
    pub(super) packets: u32,
    pub(super) frame_bytes: usize,
    pub(super) seed: u64,
    pub(super) core: usize,
    /// Cycles of the time stamp counter in a nanosecond. 1 without such a counter: then cycles are nanoseconds.
    pub(super) cycles_per_nanosecond: f64,
    pub(super) counts_cycles: bool,
    pub(super) debug_build: bool,
}

/// One number of flows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FlowsResult {
    pub(crate) flows: u32,
    /// Those of the first burst length.
    #[serde(flatten)]
    pub(crate) costs: Costs,
    pub(crate) bytes_per_flow: f64,
    pub(crate) memory_bytes: usize,
    bursts: Vec<BurstResult>,
}

/// One burst length.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct BurstResult {
    burst: u64,
    #[serde(flatten)]
    costs: Costs,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Costs {
    pub(crate) request: Cost,
    pub(crate) reply: Cost,
    pub(crate) new_flow: Cost,
    pub(crate) new_flow_tcp: Cost,
}

/// The cost of a packet: the median of all runs, and the spread of cycles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cost {
    pub(crate) cycles: f64,
    pub(crate) ns: f64,
    cycles_min: f64,
    cycles_max: f64,
}

impl Parameters {
    pub(super) fn new(args: &PipelineArgs, core: usize, stopwatch: &Stopwatch) -> Self {
        Self {
            distribution: args.distribution,
            bursts: args.bursts.clone(),
            runs: args.runs,
            packets: args.packets,
            frame_bytes: super::packets::FRAME_LEN,
            seed: args.seed,
            core,
            cycles_per_nanosecond: rounded(stopwatch.ticks_per_nano(), 4),
            counts_cycles: stopwatch.counts_cycles(),
            debug_build: cfg!(debug_assertions),
        }
    }

    fn cost(&self, cycles: Summary) -> Cost {
        Cost {
            cycles: rounded(cycles.median, 1),
            ns: rounded(cycles.median / self.cycles_per_nanosecond, 2),
            cycles_min: rounded(cycles.min, 1),
            cycles_max: rounded(cycles.max, 1),
        }
    }

    /// The cycles of requests, replies, new UDP flows and new TCP flows, for each burst length, at least one.
    pub(super) fn result(
        &self,
        flows: u32,
        memory_bytes: usize,
        cycles: &[(u64, [Summary; 4])],
    ) -> FlowsResult {
        let burst = |&(burst, cycles): &(u64, [Summary; 4])| {
            let [request, reply, new_flow, new_flow_tcp] = cycles.map(|cycles| self.cost(cycles));
            let costs = Costs {
                request,
                reply,
                new_flow,
                new_flow_tcp,
            };
            BurstResult { burst, costs }
        };
        let bursts: Vec<BurstResult> = cycles.iter().map(burst).collect();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let bytes_per_flow = memory_bytes as f64 / f64::from(flows);
        FlowsResult {
            flows,
            costs: bursts[0].costs,
            bytes_per_flow: rounded(bytes_per_flow, 1),
            memory_bytes,
            bursts,
        }
    }
}

impl Report {
    /// The result for so many flows.
    pub(crate) fn of_flows(&self, flows: u32) -> Option<&FlowsResult> {
        self.results.iter().find(|result| result.flows == flows)
    }

    /// A table, after lines that name the measurement and the machine.
    pub(crate) fn to_text(&self) -> String {
        let Parameters {
            distribution,
            runs,
            frame_bytes,
            core,
            cycles_per_nanosecond,
            counts_cycles,
            debug_build,
            ..
        } = &self.parameters;
        let mut text = format!(
            "pipeline  udp {frame_bytes}B  {distribution:?}  median of {runs} runs (min..max), cycles per packet\n\
             {}, core {core}, {cycles_per_nanosecond:.3} GHz counter\n",
            self.header.environment.line(),
        );
        if !counts_cycles {
            text.push_str("this processor has no constant cycle counter: cycles are nanoseconds\n");
        }
        if *debug_build {
            text.push_str("a debug build is not the product: build with --release\n");
        }
        let mut table = Table::new([
            "FLOWS",
            "BURST",
            "REQUEST",
            "REPLY",
            "NEW UDP FLOW",
            "NEW TCP FLOW",
            "NEW/S",
            "B/FLOW",
        ]);
        for result in &self.results {
            for BurstResult { burst, costs } in &result.bursts {
                table.row([
                    result.flows.to_string(),
                    burst.to_string(),
                    costs.request.to_text(),
                    costs.reply.to_text(),
                    costs.new_flow.to_text(),
                    costs.new_flow_tcp.to_text(),
                    number::short(1e9 / costs.new_flow.ns),
                    format!("{:.1}", result.bytes_per_flow),
                ]);
            }
        }
        text + &table.to_text()
    }
}

impl Cost {
    /// The spread of cycles.
    pub(crate) const fn cycles(self) -> Summary {
        Summary {
            median: self.cycles,
            min: self.cycles_min,
            max: self.cycles_max,
        }
    }

    fn to_text(self) -> String {
        let Summary { median, min, max } = self.cycles();
        format!("{median:.0} ({min:.0}..{max:.0})")
    }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::environment::Environment;
    use crate::report::header;

    /// A report of these numbers of flows, with the cycles of a request.
    pub(crate) fn report(cycles: &[(u32, f64)]) -> Report {
        let parameters = Parameters {
            distribution: Distribution::Uniform,
            bursts: vec![64, 256],
            runs: 3,
            packets: 1_000_000,
            frame_bytes: 64,
            seed: 1,
            core: 1,
            cycles_per_nanosecond: 2.5,
            counts_cycles: true,
            debug_build: false,
        };
        let summaries = |cycles: f64| {
            [cycles, cycles + 10.0, 5.0 * cycles, 5.0 * cycles + 10.0].map(|cycles| Summary {
                median: cycles,
                min: cycles - 1.0,
                max: cycles + 2.04,
            })
        };
        let result = |&(flows, cycles): &(u32, f64)| {
            let bursts = [(64, summaries(cycles)), (256, summaries(cycles - 10.0))];
            parameters.result(flows, flows as usize * 116, &bursts)
        };
        Report {
            header: Header::new(Environment::example()),
            results: cycles.iter().map(result).collect(),
            parameters,
        }
    }

    #[test]
    fn the_json_has_the_documented_keys_and_is_read_back() {
        let text = header::document(&report(&[(1000, 100.0)]));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let result = &json["results"][0];
        assert_eq!(
            (&result["flows"], &result["bytesPerFlow"]),
            (&1000.into(), &116.0.into())
        );
        for (key, cycles, ns) in [
            ("request", 100.0, 40.0),
            ("reply", 110.0, 44.0),
            ("newFlow", 500.0, 200.0),
        ] {
            let cost = &result[key];
            assert_eq!(
                (&cost["cycles"], &cost["ns"]),
                (&cycles.into(), &ns.into()),
                "{key}"
            );
        }
        assert_eq!(result["request"]["cyclesMax"], 102.0);
        assert_eq!(result["bursts"][1]["burst"], 256);
        assert_eq!(result["bursts"][1]["reply"]["cycles"], 100.0);
        assert_eq!(json["parameters"]["distribution"], "uniform");
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(header::document(&read), text);
    }

    #[test]
    fn the_table_has_a_row_for_each_burst_length() {
        let text = report(&[(1000, 100.0)]).to_text();
        let rows: Vec<String> = text
            .lines()
            .skip(3)
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            rows,
            [
                "1000 64 100 (99..102) 110 (109..112) 500 (499..502) 510 (509..512) 5.00M 116.0",
                "1000 256 90 (89..92) 100 (99..102) 450 (449..452) 460 (459..462) 5.56M 116.0",
            ]
        );
        assert!(
            text.starts_with("pipeline  udp 64B  Uniform  median of 3 runs"),
            "{text}"
        );
    }
}
