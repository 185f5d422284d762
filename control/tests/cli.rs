//! The binary from a script's view: exit status, standard output, standard error.

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

/// A balancer that gives the same answer to every request.
struct FakeBalancer {
    folder: TempDir,
}

impl FakeBalancer {
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

    fn query(&self, arguments: &[&str]) -> Output {
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
fn without_a_balancer_the_exit_status_is_3_and_the_error_names_the_socket() {
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
fn a_timeout_is_unreachable() {
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
fn invalid_arguments_are_exit_status_2() {
    for (arguments, expected) in [
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
        (&["flows", "-f", "--watch"], "cannot be combined with --watch"),
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
            stderr(&output).contains(expected),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn an_error_of_the_balancer_is_exit_status_1() {
    let balancer = FakeBalancer::with(
        "404 Not Found",
        r#"{"error":"services: no service \"finanse\" (have: finance, dns)","hint":"look"}"#,
    );
    let output = balancer.query(&["services", "finanse"]);
    assert_eq!(code(&output), Some(1));
    assert_eq!(
        stderr(&output),
        "error: services: no service \"finanse\" (have: finance, dns)\nhint: look\n"
    );
}

#[test]
fn a_check_of_a_degraded_balancer_is_exit_status_4() {
    let balancer = FakeBalancer::with("200 OK", STATUS);
    let output = balancer.query(&["status", "--check"]);
    assert_eq!(code(&output), Some(4));
    assert_eq!(stdout(&output), "degraded: service ledger: no backend up\n");
    assert_eq!(code(&balancer.query(&["status"])), Some(0));
}

#[test]
fn tables_and_json_show_the_same_answer() {
    let balancer = FakeBalancer::with("200 OK", SERVICES);
    let table = balancer.query(&["services"]);
    assert_eq!(code(&table), Some(0));
    assert_eq!(stdout(&table), include_str!("../golden/services.txt"));
    let json = balancer.query(&["services", "--json"]);
    assert_eq!(stdout(&json), format!("{SERVICES}\n"));
    let lines = balancer.query(&["services", "-o", "jsonl"]);
    assert_eq!(stdout(&lines).lines().count(), 3);
    assert!(stdout(&lines).starts_with(r#"{"#));
}

#[test]
fn a_truncated_list_is_noted_on_standard_error() {
    let balancer = FakeBalancer::with("200 OK", FLOWS);
    let output = balancer.query(&["flows"]);
    assert_eq!(stdout(&output), include_str!("../golden/flows.txt"));
    assert_eq!(
        stderr(&output),
        "showing 3 of 48,210; --all shows all, --limit more\n"
    );
    let count = balancer.query(&["flows", "--count"]);
    assert_eq!(stdout(&count), "48210\n");
    assert_eq!(stderr(&count), "");
}

#[test]
fn a_closed_pipe_is_success_without_output() {
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
fn an_invalid_configuration_is_exit_status_2_with_every_error() {
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
fn a_valid_configuration_is_printed_with_defaults_and_reads_back() {
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
fn events_are_printed_one_per_line() {
    let balancer = FakeBalancer::with("200 OK", EVENTS);
    let table = stdout(&balancer.query(&["events", "--since", "10m"]));
    assert_eq!(table, include_str!("../golden/events.txt"));
    let lines = stdout(&balancer.query(&["events", "-o", "jsonl"]));
    assert_eq!(lines.lines().count(), 7);
    assert!(lines.lines().all(|line| line.contains("\"code\":")));
}

#[test]
fn following_ends_with_the_balancer() {
    let line = r#"{"sequence":1,"time":"2026-11-24T06:30:00.000Z","severity":"info","code":"started","service":null,"backend":null,"from":null,"to":null,"text":"vl3-lb started"}"#;
    let body: &'static str = Box::leak(format!("{line}\n").into_boxed_str());
    let balancer = FakeBalancer::with("200 OK", body);
    // The answer ends here, as it does when the balancer ends.
    let output = balancer.query(&["events", "--follow", "--no-headers"]);
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
fn flow_events_are_printed_as_rows_or_lines() {
    let balancer = FakeBalancer::with("200 OK", FLOW_EVENTS);
    let table = balancer.query(&["flows", "-f", "--limit", "3"]);
    assert_eq!(code(&table), Some(0), "{}", stderr(&table));
    assert_eq!(stdout(&table), include_str!("../golden/flow-events.txt"));
    assert_eq!(
        stderr(&table),
        "1,234 flow events were missed: this reader is too slow\n"
    );
    let lines = balancer.query(&["flows", "--follow", "-o", "jsonl"]);
    assert_eq!((stdout(&lines).as_str(), code(&lines)), (FLOW_EVENTS, Some(3)));
}

/// Bash's completions after `words`, with the program's script.
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
fn bash_completes_names_from_the_balancer() {
    let services = FakeBalancer::with("200 OK", SERVICES);
    let backends = FakeBalancer::with("200 OK", BACKENDS);
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
fn completion_needs_no_balancer_for_commands_and_flags() {
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
fn completion_gives_up_on_a_silent_balancer() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let _silent = UnixListener::bind(&socket).unwrap();
    // Would wait for ever without its own limit.
    let output = completed(&["--socket", socket.to_str().unwrap(), "services", ""]);
    assert!(!stdout(&output).contains("finance"));
    assert_eq!(stderr(&output), "");
}

#[test]
fn each_shell_has_a_completion_script() {
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
fn the_manual_has_every_command() {
    let manual = stdout(&vl3_lb(&["man"])).replace('\\', "");
    for (page, flag) in [
        ("vl3-lb 1", "vl3-lb-flows(1)"),
        ("vl3-lb-run 1", "--log-format"),
        ("vl3-lb-status 1", "--check"),
        ("vl3-lb-flows 1", "--nat-port"),
        ("vl3-lb-flows 1", "--follow"),
        ("vl3-lb-events 1", "--follow"),
        ("vl3-lb-services 1", "--lookup"),
        ("vl3-lb-capture 1", "--drops"),
        ("vl3-lb-top 1", "--batch"),
        ("vl3-lb-profile 1", "--duration"),
    ] {
        let (_, from) = manual.split_once(&format!(".TH {page}")).expect(page);
        let text = from.split(".TH").next().unwrap();
        assert!(text.contains(flag) && text.contains("--socket"), "{page}: {text}");
    }
}

#[test]
fn the_version_includes_the_revision() {
    let text = stdout(&vl3_lb(&["--version"]));
    let version = concat!("vl3-lb ", env!("CARGO_PKG_VERSION"), " (");
    assert!(
        text.starts_with(version) && text.trim_end().ends_with(')'),
        "{text}"
    );
}
