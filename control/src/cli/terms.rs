//! Filters of a command line, in their order.

use clap::ArgMatches;
use thiserror::Error;

use super::args::EventsArgs;
use crate::config::duration;

/// The clap ids of all filters; query parameters have `-` for `_`.
const FILTERS: [&str; 12] = [
    "service", "backend", "client", "port", "nat_port", "proto", "state", "node", "older", "idle", "worker",
    "drops",
];

/// A `--not` without a filter after it.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("--not: no filter follows")]
pub(super) struct DanglingNot;

/// Query parameters: names and values, in order.
pub(super) type Query = Vec<(String, String)>;

/// The filters of a command as query parameters; `--not` puts `!` before the value of the next one.
///
/// Errors: a `--not` without a filter after it.
pub(super) fn filters(matches: &ArgMatches) -> Result<Query, DanglingNot> {
    let mut terms: Vec<(usize, String, String)> = FILTERS
        .iter()
        .flat_map(|&filter| {
            occurrences::<String>(matches, filter)
                .map(move |(at, value)| (at, filter.replace('_', "-"), value.clone()))
        })
        .collect();
    terms.sort_by_key(|&(at, ..)| at);
    for (not, _) in occurrences::<bool>(matches, "not") {
        let next = terms.iter_mut().find(|&&mut (at, ..)| at > not);
        let Some((.., value)) = next else {
            return Err(DanglingNot);
        };
        value.insert(0, '!');
    }
    Ok(terms.into_iter().map(|(_, name, value)| (name, value)).collect())
}

/// The maximum age of events as a query parameter.
pub(super) fn since(args: &EventsArgs) -> Option<(String, String)> {
    Some(("since".to_owned(), duration::format(args.since?)))
}

/// Each value of an argument with its index on the command line.
fn occurrences<'a, T: Clone + Send + Sync + 'static>(
    matches: &'a ArgMatches,
    id: &str,
) -> impl Iterator<Item = (usize, &'a T)> {
    // A command without this argument has no values of it.
    let values = matches.try_get_many::<T>(id).ok().flatten();
    let places = values.is_some().then(|| matches.indices_of(id)).flatten();
    places.into_iter().flatten().zip(values.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Cli;

    fn parsed(line: &str) -> Result<Query, DanglingNot> {
        let matches = Cli::command()
            .try_get_matches_from(line.split_whitespace())
            .expect(line);
        filters(matches.subcommand().expect(line).1)
    }

    #[test]
    fn filters_become_query_parameters_in_order() {
        for (line, want) in [
            ("vl3-lb flows", ""),
            (
                "vl3-lb flows --state opening --nat-port 7 --state reset",
                "state=opening&nat-port=7&state=reset",
            ),
            (
                "vl3-lb flows --not --state opening --not --client=10.0.0.0/8 --worker 1",
                "state=!opening&client=!10.0.0.0/8&worker=1",
            ),
            (
                "vl3-lb services finance --not dns* --state down",
                "service=finance&service=!dns*&state=down",
            ),
            ("vl3-lb backends --service finance", "service=finance"),
            ("vl3-lb status", ""),
        ] {
            let query = parsed(line).unwrap();
            let text: Vec<_> = query
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            assert_eq!(text.join("&"), want, "{line}");
        }
    }

    #[test]
    fn a_trailing_not_is_an_error() {
        assert!(parsed("vl3-lb flows --state reset --not").is_err());
    }
}
