//! `vl3-lb profile`: the functions that take most CPU time, or a file for `go tool pprof`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::time::Duration;

use prost::Message;

use super::args::{Cli, Output, ProfileArgs};
use super::client::Client;
use super::connect;
use super::exit::{Failure, FailureKind};
use super::table::{Listing, number, text};
use super::view::{View, note, print};
use crate::number::{latency, percent};
use crate::profile::proto::{Profile, Sample};

/// Parses the time of a profile, which the balancer counts in seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = crate::config::duration::parse(text).map_err(|error| error.to_string())?;
    let range = crate::profile::SECONDS;
    if duration.subsec_nanos() == 0 && range.contains(&duration.as_secs()) {
        Ok(duration)
    } else {
        Err(format!(
            "{text}: allowed {}s to {}s, in whole seconds",
            range.start(),
            range.end()
        ))
    }
}

/// Takes a profile and shows or writes it.
pub(super) fn profile(cli: &Cli, args: &ProfileArgs) -> Result<(), Failure> {
    if matches!(cli.global.format(), Output::Json | Output::Jsonl) {
        return Err(Failure::new(FailureKind::Refused, "profile: shows no JSON")
            .hint("`-w FILE` writes the whole profile, which `go tool pprof -raw FILE` prints"));
    }
    let (runtime, client) = connect(&cli.global)?;
    let client = Client {
        timeout: client.timeout + args.duration,
        ..client
    };
    let query = [("seconds".to_owned(), args.duration.as_secs().to_string())];
    let encoded = runtime.block_on(async {
        tokio::select! {
            taken = client.get("/debug/pprof/profile", &query) => taken,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(FailureKind::Interrupted, "")),
        }
    })?;
    let profile = Profile::decode(encoded.clone()).map_err(|error| {
        Failure::new(
            FailureKind::Answered,
            format!("read the balancer's profile: {error}"),
        )
    })?;
    let totals = Totals::of(&profile);
    if let Some(path) = &args.write {
        write(path, &encoded)?;
    } else {
        print(totals.table(args.limit, View::new(&cli.global)).as_bytes())?;
    }
    note(&totals.summary());
    Ok(())
}

fn write(path: &Path, encoded: &[u8]) -> Result<(), Failure> {
    if path == Path::new("-") {
        return print(encoded);
    }
    std::fs::write(path, encoded).map_err(|error: io::Error| {
        Failure::new(
            FailureKind::Answered,
            format!("write {}: {error}", path.display()),
        )
    })
}

/// CPU time of functions, in nanoseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Time {
    /// In the function itself.
    own: i64,
    /// With what it calls.
    total: i64,
}

/// What a profile says about each function and thread.
#[derive(Debug)]
struct Totals {
    functions: HashMap<String, Time>,
    threads: BTreeMap<String, i64>,
    cpu: i64,
    duration: i64,
}

impl Totals {
    fn of(profile: &Profile) -> Self {
        let mut totals = Self {
            functions: HashMap::new(),
            threads: BTreeMap::new(),
            cpu: 0,
            duration: profile.duration_nanos,
        };
        let text = |index: i64| {
            let text = usize::try_from(index)
                .ok()
                .and_then(|at| profile.string_table.get(at));
            text.cloned().unwrap_or_default()
        };
        let names: HashMap<u64, i64> = profile
            .function
            .iter()
            .map(|function| (function.id, function.name))
            .collect();
        // The names of each frame, the innermost one first.
        let frames: HashMap<u64, Vec<String>> = profile
            .location
            .iter()
            .map(|location| {
                let lines = location.line.iter();
                let names = lines.map(|line| text(names.get(&line.function_id).copied().unwrap_or(0)));
                (location.id, names.collect())
            })
            .collect();
        for Sample {
            location_id,
            value,
            label,
        } in &profile.sample
        {
            let spent = value.get(1).copied().unwrap_or(0);
            totals.cpu += spent;
            for label in label {
                *totals.threads.entry(text(label.text)).or_default() += spent;
            }
            let stack = location_id.iter().filter_map(|id| frames.get(id)).flatten();
            // One that calls itself counts once.
            let mut seen = HashSet::new();
            for (depth, name) in stack.enumerate() {
                let time = totals.functions.entry(name.clone()).or_default();
                if depth == 0 {
                    time.own += spent;
                }
                if seen.insert(name) {
                    time.total += spent;
                }
            }
        }
        totals
    }

    /// The functions that took most time themselves.
    fn table(&self, limit: usize, view: View) -> String {
        let columns = [
            number("SELF"),
            number("SELF%"),
            number("TOTAL"),
            number("TOTAL%"),
            text("FUNCTION"),
        ];
        let mut listing = Listing::new(&columns, &[], view);
        let mut functions: Vec<_> = self.functions.iter().collect();
        functions.sort_by_key(|&(name, time)| (-time.own, -time.total, name));
        for (name, time) in functions.into_iter().take(limit) {
            let row = vec![
                shown(time.own).into(),
                percent(self.share(time.own)).into(),
                shown(time.total).into(),
                percent(self.share(time.total)).into(),
                name.as_str().into(),
            ];
            listing.push(row, Vec::new());
        }
        listing.take_lines()
    }

    /// `12.3s of CPU time in 30.0s: worker-0 9.1s, ...`
    fn summary(&self) -> String {
        let mut threads: Vec<_> = self.threads.iter().collect();
        threads.sort_by_key(|&(name, spent)| (-spent, name));
        let mut line = format!("{} of CPU time in {}", shown(self.cpu), shown(self.duration));
        for (index, (name, &spent)) in threads.into_iter().enumerate() {
            let separator = if index == 0 { ": " } else { ", " };
            write!(line, "{separator}{name} {}", shown(spent)).expect("a string takes all");
        }
        line
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    fn share(&self, spent: i64) -> Option<f64> {
        (self.cpu > 0).then(|| spent as f64 / self.cpu as f64)
    }
}

/// A time in nanoseconds, as text.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn shown(nanos: i64) -> String {
    match nanos {
        0 => "0".to_owned(),
        _ => latency(Some(nanos as f64 / 1e9)),
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::tests::TABLE;
    use crate::profile::proto::{Function, Label, Line, Location};

    use super::*;

    /// `main` calls `work`, into which `inner` is inlined, and which calls itself.
    fn profile() -> Profile {
        let texts = ["", "thread", "worker-0", "vl3lb-control", "main", "work", "inner"];
        let function = |id, name| Function {
            id,
            name,
            ..Function::default()
        };
        let line = |function_id| Line { function_id, line: 0 };
        let sample = |location_id: &[u64], spent, thread| Sample {
            location_id: location_id.to_vec(),
            value: vec![spent / 10_000_000, spent],
            label: vec![Label { key: 1, text: thread }],
        };
        Profile {
            string_table: texts.map(str::to_owned).to_vec(),
            function: vec![function(1, 4), function(2, 5), function(3, 6)],
            location: vec![
                Location {
                    id: 1,
                    mapping_id: 1,
                    line: vec![line(1)],
                },
                Location {
                    id: 2,
                    mapping_id: 1,
                    line: vec![line(3), line(2)],
                },
            ],
            sample: vec![
                sample(&[2, 2, 1], 3_000_000_000, 2),
                sample(&[1], 1_000_000_000, 3),
            ],
            duration_nanos: 10_000_000_000,
            ..Profile::default()
        }
    }

    #[test]
    fn functions_have_their_own_time_and_that_of_what_they_call() {
        let totals = Totals::of(&profile());
        assert_eq!(
            totals.table(20, TABLE),
            "SELF  SELF%  TOTAL  TOTAL%  FUNCTION\n\
             3.0s    75%   3.0s     75%  inner\n\
             1.0s    25%   4.0s    100%  main\n   \
             0     0%   3.0s     75%  work\n"
        );
        assert_eq!(totals.table(1, TABLE).lines().count(), 2);
        assert_eq!(
            totals.summary(),
            "4.0s of CPU time in 10.0s: worker-0 3.0s, vl3lb-control 1.0s"
        );
    }

    #[test]
    fn a_profile_without_samples_is_an_empty_table() {
        let totals = Totals::of(&Profile::default());
        assert_eq!(totals.table(20, TABLE).lines().count(), 1);
    }

    #[test]
    fn a_profile_lasts_whole_seconds() {
        for (text, want) in [
            ("30s", Some(30)),
            ("2m", Some(120)),
            ("1500ms", None),
            ("0s", None),
            ("3m", None),
        ] {
            assert_eq!(duration(text).ok().map(|time| time.as_secs()), want, "{text}");
        }
    }
}
