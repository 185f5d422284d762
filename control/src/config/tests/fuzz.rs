//! Fuzz target: changed configurations, as JSON and as YAML. See `vl3lb_testbed::fuzz`.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use vl3lb_testbed::mutation::change_text;

use super::super::{document, json as json_file};
use super::*;
use crate::discovery::Desired;
use crate::journey::Journey;
use crate::mutation::{change_json, values};

/// Seeds that have failed: an error without a field, for a key without a name.
const CORPUS: &[u64] = &[7_713_694_794_702_127_116];
/// Texts of one seed.
const TEXTS: u64 = 40;
/// Far above what the slowest text takes.
const LONGEST: Duration = Duration::from_secs(5);
/// Valid texts, of which a few use what only YAML has.
const EXAMPLES: [&str; 5] = [
    FULL,
    "
interface: eth0
addresses: [172.16.1.103, '2001:db8::67']
zeroCopy: off
fastPath: {mode: off, after: 1, flows: 1048576}
workers: [3, 1]
natPorts: 20000-30000
dns: {zone: example.org., listen: '127.0.0.1:5353', upstream: ['10.0.0.1', '[2001:db8::1]:5353'], upstreamClients: [10.0.0.0/8]}
admin: {listen: '[::1]:9091', api: '10.0.0.1:9092', profile: false}
metrics: {perBackend: false}
telemetry: {endpoint: 'http://otel:4317', interval: 1m}
services:
- {name: a, port: 53000, protocol: udp, scheduler: least-connections, drain: 1.5h, backends: [],
   affinity: {clientIP: 90m}, sourceRanges: [10.0.0.0/8, '2001:db8::/32'],
   healthCheck: {tcp: {port: 8}, interval: 1m, timeout: 1500ms, rise: 1, fall: 1}}
",
    KUBERNETES,
    "
discovery: nsm
networkService: vl3
services:
- {name: a, port: 80, selector: {app: a}, healthCheck: off}
",
    "
services:
- &first {name: a, port: 80, backends: &list [{address: 10.0.0.1}, {address: 10.0.0.2, weight: 0}]}
- {<<: *first, name: b, port: 81}
- name: c
  port: 82
  backends: *list
  drain: |-
    60s
",
];

/// Values that are valid somewhere.
fn words() -> Vec<Value> {
    vec![
        json!("auto"),
        json!("kubernetes"),
        json!("nsm"),
        json!("static"),
        json!("all"),
        json!("1h"),
        json!("0s"),
        json!("10.0.0.0/8"),
        json!("2001:db8::9"),
        json!("finance"),
        json!("app=a,b in (c,d)"),
        json!(65_535),
        json!("annotation:a.b/c"),
        json!("127.0.0.1:53"),
        json!(["all"]),
        json!({"a": "b"}),
        json!("1000000s"),
    ]
}

#[test]
fn any_configuration_is_accepted_or_refused_with_its_fields() {
    let words = words();
    let examples = EXAMPLES.map(|text| document::read_yaml(text).unwrap());
    vl3lb_testbed::fuzz::run("configuration", 6, CORPUS, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..TEXTS {
            let number = rng.random_range(0..EXAMPLES.len());
            let mut value = examples[number].clone();
            let mut text = EXAMPLES[number].to_owned();
            for _ in 0..rng.random_range(0..6) {
                change_json(&mut rng, &mut value, &words);
                change_text(&mut rng, &mut text);
            }
            check(&text);
            let mut text = if rng.random() {
                format!("{value:#}")
            } else {
                value.to_string()
            };
            check(&text);
            change_text(&mut rng, &mut text);
            check(&text);
        }
        3 * TEXTS
    });
}

fn check(text: &str) {
    let begin = Instant::now();
    agree(text);
    match Config::parse(Some(text), "lb.yaml", &no_env, &EPHEMERAL) {
        Ok(loaded) => use_everywhere(&loaded.config),
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason: {text:?}");
            for error in errors {
                assert!(
                    !error.field.is_empty() && !error.allowed.is_empty(),
                    "{error:?} of {text:?}"
                );
                let shown = error.to_string();
                assert!(!shown.contains(char::is_control), "{error:?} of {text:?}");
            }
        }
    }
    assert!(begin.elapsed() < LONGEST, "{text:?} took {:?}", begin.elapsed());
}

/// What both parsers accept has one meaning, and no text becomes much more than it is.
fn agree(text: &str) {
    let yaml = document::read_yaml(text);
    if let Ok(value) = &yaml {
        assert!(
            values(value) <= 1000 + 100 * text.len(),
            "{} values of {text:?}",
            values(value)
        );
        if let Some(quick) = json_file::read(text) {
            assert_eq!(&quick, value, "{text:?}");
        }
    }
}

/// A valid configuration can be printed and read back, and its services reach a snapshot, the report and the metrics.
fn use_everywhere(config: &Config) {
    let printed = config.to_yaml();
    assert_eq!(parse(&printed).as_ref(), Ok(config), "{printed}");
    assert!(config.needs_restart(config).is_empty());
    let update = Journey::new(config.nat_ports).take(&Desired::from(config));
    let update = update.expect("the first snapshot");
    let served = update.directory.services.iter().flatten().count();
    assert_eq!(served, config.services.len(), "{printed}");
}
