//! The command line: every command and flag.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::complete;
use crate::{config, version};

/// Where the balancer answers unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/vl3-lb/admin.sock";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "vl3-lb",
    version = version::LONG,
    about = "Layer-4 load balancer of a vL3 network, on AF_XDP",
    after_help = "Exit codes: 0 done, 1 the balancer answered with an error or a named object does not exist, \
                  2 refused arguments or configuration, 3 balancer unreachable, 4 `status --check`: not ready \
                  or degraded, 130 after Ctrl-C"
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
    /// The same as -o json
    #[arg(long, global = true, conflicts_with = "output")]
    pub json: bool,
    /// Leave out the line of headings
    #[arg(long, global = true)]
    pub no_headers: bool,
    /// Show integers instead of three digits
    #[arg(long, global = true)]
    pub exact: bool,
    /// Colour of states
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
    /// Repeat, every second or as told
    #[arg(short, long, global = true, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "1s",
          require_equals = true, value_parser = duration)]
    pub watch: Option<Duration>,
    /// Longest wait for an answer
    #[arg(long, global = true, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub timeout: Duration,
}

impl Global {
    /// The output format, with `--json` counted in.
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
    /// One JSON object a line
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

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Balance until told to stop
    ///
    /// SIGTERM lets open flows finish: for the longest drain time of a service, 20 s at most. A second
    /// one ends at once. SIGUSR1 logs everything, SIGUSR2 as configured.
    Run(ConfigArgs),
    /// Validate a configuration and print it resolved
    Check(ConfigArgs),
    /// Show the balancer as a whole
    Status(StatusArgs),
    /// Show services
    Services(ServicesArgs),
    /// Show backends
    Backends(BackendsArgs),
    /// Show flows
    Flows(FlowsArgs),
    /// Show changes of state
    Events(EventsArgs),
    /// Print shell completions, to be sourced by the shell: source <(vl3-lb completions bash)
    Completions { shell: Shell },
    /// Print the manual pages: of the whole, then of each command
    Man,
}

/// Shells that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Where the configuration comes from.
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
}

/// Arguments of `services`.
#[derive(Debug, Clone, Args)]
#[command(after_help = FILTER_HELP)]
pub struct ServicesArgs {
    /// Names of services; `*` is a wildcard. One name alone shows that service in full
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::services))]
    pub service: Vec<String>,
    /// down, degraded or ok
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,
    #[command(flatten)]
    pub not: Not,
    /// Order; by default by state, then name
    #[arg(long, value_enum, value_name = "KEY")]
    pub sort: Option<ServiceSort>,
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
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(complete::services))]
    pub service: Vec<String>,
    /// down, draining, unknown or up
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,
    /// Name of a Kubernetes node; `*` is a wildcard
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(complete::nodes))]
    pub node: Vec<String>,
    #[command(flatten)]
    pub not: Not,
    /// Order; by default by state, then service and address
    #[arg(long, value_enum, value_name = "KEY")]
    pub sort: Option<BackendSort>,
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
    /// Name of a service; `*` is a wildcard
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(complete::services))]
    pub service: Vec<String>,
    /// Address of a backend, with or without port
    #[arg(long, value_name = "ADDRESS[:PORT]", add = ArgValueCompleter::new(complete::backends))]
    pub backend: Vec<String>,
    /// Address or network of clients
    #[arg(long, value_name = "CIDR")]
    pub client: Vec<String>,
    /// Port of the service
    #[arg(long, value_name = "PORT")]
    pub port: Vec<String>,
    /// Source port towards the backend
    #[arg(long, value_name = "PORT")]
    pub nat_port: Vec<String>,
    /// TCP or UDP
    #[arg(long, value_name = "PROTOCOL")]
    pub proto: Vec<String>,
    /// opening, established, unreplied, half_closed, closing or reset
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,
    /// Opened at least so long ago
    #[arg(long, value_name = "DURATION")]
    pub older: Vec<String>,
    /// Silent for at least so long
    #[arg(long, value_name = "DURATION")]
    pub idle: Vec<String>,
    /// Number of a worker
    #[arg(long, value_name = "NUMBER")]
    pub worker: Vec<String>,
    #[command(flatten)]
    pub not: Not,
    /// Order of the shown part; by default the newest activity first
    #[arg(long, value_enum, value_name = "KEY", conflicts_with = "all")]
    pub sort: Option<FlowSort>,
    /// Flows to show, at most [default: 100]; with --follow the number of opens and closes to wait for
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<usize>,
    /// Stream all flows, in no order
    #[arg(long, conflicts_with_all = ["limit", "count"])]
    pub all: bool,
    /// Print the number of flows
    #[arg(long)]
    pub count: bool,
    /// Show flows as they open and close, with the cause, until Ctrl-C
    #[arg(short, long, conflicts_with_all = ["sort", "all", "count"])]
    pub follow: bool,
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
    /// Go on with each new event until Ctrl-C
    #[arg(short, long, conflicts_with = "limit")]
    pub follow: bool,
    /// Only events of so long ago; with 0s and --follow only new ones
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,
    /// Name of a service; `*` is a wildcard
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(complete::services))]
    pub service: Vec<String>,
    #[command(flatten)]
    pub not: Not,
    /// Only so many of the newest
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<usize>,
}

/// The flag that negates the filter after it.
#[derive(Debug, Clone, Args)]
pub struct Not {
    /// Negate the next filter
    #[arg(long = "not", action = clap::ArgAction::Append, num_args = 0, default_missing_value = "true")]
    pub not: Vec<bool>,
}

const FILTER_HELP: &str = "The same filter twice means either, different filters mean both, --not negates the next \
                           one.";

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; want a duration such as 500ms, 5s or 1m"))
}
