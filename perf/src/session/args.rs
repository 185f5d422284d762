//! The command lines of `load` and `latency`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use vl3lb_dataplane::config::Mode;

use crate::failure::Failure;
use crate::load::pacing::Rate;
use crate::load::pattern::Spread;
use crate::load::plan::{Close, EngineChoice, Plan, Traffic};
use crate::load::target::Permit;
use crate::report::goal::FailIf;
use crate::report::number::{parse_count, parse_duration, parse_whole};

/// The smallest frame of Ethernet, without FCS as everywhere here; requests over TCP are that long too.
const SMALLEST_FRAME: usize = 64;
/// Packets per second of `load` unless told otherwise.
const LOAD_RATE: f64 = 10_000.0;

/// Load a target and say how much of it came back, and when
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Packets or requests per second, at all times [default: 10k]
    #[arg(short = 'R', long, value_name = "N", value_parser = parse_count, conflicts_with_all = ["ramp", "flat_out"])]
    rate: Option<f64>,

    /// Packets or requests per second that rise or fall in a straight line: 1k..100k
    #[arg(long, value_name = "FROM..TO", value_parser = parse_ramp, conflicts_with = "flat_out")]
    ramp: Option<(f64, f64)>,

    /// As fast as it goes
    #[arg(long)]
    flat_out: bool,
}

/// Measure round trips at a modest rate
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LatencyArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Packets or requests per second
    #[arg(short = 'R', long, value_name = "N", value_parser = parse_count, default_value = "1k")]
    rate: f64,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CommonArgs {
    /// The one address that is sent to: ADDRESS:PORT, [ADDRESS]:PORT with IPv6
    #[arg(value_name = "TARGET", value_parser = parse_target)]
    target: SocketAddr,

    /// What to send
    #[arg(short, long, value_enum, default_value_t = Protocol::Udp)]
    protocol: Protocol,

    /// The same as --protocol udp
    #[arg(short, long, conflicts_with = "protocol")]
    udp: bool,

    /// Bytes of a frame without FCS, or of a request over TCP [default: 64, or the least that fits]
    #[arg(long, value_name = "BYTES")]
    size: Option<usize>,

    /// Flows, each with a source port of its own; k and M stand for thousands and millions [default: 1k for
    /// load, 16 for latency]
    #[arg(long, value_name = "N", value_parser = parse_whole)]
    flows: Option<u64>,

    /// TCP connections that may be open at the same time [default: 64 for load, 16 for latency]
    #[arg(short, long, value_name = "N", value_parser = parse_whole, conflicts_with = "flows")]
    connections: Option<u64>,

    /// TCP: requests over a connection before it is closed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), default_value_t = 1)]
    requests: u32,

    /// TCP: open all connections first and keep them open
    #[arg(long, conflicts_with = "requests")]
    keep: bool,

    /// TCP: how connections end
    #[arg(long, value_enum, default_value_t = Close::Reset)]
    close: Close,

    /// Few flows have most packets: the flow of rank k has a share proportional to 1/k^S [default: all alike]
    #[arg(long, value_name = "S", value_parser = parse_exponent)]
    zipf: Option<f64>,

    /// How long each run is measured
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    duration: Duration,

    /// How long each run goes on before it is measured
    #[arg(short = 'O', long = "omit", visible_alias = "warm-up", value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    warm_up: Duration,

    /// Packets or requests of a run at most, the warm-up included
    #[arg(long, value_name = "N", value_parser = parse_whole, default_value = "1G")]
    count: u64,

    /// Runs; the median is reported, with the smallest and the largest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100), default_value_t = 1)]
    runs: u32,

    /// How often progress is shown
    #[arg(short, long, value_name = "TIME", value_parser = parse_interval, default_value = "1s")]
    interval: Duration,

    /// How long to wait for answers that are under way at the end; TCP: for each answer
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    timeout: Duration,

    /// Where packets are made
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,

    /// AF_XDP: how to attach to it
    #[arg(long, value_enum, default_value_t = AttachMode::Auto)]
    mode: AttachMode,

    /// AF_XDP: source port of the first flow; the others follow, and belong to this run while it lasts
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..), default_value_t = 10_000)]
    first_port: u16,

    /// Own addresses to send from, in turns [default: what the kernel takes]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    source: Vec<IpAddr>,

    /// Sending threads, each with its share of the flows
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256), default_value_t = 1)]
    threads: u32,

    /// CPU cores of the threads [default: the last ones]
    #[arg(long, value_name = "CORE", value_delimiter = ',')]
    core: Option<Vec<usize>>,

    /// Nothing comes back: measure sending only
    #[arg(long)]
    one_way: bool,

    /// Measure the processor time of this process, the balancer, if it runs on this machine
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    target_pid: Option<i32>,

    /// Let the target be a public address
    #[arg(long)]
    allow_public: bool,

    /// Exit with status 4 if the median of the runs is so: p99>1ms, loss>0.1%, rate<500k; repeatable
    #[arg(long, value_name = "CONDITION")]
    fail_if: Vec<FailIf>,

    /// Write round trips as HdrHistogram's percentile text
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,

    /// Draw round trips by percentile and throughput over time, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// UDP datagrams
    Udp,
    /// Requests over TCP connections of the kernel
    Tcp,
    /// TCP segments that are made here, one handshake for each flow; AF_XDP, and vl3-perf reflect behind
    TcpPackets,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AttachMode {
    /// What works best on this link
    Auto,
    /// XDP in the driver
    Native,
    /// XDP in the kernel's receive path
    Generic,
    /// A veth pair fed by a tc program
    Companion,
}

impl From<AttachMode> for Mode {
    fn from(mode: AttachMode) -> Self {
        match mode {
            AttachMode::Auto => Self::Auto,
            AttachMode::Native => Self::Native,
            AttachMode::Generic => Self::Generic,
            AttachMode::Companion => Self::Companion,
        }
    }
}

/// What a session does with its runs.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) plan: Plan,
    pub(crate) runs: u32,
    pub(crate) fail_if: Vec<FailIf>,
    pub(crate) hgrm: Option<PathBuf>,
    pub(crate) plot: Option<PathBuf>,
    pub(crate) json: bool,
}

impl LoadArgs {
    /// What is asked for.
    ///
    /// # Errors
    ///
    /// Arguments that contradict each other.
    pub(crate) fn request(self) -> Result<Request, Failure> {
        let rate = match (self.ramp, self.flat_out) {
            (Some((from, to)), _) => Rate::Ramp { from, to },
            (None, true) => Rate::FlatOut,
            (None, false) => Rate::Fixed(self.rate.unwrap_or(LOAD_RATE)),
        };
        self.common.request(rate, 1000, 64)
    }
}

impl LatencyArgs {
    /// What is asked for.
    ///
    /// # Errors
    ///
    /// Arguments that contradict each other.
    pub(crate) fn request(self) -> Result<Request, Failure> {
        let rate = Rate::Fixed(self.rate);
        self.common.request(rate, 16, 16)
    }
}

impl CommonArgs {
    fn request(self, rate: Rate, flows: u64, connections: u64) -> Result<Request, Failure> {
        let traffic = match self.protocol {
            Protocol::Udp => Traffic::Udp,
            Protocol::TcpPackets => Traffic::TcpPackets,
            Protocol::Tcp => Traffic::Tcp {
                per_connection: (!self.keep).then_some(self.requests),
                close: self.close,
            },
        };
        if self.duration.is_zero() {
            return Err(Failure::arguments("--duration 0: nothing would be measured"));
        }
        let default = match self.protocol {
            Protocol::Tcp => connections,
            Protocol::Udp | Protocol::TcpPackets => flows,
        };
        let flows = self.connections.or(self.flows).unwrap_or(default);
        let mut plan = Plan {
            target: self.target,
            permit: if self.allow_public {
                Permit::Anywhere
            } else {
                Permit::Private
            },
            traffic,
            engine: self.engine,
            mode: self.mode.into(),
            sources: self.source,
            first_port: self.first_port,
            size: 0,
            flows: u32::try_from(flows).unwrap_or(u32::MAX),
            spread: self.zipf.map_or(Spread::Uniform, Spread::Zipf),
            rate,
            warm_up: self.warm_up,
            duration: self.duration,
            count: self.count,
            threads: self.threads,
            cores: self.core,
            interval: self.interval,
            timeout: self.timeout,
            one_way: self.one_way,
            seed: self.seed,
            target_pid: self.target_pid,
        };
        plan.size = self.size.unwrap_or_else(|| plan.min_size().max(SMALLEST_FRAME));
        plan.check()?;
        Ok(Request {
            plan,
            runs: self.runs,
            fail_if: self.fail_if,
            hgrm: self.hgrm,
            plot: self.plot,
            json: self.json,
        })
    }
}

/// An address, not a name: what a name stands for today is not what the user said.
fn parse_target(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "want ADDRESS:PORT, such as 172.16.1.103:8080 or [2001:db8::67]:8080; a name is not looked up, so that \
         nothing is sent anywhere else: getent hosts NAME tells its address"
            .to_owned()
    })
}

fn parse_ramp(text: &str) -> Result<(f64, f64), String> {
    let (from, to) = text
        .split_once("..")
        .ok_or_else(|| "want FROM..TO, such as 1k..100k".to_owned())?;
    Ok((parse_count(from)?, parse_count(to)?))
}

fn parse_exponent(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|exponent| (0.01..=10.0).contains(exponent))
        .ok_or_else(|| "want 0.01 to 10; 1 is the usual one".to_owned())
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|interval| {
        if interval >= Duration::from_millis(50) {
            Ok(interval)
        } else {
            Err("want at least 50ms".to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;

    fn request(line: &str) -> Result<Request, u8> {
        let words = ["vl3-perf"].into_iter().chain(line.split_whitespace());
        match Args::try_parse_from(words).map_err(|_| 2)?.command {
            Command::Load(args) => args.request(),
            Command::Latency(args) => args.request(),
            other => panic!("{other:?}"),
        }
        .map_err(|failure| failure.code())
    }

    #[test]
    fn defaults_are_bounded() {
        let load = request("load 172.16.1.103:5000").unwrap();
        let plan = load.plan;
        assert_eq!((plan.traffic, plan.size, plan.flows), (Traffic::Udp, 64, 1000));
        assert_eq!(plan.rate, Rate::Fixed(10_000.0));
        assert_eq!(plan.duration, Duration::from_secs(10));
        assert_eq!(plan.count, 1_000_000_000);
        let latency = request("latency [2001:db8::67]:5000").unwrap();
        assert_eq!((latency.plan.size, latency.plan.flows), (84, 16));
        assert_eq!(latency.plan.rate, Rate::Fixed(1_000.0));
    }

    #[test]
    fn rates_are_fixed_a_ramp_or_flat_out() {
        for (flags, rate) in [
            ("-R 500k", Rate::Fixed(500_000.0)),
            (
                "--ramp 1k..2k",
                Rate::Ramp {
                    from: 1000.0,
                    to: 2000.0,
                },
            ),
            ("--flat-out", Rate::FlatOut),
        ] {
            let found = request(&format!("load 10.0.0.1:1 {flags}")).unwrap();
            assert_eq!(found.plan.rate, rate);
        }
    }

    #[test]
    fn connections_are_new_for_each_request_unless_kept() {
        let per_connection = |flags: &str| {
            let found = request(&format!("load 10.0.0.1:1 -p tcp {flags}")).unwrap();
            match found.plan.traffic {
                Traffic::Tcp { per_connection, .. } => (per_connection, found.plan.flows),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(per_connection(""), (Some(1), 64));
        assert_eq!(per_connection("--requests 100 -c 8"), (Some(100), 8));
        assert_eq!(per_connection("--keep -c 10k"), (None, 10_000));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "load",
            "load 10.0.0.1",
            "load finance.vl3-lb:8080",
            "load 9.9.9.9:53",
            "load 224.0.0.1:53",
            "load 255.255.255.255:53",
            "load 10.0.0.1:0",
            "load 10.0.0.1:1 --size 63",
            "load 10.0.0.1:1 --size 9000",
            "load [2001:db8::1]:1 --size 64",
            "load 10.0.0.1:1 --flows 0",
            "load 10.0.0.1:1 --flows 100M",
            "load 10.0.0.1:1 --flows 2 -t 3",
            "load 10.0.0.1:1 -R 0",
            "load 10.0.0.1:1 -R 1k --flat-out",
            "load 10.0.0.1:1 --ramp 1k",
            "load 10.0.0.1:1 -d 0",
            "load 10.0.0.1:1 -i 1ms",
            "load 10.0.0.1:1 -p tcp --engine xdp",
            "load 10.0.0.1:1 -p tcp --one-way",
            "load 10.0.0.1:1 -p tcp --zipf 1",
            "load 10.0.0.1:1 -p tcp-packets --engine socket",
            "load 10.0.0.1:1 --engine xdp -t 2",
            "load 10.0.0.1:1 --source ::1",
            "load 10.0.0.1:1 --fail-if p98>1ms",
            "latency 10.0.0.1:1 --flat-out",
        ] {
            assert_eq!(request(line).map(|_| ()), Err(2), "{line}");
        }
        assert!(request("load 9.9.9.9:53 --allow-public").is_ok());
    }
}
