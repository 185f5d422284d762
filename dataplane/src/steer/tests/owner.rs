//! The steer program and the workers agree on who owns a flow: bpf/owner.h against the common crate.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use vl3lb_common::hash::{OwnerKey, reduce};

use super::super::NatPorts;

/// Reads tuples from standard input and prints hash, worker by hash and worker by NAT port for each.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
#include "owner.h"

int main(void)
{
	unsigned char address[16];
	unsigned long long key[VL3LB_OWNER_KEY_WORDS];
	unsigned int client_port, service_port, protocol, workers, first, last, nat_port;

	for (;;) {
		__be32 words[4];
		__u32 hash;

		for (int i = 0; i < 16; i++)
			if (scanf("%2hhx", &address[i]) != 1)
				return 0;
		if (scanf("%u %u %u %u %u %u %u", &client_port, &service_port, &protocol, &workers, &first,
			  &last, &nat_port) != 7)
			return 1;
		struct vl3lb_config config = { first, last, workers };
		for (int i = 0; i < VL3LB_OWNER_KEY_WORDS; i++) {
			if (scanf("%llu", &key[i]) != 1)
				return 1;
			config.owner_key[i] = key[i];
		}
		memcpy(words, address, sizeof(words));
		hash = vl3lb_owner_hash(&config, words, client_port, service_port, protocol);
		printf("%u %u %u %d\n", hash, vl3lb_reduce(hash, workers),
		       vl3lb_nat_port_owner(&config, nat_port), vl3lb_is_nat_port(&config, nat_port));
	}
}
"#;

#[derive(Debug)]
struct Case {
    client: [u8; 16],
    ports: (u16, u16),
    protocol: u8,
    workers: u16,
    nat: NatPorts,
    nat_port: u16,
    key: OwnerKey,
}

#[test]
fn the_programs_and_the_workers_agree_on_the_owner() {
    let cases = cases(2000);
    let output = run(&cases.iter().map(line).collect::<String>());
    let answers: Vec<&str> = output.lines().collect();
    assert_eq!(answers.len(), cases.len());
    for (case, answer) in cases.iter().zip(answers) {
        let hash = case
            .key
            .hash(&case.client, case.ports.0, case.ports.1, case.protocol);
        let expected = format!(
            "{hash} {} {} {}",
            reduce(hash, u32::from(case.workers)),
            case.nat.owner(case.nat_port, case.workers),
            u8::from(case.nat.contains(case.nat_port)),
        );
        assert_eq!(answer, expected, "{case:?}");
    }
}

fn cases(count: usize) -> Vec<Case> {
    use proptest::prelude::*;
    let range = (1..=u16::MAX, 0..=u16::MAX, 1..=64_u16)
        .prop_map(|(first, length, workers)| (first, first.saturating_add(length).max(first), workers))
        .prop_filter("a port for each worker", |(first, last, workers)| {
            last - first >= *workers
        });
    let inputs = (
        any::<[u8; 16]>(),
        any::<(u16, u16)>(),
        any::<u8>(),
        range,
        any::<u64>(),
    );
    let case = inputs.prop_flat_map(|(client, ports, protocol, (first, last, workers), seed)| {
        (first..=last).prop_map(move |nat_port| Case {
            client,
            ports,
            protocol,
            workers,
            nat: NatPorts::new(first, last).unwrap(),
            nat_port,
            key: OwnerKey::from_seed(seed),
        })
    });
    let mut runner = TestRunner::default();
    (0..count)
        .map(|_| case.new_tree(&mut runner).unwrap().current())
        .collect()
}

fn line(case: &Case) -> String {
    let address: String = case.client.iter().map(|byte| format!("{byte:02x} ")).collect();
    let key: String = case.key.words().iter().map(|word| format!(" {word}")).collect();
    format!(
        "{address}{} {} {} {} {} {} {}{key}\n",
        case.ports.0,
        case.ports.1,
        case.protocol,
        case.workers,
        case.nat.first(),
        case.nat.last(),
        case.nat_port,
    )
}

/// Compiles the header for this machine, with the compiler that the build needs anyway.
fn run(input: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("owner.c"), folder.path().join("owner"));
    std::fs::write(&source, PROGRAM).unwrap();
    let compiled = Command::new("clang")
        .args([
            "-O1",
            "-Wall",
            "-Werror",
            "-I",
            concat!(env!("CARGO_MANIFEST_DIR"), "/bpf"),
            "-o",
        ])
        .args([&program, &source])
        .output()
        .unwrap();
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let mut child = Command::new(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
