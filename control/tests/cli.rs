//! The binary as a script sees it: exit status, standard output, standard error.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn vl3_lb(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vl3-lb"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A balancer that gives every question the same answer.
struct Answering {
    folder: TempDir,
}

impl Answering {
    fn with(status: &'static str, body: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("admin.sock")).unwrap();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                assert!(request[..length].starts_with(b"GET /api/v1/"));
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
            }
        });
        Self { folder }
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let socket = self.folder.path().join("admin.sock");
        vl3_lb(&[arguments, &["--socket", socket.to_str().unwrap()]].concat())
    }
}

const STATUS: &str = include_str!("../golden/status.json");
const SERVICES: &str = include_str!("../golden/services.json");
const BACKENDS: &str = include_str!("../golden/backends.json");
const EVENTS: &str = include_str!("../golden/events.json");
const FLOW_EVENTS: &str = include_str!("../golden/flow-events.jsonl");
const FLOWS: &str = include_str!("../golden/flows.json");

#[test]
fn without_a_balancer_the_status_is_3_and_the_socket_is_named() {
    for command in ["status", "services", "backends", "flows", "events"] {
        let output = vl3_lb(&[command, "--socket", "/nonexistent/admin.sock"]);
        assert_eq!(code(&output), Some(3), "{command}");
        let text = stderr(&output);
        assert!(
            text.starts_with(
                "error: balancer not running or still starting (/nonexistent/admin.sock)\nhint: "
            ),
            "{text}"
        );
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn a_balancer_that_does_not_answer_in_time_is_unreachable() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let output = vl3_lb(&[
        "status",
        "--timeout",
        "50ms",
        "--socket",
        socket.to_str().unwrap(),
    ]);
    assert_eq!(code(&output), Some(3));
    assert!(
        stderr(&output).contains("no answer within 50ms"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn refused_arguments_are_2() {
    for (arguments, says) in [
        (&["status", "--nonsense"][..], "--nonsense"),
        (
            &["flows", "--state", "open"],
            "--state: open, allowed opening, established",
        ),
        (&["flows", "--not"], "--not"),
        (
            &["services", "--state", "sad"],
            "--state: sad, allowed down, degraded, ok",
        ),
        (&["flows", "--sort", "colour"], "colour"),
        (&["status", "--timeout", "soon"], "soon"),
        (&["completions", "powershell"], "bash, zsh, fish"),
        (&["events", "--follow", "--json"], "would never end"),
        (&["flows", "-f", "--json"], "would never end"),
        (&["flows", "-f", "--watch"], "again and again"),
        (&["flows", "-f", "--count"], "cannot be used with '--count'"),
        (&["flows", "-f", "--sort", "age"], "cannot be used with '--sort"),
        (&["flows", "-f", "--all"], "cannot be used with '--all'"),
        (&["events", "--since", "lately"], "lately"),
        (&["events", "--service", "a", "--not"], "--not"),
        (&[], "Usage"),
    ] {
        let output = vl3_lb(arguments);
        assert_eq!(code(&output), Some(2), "{arguments:?}");
        assert!(
            stderr(&output).contains(says),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn what_the_balancer_refuses_is_1() {
    let balancer = Answering::with(
        "404 Not Found",
        r#"{"error":"services: no service \"finanse\" (have: finance, dns)","hint":"look"}"#,
    );
    let output = balancer.ask(&["services", "finanse"]);
    assert_eq!(code(&output), Some(1));
    assert_eq!(
        stderr(&output),
        "error: services: no service \"finanse\" (have: finance, dns)\nhint: look\n"
    );
}

#[test]
fn a_check_of_a_degraded_balancer_is_4_and_one_line() {
    let balancer = Answering::with("200 OK", STATUS);
    let output = balancer.ask(&["status", "--check"]);
    assert_eq!(code(&output), Some(4));
    assert_eq!(stdout(&output), "degraded: service ledger: no backend up\n");
    assert_eq!(code(&balancer.ask(&["status"])), Some(0));
}

#[test]
fn tables_and_json_come_from_the_same_answer() {
    let balancer = Answering::with("200 OK", SERVICES);
    let table = balancer.ask(&["services"]);
    assert_eq!(code(&table), Some(0));
    assert_eq!(stdout(&table), include_str!("../golden/services.txt"));
    let json = balancer.ask(&["services", "--json"]);
    assert_eq!(stdout(&json), format!("{SERVICES}\n"));
    let lines = balancer.ask(&["services", "-o", "jsonl"]);
    assert_eq!(stdout(&lines).lines().count(), 3);
    assert!(stdout(&lines).starts_with(r#"{"#));
}

#[test]
fn a_cut_list_says_so_beside_the_data() {
    let balancer = Answering::with("200 OK", FLOWS);
    let output = balancer.ask(&["flows"]);
    assert_eq!(stdout(&output), include_str!("../golden/flows.txt"));
    assert_eq!(
        stderr(&output),
        "showing 3 of 48,210; --all shows all, --limit more\n"
    );
    let count = balancer.ask(&["flows", "--count"]);
    assert_eq!(stdout(&count), "48210\n");
    assert_eq!(stderr(&count), "");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vl3-lb"))
        .arg("man")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), stderr(&output).as_str()), (Some(0), ""));
}

fn write(folder: &Path, text: &str) -> String {
    let path = folder.join("config.yaml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_bad_configuration_is_2_with_every_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let bad = write(
        folder.path(),
        "mode: fast\nservices:\n  - {name: finance, port: 70000, backends: []}\n",
    );
    for command in ["check", "run"] {
        let output = vl3_lb(&[command, "--config", &bad]);
        assert_eq!(code(&output), Some(2), "{command}");
        let text = stderr(&output);
        let errors = text.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 2, "{text}");
        assert!(text.contains("70000") && text.contains("mode: fast"), "{text}");
        assert_eq!(stdout(&output), "");
    }
    let output = vl3_lb(&["check", "--config", "/nonexistent.yaml"]);
    assert_eq!(code(&output), Some(2));
    assert!(stderr(&output).contains("/nonexistent.yaml"));
}

#[test]
fn a_good_configuration_is_printed_resolved_and_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(
        folder.path(),
        "services:\n  - {name: finance, port: 8080, backends: [{address: 172.16.1.2}]}\n",
    );
    let output = vl3_lb(&["check", "--config", &good]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    let resolved = stdout(&output);
    assert!(resolved.contains("interface: nsm-1"), "{resolved}");
    let again = vl3_lb(&["check", "--config", &write(folder.path(), &resolved)]);
    assert_eq!(stdout(&again), resolved);
}

#[test]
fn events_are_a_line_each() {
    let balancer = Answering::with("200 OK", EVENTS);
    let table = stdout(&balancer.ask(&["events", "--since", "10m"]));
    assert_eq!(table, include_str!("../golden/events.txt"));
    let lines = stdout(&balancer.ask(&["events", "-o", "jsonl"]));
    assert_eq!(lines.lines().count(), 7);
    assert!(lines.lines().all(|line| line.contains("\"code\":")));
}

#[test]
fn a_follower_ends_with_the_balancer() {
    let line = r#"{"sequence":1,"time":"2026-11-24T06:30:00.000Z","severity":"info","code":"started","service":null,"backend":null,"from":null,"to":null,"text":"vl3-lb started"}"#;
    let body: &'static str = Box::leak(format!("{line}\n").into_boxed_str());
    let balancer = Answering::with("200 OK", body);
    // The answer ends here, as it does when the balancer ends.
    let output = balancer.ask(&["events", "--follow", "--no-headers"]);
    assert_eq!(code(&output), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("has ended the stream"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        stdout(&output),
        "2026-11-24T06:30:00.000Z  info      -        -        vl3-lb started\n"
    );
}

#[test]
fn flows_are_followed_as_rows_or_as_they_come() {
    let balancer = Answering::with("200 OK", FLOW_EVENTS);
    let table = balancer.ask(&["flows", "-f", "--limit", "3"]);
    assert_eq!(code(&table), Some(0), "{}", stderr(&table));
    assert_eq!(stdout(&table), include_str!("../golden/flow-events.txt"));
    assert_eq!(
        stderr(&table),
        "1,234 opens and closes were missed: they came faster than they were read\n"
    );
    let lines = balancer.ask(&["flows", "--follow", "-o", "jsonl"]);
    assert_eq!((stdout(&lines).as_str(), code(&lines)), (FLOW_EVENTS, Some(3)));
}

/// What bash makes of Tab after `words`, with the script that the program prints.
fn completed(words: &[&str]) -> Output {
    let script = r#"
        source <("$0" completions bash) || exit 9
        COMP_WORDS=(vl3-lb "$@")
        COMP_CWORD=$#
        COMP_TYPE=9
        _clap_complete_vl3_lb vl3-lb "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    Command::new("bash")
        .args(["--norc", "-c", script, env!("CARGO_BIN_EXE_vl3-lb")])
        .args(words)
        .output()
        .unwrap()
}

#[test]
fn bash_completes_names_that_only_the_balancer_knows() {
    let services = Answering::with("200 OK", SERVICES);
    let backends = Answering::with("200 OK", BACKENDS);
    for (balancer, words, want) in [
        (
            &services,
            &["services", ""][..],
            &["dns", "finance", "ledger"][..],
        ),
        (&services, &["services", "fi"], &["finance"]),
        (&services, &["backends", "--service", "d"], &["dns"]),
        (&services, &["events", "--service", "x"], &[]),
        (
            &backends,
            &["flows", "--backend", "172.16.1.2"],
            &["172.16.1.2:8081"],
        ),
        (&backends, &["backends", "--node", ""], &["node-0", "node-1"]),
    ] {
        let socket = balancer.folder.path().join("admin.sock");
        let output = completed(&[&["--socket", socket.to_str().unwrap()], words].concat());
        let text = stdout(&output);
        let names: Vec<_> = text
            .lines()
            .filter(|name| !name.is_empty() && !name.starts_with('-'))
            .collect();
        assert_eq!(names, want, "{words:?}");
        assert_eq!(stderr(&output), "", "{words:?}");
    }
}

#[test]
fn completion_is_quiet_without_a_balancer_and_knows_commands_and_flags() {
    let lines = |words: &[&str]| {
        let output = completed(words);
        assert_eq!(stderr(&output), "", "{words:?}");
        stdout(&output)
    };
    let none = ["--socket", "/nonexistent/admin.sock", "services", "fin"];
    assert_eq!(lines(&none).trim(), "");
    let commands = lines(&[""]);
    for command in [
        "run", "check", "status", "services", "backends", "flows", "events",
    ] {
        assert!(
            commands.lines().any(|line| line == command),
            "{command}: {commands}"
        );
    }
    assert!(lines(&["flows", "--nat"]).contains("--nat-port"));
    assert_eq!(lines(&["services", "--state", "d", "-o", "wi"]).trim(), "wide");
}

#[test]
fn completion_does_not_wait_for_a_balancer_that_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let _deaf = UnixListener::bind(&socket).unwrap();
    // Would wait for ever without its own limit.
    let output = completed(&["--socket", socket.to_str().unwrap(), "services", ""]);
    assert!(!stdout(&output).contains("finance"));
    assert_eq!(stderr(&output), "");
}

#[test]
fn each_shell_has_a_script_that_asks_this_program() {
    for (shell, mark) in [
        ("bash", "complete -o nospace"),
        ("zsh", "#compdef vl3-lb"),
        ("fish", "complete --keep-order"),
    ] {
        let script = stdout(&vl3_lb(&["completions", shell]));
        assert!(
            script.contains(mark) && script.contains(env!("CARGO_BIN_EXE_vl3-lb")),
            "{shell}: {script}"
        );
    }
}

#[test]
fn the_manual_knows_every_command() {
    let manual = stdout(&vl3_lb(&["man"])).replace('\\', "");
    for (page, flag) in [
        ("vl3-lb 1", "vl3-lb-flows(1)"),
        ("vl3-lb-run 1", "--log-format"),
        ("vl3-lb-status 1", "--check"),
        ("vl3-lb-flows 1", "--nat-port"),
        ("vl3-lb-flows 1", "--follow"),
        ("vl3-lb-events 1", "--follow"),
    ] {
        let (_, from) = manual.split_once(&format!(".TH {page}")).expect(page);
        let text = from.split(".TH").next().unwrap();
        assert!(text.contains(flag) && text.contains("--socket"), "{page}: {text}");
    }
}

#[test]
fn the_version_has_a_revision() {
    let text = stdout(&vl3_lb(&["--version"]));
    let version = concat!("vl3-lb ", env!("CARGO_PKG_VERSION"), " (");
    assert!(
        text.starts_with(version) && text.trim_end().ends_with(')'),
        "{text}"
    );
}
