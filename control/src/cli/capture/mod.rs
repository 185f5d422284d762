//! `vl3-lb capture`: packets with their verdicts, as lines or as a file for Wireshark.

mod line;
mod pcapng;

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;
use vl3lb_common::Duration;

use super::args::{CaptureArgs, Cli, Output};
use super::client::{Client, lines_of, read};
use super::connect;
use super::exit::{Failure, FailureKind};
use super::terms::Query;
use super::view::{note, print};
use crate::api::{CaptureCounts, CaptureEvent};
use crate::config::{ConfigError, duration};
use crate::number::grouped;
use crate::observe::filter::PacketFilter;
use pcapng::Writer;

/// The balancer says something at least once a second, so a longer silence is its end.
const SILENCE: Duration = Duration::from_secs(30);

/// The nice value of this process: sched(7).
const LOWEST_PRIORITY: i32 = 19;

/// A text that is not a size.
#[derive(Debug, Error)]
#[error("allowed: a number of bytes, or one with KiB, MiB or GiB")]
pub(super) struct SizeError;

/// A size such as `64MiB`.
pub(super) fn size(text: &str) -> Result<u64, SizeError> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(SizeError),
    };
    let number: u64 = digits.parse().map_err(|_| SizeError)?;
    number
        .checked_mul(1 << unit)
        .filter(|&size| size > 0)
        .ok_or(SizeError)
}

/// Where packets go.
enum Target {
    Lines,
    /// As received.
    Json,
    File(Box<Writer<Box<dyn Write>>>),
}

/// Checks filters before the query.
fn validate(args: &CaptureArgs, cli: &Cli, filters: &Query) -> Result<(), Failure> {
    let refused = |error: String| Failure::new(FailureKind::Refused, error);
    let mut filter = PacketFilter::default();
    for (name, value) in filters {
        let known = filter.add(name, value);
        known.map_err(|error: ConfigError| refused(format!("--{error}")))?;
    }
    match cli.global.format() {
        Output::Json => Err(refused(
            "capture: -o jsonl writes one object per line; a JSON document would be one at the end"
                .to_owned(),
        )),
        Output::Jsonl if args.write.is_some() => Err(refused(
            "capture: -w writes pcapng, and -o jsonl something else; choose one".to_owned(),
        )),
        _ if args.write.as_deref() == Some(Path::new("-")) && std::io::stdout().is_terminal() => {
            Err(refused(
                "capture: -w - writes pcapng to standard output, which is a terminal; pipe it into a program"
                    .to_owned(),
            ))
        }
        _ => Ok(()),
    }
}

/// Captures until the balancer ends it, the file is full, or Ctrl-C.
pub(super) fn capture(cli: &Cli, args: &CaptureArgs, filters: &Query) -> Result<(), Failure> {
    validate(args, cli, filters)?;
    // On a busy machine the capture loses packets, and the balancer does not. It needs no permission.
    rustix::process::nice(LOWEST_PRIORITY).ok();
    let (runtime, client) = connect(&cli.global)?;
    runtime.block_on(follow(cli, args, &client, filters))
}

async fn follow(cli: &Cli, args: &CaptureArgs, client: &Client, filters: &Query) -> Result<(), Failure> {
    let mut lines = client
        .lines("/api/v1/capture", &query(args, filters))
        .await?
        .with_idle_limit(SILENCE);
    let mut target = target(cli, args)?;
    let mut counts = CaptureCounts::default();
    let mut captured = 0;
    // Later signals end the program as usual if it hangs.
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let end = loop {
        let part = tokio::select! {
            part = lines.next() => match part {
                Ok(Some(part)) => part,
                Ok(None) => break Err(client.cut_short()),
                Err(error) => break Err(error),
            },
            _ = &mut interrupted => break Err(Failure::new(FailureKind::Interrupted, "")),
        };
        if let Target::Json = target {
            print(&part)?;
        }
        let mut text = String::new();
        let mut is_over = false;
        for line in lines_of(&part) {
            let event = read::<CaptureEvent>(line)?;
            if let Target::File(file) = &mut target {
                is_over |= !file.event(&event).map_err(|error| cannot_write(args, &error))?;
            }
            match event {
                CaptureEvent::Start(_) => {}
                CaptureEvent::Packet(packet) => {
                    captured += 1;
                    if let Target::Lines = target {
                        text += &line::line(&packet);
                    }
                }
                CaptureEvent::Progress { counts: newest, .. } => {
                    let lost = newest.lost_total - counts.lost_total;
                    if lost > 0 {
                        note(&format!(
                            "{} packets were not captured: more match than can be copied; filter them, or --sample N",
                            grouped(lost)
                        ));
                    }
                    counts = newest;
                }
                CaptureEvent::End { counts: last, .. } => {
                    counts = last;
                    is_over = true;
                }
            }
            if is_over {
                break;
            }
        }
        print(text.as_bytes())?;
        if is_over {
            break Ok(());
        }
    };
    if let Target::File(file) = target {
        file.finish(&counts).map_err(|error| cannot_write(args, &error))?;
    }
    note(&format!(
        "{} captured, {} lost, {} matched",
        grouped(captured),
        grouped(counts.lost_total),
        grouped(counts.matched_total.max(captured))
    ));
    end
}

fn target(cli: &Cli, args: &CaptureArgs) -> Result<Target, Failure> {
    let Some(path) = &args.write else {
        return Ok(match cli.global.format() {
            Output::Jsonl | Output::Json => Target::Json,
            Output::Table | Output::Wide => Target::Lines,
        });
    };
    let output: Box<dyn Write> = if path == Path::new("-") {
        Box::new(std::io::stdout())
    } else {
        Box::new(BufWriter::new(
            File::create(path).map_err(|error| cannot_write(args, &error))?,
        ))
    };
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    Ok(Target::File(Box::new(Writer::new(
        output,
        command,
        args.max_size,
    ))))
}

fn cannot_write(args: &CaptureArgs, error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return Failure::new(FailureKind::OutputClosed, "");
    }
    let path = args.write.clone().unwrap_or_else(|| PathBuf::from("-"));
    Failure::new(
        FailureKind::Answered,
        format!("write {}: {error}", path.display()),
    )
}

fn query(args: &CaptureArgs, filters: &Query) -> Query {
    let mut query = filters.clone();
    let mut add = |name: &str, value: String| query.push((name.to_owned(), value));
    if args.count > 0 {
        add("count", args.count.to_string());
    }
    add("duration", duration::format(args.duration));
    add("snaplen", args.snaplen.to_string());
    add("payload", args.payload.to_string());
    add("sample", args.sample.to_string());
    add("at", args.at.name().to_owned());
    query
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        for (text, want) in [
            ("1500", Some(1_500)),
            ("64MiB", Some(64 << 20)),
            ("2KiB", Some(2_048)),
            ("1GiB", Some(1 << 30)),
            ("0", None),
            ("64MB", None),
            ("-1", None),
            ("", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(size(text).ok(), want, "{text}");
        }
    }
}
