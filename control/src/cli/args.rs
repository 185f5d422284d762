//! The command line: every command and flag.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::candidates;
use super::client::DEFAULT_SOCKET;
use super::lookup;
use super::top::{Order, Pane};
use crate::api::LookupClient;
use crate::config::duration;
use crate::{config, version};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "vl3-lb",
    version = version::LONG,
    about = "Layer-4 load balancer of a vL3 network, on AF_XDP",
    after_help = "Exit status: 0 success, 1 the balancer answered with an error or a named object does not exist, \
                  2 invalid arguments or configuration, 3 balancer unreachable, 4 `status --check`: not ready \
                  or degraded, 130 interrupted by Ctrl-C, 143 `top` ended by SIGTERM or SIGHUP"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Admin socket of the balancer
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Output format
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    pub output: Output,
    /// Same as -o json
    #[arg(long, global = true, conflicts_with = "output")]
    pub json: bool,
    /// Omit the headings
    #[arg(long, global = true)]
    pub no_headers: bool,
    /// Show exact integers instead of three significant digits
    #[arg(long, global = true)]
    pub exact: bool,
    /// When to colour states
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
    /// Limit of the wait for an answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    pub timeout: Duration,
}

impl Command {
    /// The interval at which it is repeated.
    pub const fn watch(&self) -> Option<Duration> {
        match self {
            Self::Status(args) => args.watch.watch,
            Self::Services(args) => args.watch.watch,
            Self::Backends(args) => args.watch.watch,
            Self::Flows(args) => args.watch.watch,
            Self::Events(args) => args.watch.watch,
            _ => None,
        }
    }
}

impl Global {
    /// The output format, `--json` included.
    pub const fn format(&self) -> Output {
        if self.json { Output::Json } else { self.output }
    }
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people
    Table,
    /// More columns for people
    Wide,
    /// One JSON document
    Json,
    /// One JSON object per line
    Jsonl,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    Auto,
    Always,
    Never,
}

/// The command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the balancer
    ///
    /// On SIGTERM it lets open flows finish, for the longest drain time of a service, but 20 s at most. A
    /// second SIGTERM stops it at once. SIGUSR1 sets the log level to trace, SIGUSR2 to the configured one.
    Run(ConfigArgs),
    /// Validate a configuration and print it with all defaults
    Check(ConfigArgs),
    /// Show the state of the balancer
    Status(StatusArgs),
    /// Show services
    Services(ServicesArgs),
    /// Show backends
    Backends(BackendsArgs),
    /// Show flows
    Flows(FlowsArgs),
    /// Show events: changes of state
    Events(EventsArgs),
    /// Capture packets with their verdicts, before and after translation
    ///
    /// Prints a line per packet, or writes a pcapng file for Wireshark and tcpdump. Ends by itself. Captured flows are
    /// forwarded by the workers instead of the kernel meanwhile; a capture that falls behind loses packets of its
    /// own, which it counts, and none of the traffic.
    Capture(CaptureArgs),
    /// Show services, backends, drops and events live on one screen
    ///
    /// `?` lists the keys. Without a terminal, --batch prints blocks of text.
    Top(TopArgs),
    /// Show which functions of the balancer take CPU time, or write a profile for `go tool pprof`
    ///
    /// Needs `admin: {profile: true}` in the balancer's configuration. Samples are taken 100 times per second of CPU time, and
    /// traffic goes on meanwhile.
    Profile(ProfileArgs),
    /// Print a completion script for the shell to source: source <(vl3-lb completions bash)
    Completions { shell: Shell },
    /// Print the manual pages: of vl3-lb, then of each command
    Man,
}

/// Shells with a completion script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Sources of the configuration.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// Configuration file; NSM_* variables override it
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log format; overrides the configuration
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Log formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON lines otherwise
    Auto,
    Text,
    Json,
}

impl From<LogFormat> for config::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Auto => Self::Auto,
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

/// Arguments of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Print one line and exit with 4 if not ready or degraded
    #[arg(long, conflicts_with = "reasons")]
    pub check: bool,
    /// Print the drop reasons with their counts and remedies
    #[arg(long)]
    pub reasons: bool,
    #[command(flatten)]
    pub watch: Watch,
}

/// Arguments of `services`.
#[derive(Debug, Clone, Args)]
#[command(after_help = FILTER_HELP)]
pub struct ServicesArgs {
    /// Names of services; `*` is a wildcard. A single name shows that service in full
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(candidates::services))]
    pub service: Vec<String>,
    /// State: down, degraded or ok
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,
    #[command(flatten)]
    pub not: Not,
    /// Sort key; by default state, then name
    #[arg(long, value_enum, value_name = "KEY")]
    pub sort: Option<ServiceSort>,
    /// Show which backend a new flow of this client would get, and why; the service is named exactly
    #[arg(long, value_name = "CLIENT[:PORT]", value_parser = lookup::client, conflicts_with_all = ["state", "not", "sort"])]
    pub lookup: Option<LookupClient>,
    #[command(flatten)]
    pub watch: Watch,
}

/// Orders of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceSort {
    Flows,
    New,
    Pps,
    Bps,
    Drops,
    Name,
}

/// Arguments of `backends`.
#[derive(Debug, Clone, Args)]
#[command(after_help = FILTER_HELP)]
pub struct BackendsArgs {
    /// Name of a service; `*` is a wildcard
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(candidates::services))]
    pub service: Vec<String>,
    /// State: down, draining, unknown or up
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,
    /// Name of a Kubernetes node; `*` is a wildcard
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(candidates::nodes))]
    pub node: Vec<String>,
    #[command(flatten)]
    pub not: Not,
    /// Sort key; by default state, then service and address
    #[arg(long, value_enum, value_name = "KEY")]
    pub sort: Option<BackendSort>,
    #[command(flatten)]
    pub watch: Watch,
}

/// Orders of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendSort {
    Flows,
    New,
    Pps,
    Bps,
    Failures,
    Service,
}

/// Arguments of `flows`.
#[derive(Debug, Clone, Args)]
#[command(after_help = FILTER_HELP)]
pub struct FlowsArgs {
    #[command(flatten)]
    pub ends: Ends,
    /// Source port towards the backend
    #[arg(long, value_name = "PORT")]
    pub nat_port: Vec<String>,
    /// State: opening, established, unreplied, half_closed, closing or reset
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,
    /// Opened at least this long ago
    #[arg(long, value_name = "DURATION")]
    pub older: Vec<String>,
    /// Idle for at least this long
    #[arg(long, value_name = "DURATION")]
    pub idle: Vec<String>,
    /// Number of a worker
    #[arg(long, value_name = "NUMBER")]
    pub worker: Vec<String>,
    #[command(flatten)]
    pub not: Not,
    /// Sort key; by default the newest activity first
    #[arg(long, value_enum, value_name = "KEY", conflicts_with = "all")]
    pub sort: Option<FlowSort>,
    /// Number of flows to show [default: 100]; with --follow, number of flow events to wait for
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<usize>,
    /// Stream all flows, unsorted
    #[arg(long, conflicts_with_all = ["limit", "count"])]
    pub all: bool,
    /// Print only the number of flows
    #[arg(long)]
    pub count: bool,
    /// Follow flows as they open and close, with the cause, until Ctrl-C
    #[arg(short, long, conflicts_with_all = ["sort", "all", "count"])]
    pub follow: bool,
    #[command(flatten)]
    pub watch: Watch,
}

/// Filters of `flows` and `capture`: the two ends of a flow.
#[derive(Debug, Clone, Args)]
pub struct Ends {
    /// Name of a service; `*` is a wildcard
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(candidates::services))]
    pub service: Vec<String>,
    /// Address of a backend, with or without port
    #[arg(long, value_name = "ADDRESS[:PORT]", add = ArgValueCompleter::new(candidates::backends))]
    pub backend: Vec<String>,
    /// Address or network of the client
    #[arg(long, value_name = "CIDR")]
    pub client: Vec<String>,
    /// Port of the service
    #[arg(long, value_name = "PORT")]
    pub port: Vec<String>,
    /// Protocol: TCP, UDP or SCTP
    #[arg(long, value_name = "PROTOCOL")]
    pub proto: Vec<String>,
}

/// Orders of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FlowSort {
    Age,
    Idle,
    Bytes,
    Packets,
}

/// Arguments of `events`.
#[derive(Debug, Clone, Args)]
#[command(after_help = FILTER_HELP)]
pub struct EventsArgs {
    /// Follow new events until Ctrl-C
    #[arg(short, long, conflicts_with = "limit")]
    pub follow: bool,
    /// Maximum age of events; 0s with --follow shows only new ones
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub since: Option<Duration>,
    /// Name of a service; `*` is a wildcard
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(candidates::services))]
    pub service: Vec<String>,
    #[command(flatten)]
    pub not: Not,
    /// Number of newest events to show
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<usize>,
    #[command(flatten)]
    pub watch: Watch,
}

/// Arguments of `capture`.
#[derive(Debug, Clone, Args)]
#[command(after_help = CAPTURE_HELP)]
pub struct CaptureArgs {
    /// Write pcapng to this file, or to standard output if it is `-`
    #[arg(short = 'w', long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// End after so many packets; 0: no limit
    #[arg(short, long, value_name = "NUMBER", default_value_t = 100)]
    pub count: u64,
    /// End after this time, an hour at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    pub duration: Duration,
    #[command(flatten)]
    pub ends: Ends,
    /// Only packets that were not forwarded, for this reason or for any
    #[arg(long, value_name = "REASON", num_args = 0..=1, default_missing_value = "any")]
    pub drops: Vec<String>,
    #[command(flatten)]
    pub not: Not,
    /// Which image of a packet: as it came in, as it left, or both
    #[arg(long, value_enum, value_name = "POINT", default_value_t = CapturePoint::Both)]
    pub at: CapturePoint,
    /// Bytes of a packet to capture at most, 54 to 9216
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub snaplen: u32,
    /// Capture payload, too, and not only headers
    #[arg(long)]
    pub payload: bool,
    /// Capture one flow in so many, with all its packets
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: u32,
    /// Largest file; the capture ends before it is exceeded
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = super::capture::size)]
    pub max_size: u64,
}

/// Images of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CapturePoint {
    In,
    Out,
    Both,
}

impl CapturePoint {
    /// The value in a request.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "both",
        }
    }
}

/// The flag that repeats a command.
#[derive(Debug, Clone, Copy, Args)]
pub struct Watch {
    /// Repeat at this interval [default: 1s]
    #[arg(short, long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "1s",
          require_equals = true, value_parser = duration::parse)]
    pub watch: Option<Duration>,
}

/// Arguments of `top`.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// Print blocks of text, for scripts and logs; needs no terminal
    #[arg(short, long)]
    pub batch: bool,
    /// Number of blocks [default: no limit]. Rates are unknown in the first one
    #[arg(short = 'n', long, value_name = "NUMBER", requires = "batch", value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: Option<u32>,
    /// Time between two samples, 100ms to 1h: rates are over this time
    #[arg(short, long, value_name = "INTERVAL", default_value = "1s", value_parser = sample_delay)]
    pub delay: Duration,
    /// Table to begin with
    #[arg(long, value_enum, value_name = "TABLE", default_value_t = Pane::Services)]
    pub pane: Pane,
    /// Sort key to begin with
    #[arg(long, value_enum, value_name = "KEY", default_value_t = Order::State)]
    pub sort: Order,
    /// Reverse the order
    #[arg(long)]
    pub reverse: bool,
    /// Show only names with this part; of backends, also addresses and pods
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub filter: String,
    /// One line per worker
    #[arg(long)]
    pub workers: bool,
}

/// Arguments of `profile`.
#[derive(Debug, Clone, Args)]
#[command(after_help = PROFILE_HELP)]
pub struct ProfileArgs {
    /// Time to sample, 1s to 2m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::profile::duration)]
    pub duration: Duration,
    /// Write the profile to this file, or to standard output if it is `-`
    #[arg(short = 'w', long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Number of functions to show
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub limit: usize,
}

/// Parses the time between two samples. Shorter ones would load the balancer, which builds a report for each.
fn sample_delay(text: &str) -> Result<Duration, String> {
    let delay = duration::parse(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&delay) {
        Ok(delay)
    } else {
        Err(format!("{text}: allowed 100ms to 1h"))
    }
}

/// The flag that negates the filter after it.
#[derive(Debug, Clone, Args)]
pub struct Not {
    /// Negate the next filter
    #[arg(long = "not", action = clap::ArgAction::Append, num_args = 0, default_missing_value = "true")]
    pub not: Vec<bool>,
}

const CAPTURE_HELP: &str = "A filter given twice accepts either value; different filters must all match; --not negates \
                            the next filter. ICMP messages and later fragments have no ports: find them by --client and \
                            --backend addresses.\n\n\
                            kubectl exec POD -- vl3-lb capture -c 0 -w - | wireshark -k -i -";
const PROFILE_HELP: &str = "SELF is the time in the function itself, TOTAL that with what it calls.\n\n\
                            kubectl exec POD -- vl3-lb profile -w - >vl3-lb.pb && go tool pprof -http :8000 vl3-lb.pb";
const FILTER_HELP: &str = "A filter given twice accepts either value; different filters must all match; --not negates \
                           the next filter.";
