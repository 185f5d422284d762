//! The command line: queries a running balancer and prints its answer.
//!
//! Data goes to standard output; notes for people go to standard error. Tables show the same JSON that
//! `-o json` prints.

pub mod args;
mod backends;
mod candidates;
mod capture;
mod client;
mod complete;
mod events;
mod exit;
mod flow_events;
mod flows;
mod follow;
mod lookup;
mod profile;
mod services;
mod status;
mod stream;
mod table;
mod terms;
mod top;
mod view;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use crate::api::{Backend, Envelope, EventList, FlowList, Lookup, LookupClient, Service, Status};
use clap::{ArgMatches, CommandFactory, ValueEnum};
use tokio::runtime::Runtime;

use crate::config::{Config, ConfigError, FastPathMode};
use crate::observe::filter::{BackendFilter, EventFilter, FlowFilter, ServiceFilter};
use crate::version;
use args::{
    BackendsArgs, Cli, Command, ConfigArgs, EventsArgs, FlowsArgs, Global, Output, ServicesArgs, StatusArgs,
    TopArgs,
};
use client::{Client, read};
pub use complete::complete;
pub use exit::{Failure, FailureKind};
use follow::{follow_events, follow_flows};
use stream::stream_flows;
use terms::{Query, since};
use view::{View, note, print, print_json};
use vl3lb_common::dataplane::{SHED_BYTES, fast_path_bytes};

/// Events at the end of the view of one service.
const LAST_EVENTS: usize = 5;

/// Executes every command but `run`, which needs a data plane.
///
/// `matches`, from which `cli` was parsed, has the order of the filters.
pub fn execute(cli: &Cli, matches: &ArgMatches) -> Result<(), Failure> {
    let filters = matches
        .subcommand()
        .map_or(Ok(Query::new()), |(_, command)| terms::filters(command))
        .map_err(|error| Failure::new(FailureKind::Refused, error.to_string()))?;
    match &cli.command {
        Command::Run(_) => Err(Failure::new(
            FailureKind::Refused,
            "run: starts a balancer and cannot be queried",
        )),
        Command::Check(args) => check(args),
        Command::Completions { shell } => print(&complete::script(*shell)?),
        Command::Man => man(),
        Command::Status(args) => query(cli, &Request::Status(args)),
        Command::Services(args) => query(cli, &Request::Services(args, filters)),
        Command::Backends(args) => query(cli, &Request::Backends(args, filters)),
        Command::Flows(args) => query(cli, &Request::Flows(args, filters)),
        Command::Events(args) => query(cli, &Request::Events(args, filters)),
        Command::Capture(args) => capture::capture(cli, args, &filters),
        Command::Top(args) => show_top(cli, args),
        Command::Profile(args) => profile::profile(cli, args),
    }
}

/// Reads the configuration as `run` does.
///
/// Errors: every invalid setting, one per line.
pub fn load_config(path: Option<&Path>) -> Result<crate::config::Loaded, Failure> {
    Config::load(path, &|name| std::env::var(name).ok()).map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(ConfigError::to_string).collect();
        Failure::new(FailureKind::Refused, lines.join("\nerror: "))
            .hint("`vl3-lb check --config FILE` validates a configuration and changes nothing")
    })
}

fn check(args: &ConfigArgs) -> Result<(), Failure> {
    let loaded = load_config(args.config.as_deref())?;
    for line in &loaded.notes {
        note(&format!("note: {line}"));
    }
    let ports = loaded.config.nat_ports;
    note(&format!(
        "note: natPorts {}-{} allow {} flows at a time to each backend from each own address, less what programs on this host \
         use",
        ports.first(),
        ports.last(),
        loaded.flows_per_backend
    ));
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let megabytes = |bytes: u64| format!("{:.1} MB of kernel memory", bytes as f64 / 1e6);
    note(&format!(
        "note: shedding of load takes {} while an interface is attached",
        megabytes(SHED_BYTES)
    ));
    let fast_path = loaded.config.fast_path;
    if fast_path.mode == FastPathMode::Auto {
        note(&format!(
            "note: fastPath takes {} for {} flows where it is in use",
            megabytes(fast_path_bytes(fast_path.flows)),
            fast_path.flows
        ));
    }
    if loaded.config.admin.profile {
        note(
            "note: admin.profile takes 70 MB of memory from the first profile on, and once more as much at the end of each",
        );
    }
    print(loaded.config.to_yaml().as_bytes())
}

/// Prints the manual pages: of the program, then of each command.
fn man() -> Result<(), Failure> {
    let mut whole = Cli::command().disable_help_subcommand(true);
    // Gives the commands their full names and the global flags.
    whole.build();
    let mut pages = Vec::new();
    for command in std::iter::once(&whole).chain(whole.get_subcommands()) {
        clap_mangen::Man::new(command.clone())
            .source(format!("vl3-lb {}", version::LONG))
            .render(&mut pages)?;
    }
    print(&pages)
}

/// A query to the balancer.
enum Request<'a> {
    Status(&'a StatusArgs),
    Services(&'a ServicesArgs, Query),
    Backends(&'a BackendsArgs, Query),
    Flows(&'a FlowsArgs, Query),
    Events(&'a EventsArgs, Query),
}

/// Queries once, or with `--watch` repeatedly until Ctrl-C.
fn query(cli: &Cli, request: &Request<'_>) -> Result<(), Failure> {
    let watch = cli.command.watch();
    request.validate(&cli.global, watch)?;
    let (runtime, client) = connect(&cli.global)?;
    let view = View::new(&cli.global);
    runtime.block_on(async {
        let answers = async {
            loop {
                if watch.is_some() && view.terminal {
                    // Moves the cursor home and erases the last screen.
                    print(b"\x1b[H\x1b[2J")?;
                }
                request.answer(&client, view).await?;
                match watch {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => return Ok(()),
                }
            }
        };
        tokio::select! {
            done = answers => done,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(FailureKind::Interrupted, "")),
        }
    })
}

/// Shows the balancer live until the user or a signal ends it.
fn show_top(cli: &Cli, args: &TopArgs) -> Result<(), Failure> {
    top::validate(args, &cli.global)?;
    let (runtime, client) = connect(&cli.global)?;
    let view = View::new(&cli.global);
    runtime.block_on(async {
        if !args.batch {
            // It takes signals itself, to restore the terminal.
            return top::run(&client, args, view).await;
        }
        tokio::select! {
            done = top::run(&client, args, view) => done,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(FailureKind::Interrupted, "")),
        }
    })
}

/// A runtime for queries, and the client of the admin socket.
fn connect(global: &Global) -> Result<(Runtime, Client), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FailureKind::Answered, format!("start the runtime: {error}")))?;
    let client = Client {
        socket: global.socket.clone(),
        timeout: global.timeout,
    };
    Ok((runtime, client))
}

impl Request<'_> {
    /// Checks filters before the query.
    fn validate(&self, global: &Global, watch: Option<Duration>) -> Result<(), Failure> {
        let (mut services, mut backends, mut flows, mut events) = Default::default();
        let filters = match self {
            Self::Status(_) => return Ok(()),
            Self::Services(_, filters)
            | Self::Backends(_, filters)
            | Self::Flows(_, filters)
            | Self::Events(_, filters) => filters,
        };
        if self.follows() {
            follow::validate(global, watch)?;
        }
        for (name, value) in filters {
            let known = match self {
                Self::Status(_) => Ok(true),
                Self::Services(..) => ServiceFilter::add(&mut services, name, value),
                Self::Backends(..) => BackendFilter::add(&mut backends, name, value),
                Self::Flows(..) => FlowFilter::add(&mut flows, name, value),
                Self::Events(..) => EventFilter::add(&mut events, name, value),
            };
            known.map_err(|error| Failure::new(FailureKind::Refused, format!("--{error}")))?;
        }
        Ok(())
    }

    /// Whether the answer is endless.
    const fn follows(&self) -> bool {
        match self {
            Self::Flows(args, _) => args.follow,
            Self::Events(args, _) => args.follow,
            Self::Status(_) | Self::Services(..) | Self::Backends(..) => false,
        }
    }

    async fn answer(&self, client: &Client, view: View) -> Result<(), Failure> {
        match self {
            Self::Status(args) => show_status(client, args, view).await,
            Self::Services(args, filters) => show_services(client, args, filters, view).await,
            Self::Backends(args, filters) => show_backends(client, args, filters, view).await,
            Self::Flows(args, filters) if args.follow => follow_flows(client, args, filters, view).await,
            Self::Flows(args, filters) if args.all => stream_flows(client, filters, view).await,
            Self::Flows(args, filters) => show_flows(client, args, filters, view).await,
            Self::Events(args, filters) if args.follow => follow_events(client, args, filters, view).await,
            Self::Events(args, filters) => show_events(client, args, filters, view).await,
        }
    }
}

async fn show_status(client: &Client, args: &StatusArgs, view: View) -> Result<(), Failure> {
    let document = client.get("/api/v1/status", &[]).await?;
    let answer: Envelope<Status> = read(&document)?;
    let degraded = answer.items.iter().any(Status::degraded);
    match view.format {
        Output::Json | Output::Jsonl => print_json(&document, view.format)?,
        Output::Table | Output::Wide if args.check => {
            for status in &answer.items {
                print(format!("{}\n", status::verdict(status)).as_bytes())?;
            }
        }
        Output::Table | Output::Wide if args.reasons => {
            let drops = answer.items.iter().flat_map(|status| &status.totals.drops);
            print(services::reasons(drops, view).as_bytes())?;
        }
        Output::Table | Output::Wide => print(status::screen(&answer, view).as_bytes())?,
    }
    if args.check && degraded {
        return Err(Failure::new(FailureKind::Degraded, ""));
    }
    Ok(())
}

async fn show_services(
    client: &Client,
    args: &ServicesArgs,
    filters: &Query,
    view: View,
) -> Result<(), Failure> {
    if let Some(asked) = args.lookup {
        return show_lookup(client, lookup::service(args)?, asked, view).await;
    }
    let query = with_sort(filters, args.sort);
    let document = client.get("/api/v1/services", &query).await?;
    if matches!(view.format, Output::Json | Output::Jsonl) {
        return print_json(&document, view.format);
    }
    let answer: Envelope<Service> = read(&document)?;
    // A single service, named exactly, is shown in full.
    let screen = match filters.as_slice() {
        [(_, name)] if args.service.len() == 1 && !name.contains(['*', '!']) => {
            let backends = client.get("/api/v1/backends", filters).await?;
            let limit = ("limit".to_owned(), LAST_EVENTS.to_string());
            let query: Query = filters.iter().cloned().chain([limit]).collect();
            let events = client.get("/api/v1/events", &query).await?;
            services::block(&answer, &read(&backends)?, &read(&events)?, view)
        }
        _ => services::table(&answer, view),
    };
    print(screen.as_bytes())?;
    context(&answer, view);
    Ok(())
}

async fn show_lookup(client: &Client, service: &str, asked: LookupClient, view: View) -> Result<(), Failure> {
    let query = [("service", service.to_owned()), ("client", asked.to_string())];
    let query = query.map(|(name, value)| (name.to_owned(), value));
    let document = client.get("/api/v1/lookup", &query).await?;
    if matches!(view.format, Output::Json | Output::Jsonl) {
        return print_json(&document, view.format);
    }
    let answer: Envelope<Lookup> = read(&document)?;
    print(lookup::screen(&answer, view).as_bytes())
}

async fn show_backends(
    client: &Client,
    args: &BackendsArgs,
    filters: &Query,
    view: View,
) -> Result<(), Failure> {
    let query = with_sort(filters, args.sort);
    let document = client.get("/api/v1/backends", &query).await?;
    if matches!(view.format, Output::Json | Output::Jsonl) {
        return print_json(&document, view.format);
    }
    let answer: Envelope<Backend> = read(&document)?;
    print(backends::table(&answer, view).as_bytes())?;
    context(&answer, view);
    Ok(())
}

async fn show_flows(client: &Client, args: &FlowsArgs, filters: &Query, view: View) -> Result<(), Failure> {
    let mut query = with_sort(filters, args.sort);
    let limit = if args.count { Some(0) } else { args.limit };
    query.extend(limit.map(|limit| ("limit".to_owned(), limit.to_string())));
    let document = client.get("/api/v1/flows", &query).await?;
    let answer: FlowList = read(&document)?;
    for warning in &answer.envelope.warnings {
        note(&format!("warning: {}", warning.text));
    }
    if matches!(view.format, Output::Json | Output::Jsonl) {
        print_json(&document, view.format)?;
    } else if args.count {
        print(format!("{}\n", answer.matched_total).as_bytes())?;
    } else {
        print(flows::table(&answer, view).as_bytes())?;
    }
    if let Some(line) = flows::omission(&answer).filter(|_| !args.count) {
        note(&line);
    }
    Ok(())
}

async fn show_events(client: &Client, args: &EventsArgs, filters: &Query, view: View) -> Result<(), Failure> {
    let limit = args.limit.map(|limit| ("limit".to_owned(), limit.to_string()));
    let query: Query = filters.iter().cloned().chain(since(args)).chain(limit).collect();
    let document = client.get("/api/v1/events", &query).await?;
    if matches!(view.format, Output::Json | Output::Jsonl) {
        return print_json(&document, view.format);
    }
    let answer: EventList = read(&document)?;
    print(events::table(&answer, view).as_bytes())?;
    if let Some(line) = events::omission(&answer) {
        note(&line);
    }
    Ok(())
}

fn with_sort<K: ValueEnum>(filters: &Query, sort: Option<K>) -> Query {
    let key = sort.and_then(|key| key.to_possible_value().map(|value| value.get_name().to_owned()));
    let sort = key.map(|key| ("sort".to_owned(), key));
    filters.iter().cloned().chain(sort).collect()
}

/// On a terminal, notes the window of the rates and the snapshot.
fn context<T>(answer: &Envelope<T>, view: View) {
    if view.terminal {
        let window = answer
            .window_seconds
            .map_or_else(|| "none yet".to_owned(), |seconds| format!("{seconds:.0}s"));
        let snapshot = answer
            .generation
            .map_or_else(|| "none yet".to_owned(), |generation| generation.to_string());
        note(&format!("rates over {window}, snapshot {snapshot}"));
    }
}
