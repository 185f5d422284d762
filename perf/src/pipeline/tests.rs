//! The whole command on few flows.

use std::collections::HashSet;

use super::*;
use crate::report::header;

fn args(flows: &[u32], bursts: &[u64], distribution: Distribution) -> PipelineArgs {
    PipelineArgs {
        flows: flows.to_vec(),
        bursts: bursts.to_vec(),
        distribution,
        runs: 1,
        packets: 500,
        core: None,
        seed: 7,
        json: true,
    }
}

/// Every packet is forwarded, or the command fails: see `Bench::forward`.
#[test]
fn every_distribution_and_burst_is_measured() {
    for distribution in [
        Distribution::Uniform,
        Distribution::Zipf,
        Distribution::Sequential,
    ] {
        let mut steps = HashSet::new();
        let args = args(&[1, 300], &[1, 64], distribution);
        let report = run(&args, &mut |step| assert!(steps.insert(step))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&header::document(&report)).unwrap();
        let results = json["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        for result in results {
            assert_eq!(result["bursts"].as_array().unwrap().len(), 2);
            for key in ["request", "reply", "newFlow", "newFlowTcp"] {
                assert!(result[key]["cycles"].as_f64().unwrap() > 0.0, "{key}");
            }
        }
        assert_eq!(steps.len(), 2 * (1 + 2 + 2));
    }
}

#[test]
fn the_machine_has_more_cores_than_the_one_that_is_measured_on() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let report = run(&args(&[1], &[1], Distribution::Uniform), &mut |_| {}).unwrap();
    assert_eq!(report.header.environment.cores, cores);
}

#[test]
fn an_unavailable_core_is_rejected() {
    let args = PipelineArgs {
        core: Some(100_000),
        ..args(&[1], &[1], Distribution::Uniform)
    };
    let failure = run(&args, &mut |_| {}).unwrap_err().to_string();
    assert!(
        failure.starts_with("run on core 100000: this process may use cores ["),
        "{failure}"
    );
}
