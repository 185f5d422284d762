//! The binary under test: starts it, queries it, changes its configuration, stops it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use vl3lb_testbed::process::Process;
use vl3lb_testbed::{Netns, OrPanic};

use crate::client::text;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::wait;
use vl3lb_testbed::node::Node;

const ADMIN_PORT: u16 = 9090;
/// Lines of the log shown when a test fails.
const LOG_TAIL: usize = 60;

/// The binary, from the environment variable VL3LB_BIN.
pub fn binary() -> PathBuf {
    const BUILD: &str = "build it with `cargo build --release -p vl3lb-control` and set VL3LB_BIN to the \
                         absolute path of target/release/vl3-lb";
    let path = std::env::var_os("VL3LB_BIN")
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("VL3LB_BIN, the path of the vl3-lb binary, is not set: {BUILD}"));
    assert!(
        path.is_absolute() && path.is_file(),
        "VL3LB_BIN={}: no absolute path of a file: {BUILD}",
        path.display()
    );
    path
}

/// A started balancer. Dropping it ends it, and shows its log if the test is failing.
#[derive(Debug)]
pub struct Balancer {
    node: Node,
    // Ends before its files are removed.
    process: Process,
    dir: TempDir,
    /// Its whole environment, if that is all of its configuration.
    environment: Option<Vec<(String, String)>>,
    /// Number of the next file that the configuration's symbolic link points to.
    next_file: u32,
}

impl Balancer {
    /// Starts it in the balancer's pod and waits until it is ready.
    pub fn start(node: &Node, config: &Config) -> Self {
        let mut balancer = Self::launch(node, config);
        balancer.wait_ready();
        balancer
    }

    /// Starts it without waiting.
    pub fn launch(node: &Node, config: &Config) -> Self {
        Self::launch_through(node, config, &[])
    }

    /// Starts it through `program`, such as `env NAME=VALUE`, which executes its last arguments; without waiting.
    pub fn launch_through(node: &Node, config: &Config, program: &[&str]) -> Self {
        let dir = TempDir::with_prefix("vl3lb-test").expect("make a temporary directory");
        write_config(dir.path(), "config.yaml", config);
        let process = spawn(&node.netns, dir.path(), program);
        Self {
            node: node.clone(),
            process,
            dir,
            environment: None,
            next_file: 0,
        }
    }

    /// Starts it without a file and with these environment variables alone, without waiting. Its admin socket is
    /// where a user's is, in a /run of its own.
    pub fn launch_with_environment(node: &Node, environment: &[(String, String)]) -> Self {
        let dir = TempDir::with_prefix("vl3lb-test").expect("make a temporary directory");
        let process = spawn_with_environment(&node.netns, dir.path(), environment);
        Self {
            node: node.clone(),
            process,
            dir,
            environment: Some(environment.to_vec()),
            next_file: 0,
        }
    }

    /// Waits until `/readyz` is 200 and the next hops of all backends are resolved; panics if the process ends.
    pub fn wait_ready(&mut self) {
        self.wait_ready_answer();
        // A backend takes flows only once its next hop is known.
        wait::until("the next hops of the backends", wait::STEP, || {
            match self.metrics().sum("vl3lb_neighbors_unresolved", &[]) {
                0.0 => Ok(()),
                unresolved => Err(format!("{unresolved} unresolved")),
            }
        });
    }

    /// Waits until `/readyz` is 200; panics if the process ends.
    pub fn wait_ready_answer(&mut self) {
        wait::until("the balancer to be ready", wait::STEP, || {
            self.process.check_running().or_panic();
            match self.http("/readyz") {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("/readyz: {status} {body}")),
                Err(error) => Err(format!("/readyz: {error}")),
            }
        });
    }

    /// Starts it again with the same configuration, after [`terminate`](Self::terminate) or
    /// [`kill`](Self::kill), and waits until it is ready.
    pub fn restart(&mut self) {
        assert!(
            self.process.exit_status().or_panic().is_some(),
            "the balancer is still running"
        );
        let (netns, dir) = (&self.node.netns, self.dir.path());
        self.process = match &self.environment {
            None => spawn(netns, dir, &[]),
            Some(environment) => spawn_with_environment(netns, dir, environment),
        };
        self.wait_ready();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Status and body of a GET of `path` at the admin listener.
    pub fn http(&self, path: &str) -> std::io::Result<(u16, String)> {
        let answer = self.node.netns.run(|| -> std::io::Result<String> {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT));
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            // HTTP/1.0: the body is not chunked and ends with the connection.
            write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("GET {path}: the answer is not HTTP: {answer:?}"));
        Ok((status, body.to_owned()))
    }

    /// Scrapes `/metrics`.
    pub fn metrics(&self) -> Metrics {
        let (status, body) = self
            .http("/metrics")
            .unwrap_or_else(|error| panic!("GET /metrics: {error}"));
        assert_eq!(status, 200, "GET /metrics: {body}");
        Metrics::parse(&body)
    }

    /// Runs `vl3-lb ARGUMENTS` against it.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_command(arguments)
            .output()
            .expect("run the command line")
    }

    /// `vl3-lb ARGUMENTS` against it, not started yet.
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.node.netns.command(path_str(&binary()));
        command
            .arg("--socket")
            .arg(self.dir.path().join("admin.sock"))
            .args(arguments);
        command
    }

    /// Runs `vl3-lb ARGUMENTS --json` and parses its output.
    pub fn cli_json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?} --json: {}", text(&output));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?} --json: {error}: {}", text(&output)))
    }

    /// Replaces the configuration file by renaming another one over it.
    pub fn replace_config(&self, config: &Config) {
        write_config(self.dir.path(), "config.new", config);
        std::fs::rename(self.dir.path().join("config.new"), self.config_path())
            .expect("rename the configuration file");
    }

    /// Replaces the configuration file by arbitrary text.
    pub fn replace_config_text(&self, text: &str) {
        let new = self.dir.path().join("config.new");
        std::fs::write(&new, text).expect("write a configuration file");
        std::fs::rename(new, self.config_path()).expect("rename the configuration file");
    }

    /// Replaces the configuration as the kubelet does with a ConfigMap: `config.yaml` is a link to
    /// `..data/config.yaml`, and the link `..data` is replaced by one to another directory.
    pub fn swap_config(&mut self, config: &Config) {
        let dir = self.dir.path();
        let version = format!("..version-{}", self.next_file);
        self.next_file += 1;
        std::fs::create_dir(dir.join(&version)).expect("make a directory");
        write_config_to(&dir.join(&version).join("config.yaml"), dir, config);
        let old = std::fs::read_link(dir.join("..data")).ok();
        symlink(&version, dir.join("..data-new")).expect("make a link");
        std::fs::rename(dir.join("..data-new"), dir.join("..data")).expect("rename a link");
        if !self.config_path().is_symlink() {
            symlink("..data/config.yaml", dir.join("config.new")).expect("make a link");
            std::fs::rename(dir.join("config.new"), self.config_path()).expect("rename a link");
        }
        if let Some(old) = old {
            std::fs::remove_dir_all(dir.join(old)).expect("remove the old version");
        }
    }

    /// The path of its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }

    /// Waits until the live backends of `service` are in these states: pairs of address and state.
    pub fn wait_backends(&self, service: &str, expected: &[(String, &str)]) {
        let mut expected: Vec<(String, String)> = expected
            .iter()
            .map(|(address, state)| (address.clone(), (*state).to_owned()))
            .collect();
        expected.sort();
        let what = format!("the backends of {service} to be {expected:?}");
        wait::until(&what, wait::STEP, || {
            let answer = self.cli_json(&["backends", "--service", service]);
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let mut found: Vec<(String, String)> = items
                .iter()
                .map(|item| (text(&item["address"]), text(&item["state"])))
                .collect();
            found.sort();
            (found == expected)
                .then_some(())
                .ok_or_else(|| format!("{found:?}"))
        });
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end()
    }

    /// Sends SIGTERM, without waiting.
    pub fn signal_terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.process.kill().or_panic();
    }

    /// Stops the process (SIGSTOP) until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Continues the process.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for the end of the process.
    pub fn wait_end(&mut self) -> ExitStatus {
        self.process.wait_end(wait::STEP).or_panic()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn signal(&self, signal: Signal) {
        self.process.signal(signal).or_panic();
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- end of the balancer's log\n{}\n---",
                self.process.log_tail(LOG_TAIL)
            );
            if let Ok((200, metrics)) = self.http("/metrics") {
                eprintln!("drops: {:?}", Metrics::parse(&metrics).all_drops());
            }
        }
        // Without its drain, which takes time. It may have ended already.
        self.process.kill().ok();
    }
}

/// Of the image: deploy/Dockerfile.
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "2");

fn spawn(netns: &Netns, dir: &Path, program: &[&str]) -> Process {
    let binary = binary();
    let mut command = match program {
        [] => netns.command(binary),
        [program, arguments @ ..] => {
            let mut command = netns.command(program);
            command.args(arguments).arg(binary);
            command
        }
    };
    command
        .args(["run", "--config"])
        .arg(dir.join("config.yaml"))
        .env(ARENAS.0, ARENAS.1)
        .stdin(Stdio::null());
    Process::start(&mut command, &dir.join("log")).or_panic()
}

fn spawn_with_environment(netns: &Netns, dir: &Path, environment: &[(String, String)]) -> Process {
    const OWN_RUN: &str = r#"mount -t tmpfs tmpfs /run && mkdir /run/vl3-lb && mount --bind "$1" /run/vl3-lb &&
        exec "$0" run"#;
    let mut command = netns.command("sh");
    command
        .arg("-c")
        .arg(OWN_RUN)
        .arg(binary())
        .arg(dir)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env(ARENAS.0, ARENAS.1)
        .envs(environment.iter().cloned())
        .stdin(Stdio::null());
    Process::start(&mut command, &dir.join("log")).or_panic()
}

fn write_config(dir: &Path, name: &str, config: &Config) {
    write_config_to(&dir.join(name), dir, config);
}

fn write_config_to(path: &Path, dir: &Path, config: &Config) {
    let mut config = config.clone();
    if config.get("admin").is_none() {
        config.set("admin", json!({"listen": format!("127.0.0.1:{ADMIN_PORT}")}));
    }
    let mut admin = config.get("admin").cloned().unwrap_or_default();
    admin["socket"] = path_str(&dir.join("admin.sock")).into();
    config.set("admin", admin);
    std::fs::write(path, config.text()).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

fn path_str(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are UTF-8")
}
