//! The Kubernetes cluster of deploy/cluster with the example deploy/examples/vl3-lb, shared by all tests of a run.
//!
//! A separate process removes the cluster when the tests end or are killed.

use std::fmt::Display;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::api_server::program;
use crate::balancer::binary;
use crate::client::text;
use crate::mesh::{self, Sdk};
use crate::wait;

/// The namespace of the example.
pub const NAMESPACE: &str = "ns-vl3-lb";
/// The service of the example, as its clients address it.
pub const URL: &str = "finance.vl3-lb:8080";
/// Length and SHA-256 of the file that every server of the example offers for download.
pub const DOWNLOAD: (u64, &str) = (
    67_108_864,
    "d5f71b937f50c5834d71b7bdf3aebe0356b6a52cfb0d2ffd2b0de607f7be56af",
);
/// Limit of a change of the cluster. Pods start, and lost nodes are detected, within seconds; but CI has two cores.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// No server answered a request; the text is the output of curl.
#[derive(Debug, thiserror::Error)]
#[error("request {URL}: no answer: {0}")]
pub struct NoAnswer(String);

/// The running cluster.
#[derive(Debug)]
pub struct Cluster(());

impl Cluster {
    /// The cluster; the first call starts it.
    pub fn shared() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| {
            assert!(
                rustix::process::geteuid().is_root(),
                "the cluster makes namespaces and containers: run these tests as root"
            );
            program("kubelet");
            let binary = binary();
            script(&["up", binary.to_str().expect("UTF-8"), "--bare"]);
            remove_at_exit();
            Self(())
        })
    }

    /// The same with Network Service Mesh, without the example, which has objects of the same names.
    pub fn with_mesh() -> &'static Self {
        let cluster = Self::shared();
        cluster.must_kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found"]);
        mesh::program(Sdk::V1_13);
        script(&["mesh"]);
        cluster
    }

    /// Runs `work` without a cluster: stops a running one before, and starts it again afterwards.
    pub fn without(work: impl FnOnce()) {
        let was_up = Path::new("/run/vl3-lb-cluster/up").exists();
        script(&["down"]);
        work();
        if was_up {
            script(&["up", binary().to_str().expect("UTF-8"), "--bare"]);
        }
    }

    /// The same with the example: three servers, a client and a balancer on each node, all ready.
    pub fn with_example() -> &'static Self {
        let cluster = Self::shared();
        cluster.must_kubectl(&["apply", "-k", example()]);
        cluster.settle(3);
        cluster
    }

    /// Waits until all rollouts of the example are complete and the balancers have `servers` backends up.
    pub fn settle(&self, servers: usize) {
        for (kind, name) in [
            ("daemonset", "vl3-lb"),
            ("deployment", "finance-server"),
            ("deployment", "finance-client"),
        ] {
            let object = format!("{kind}/{name}");
            let timeout = format!("--timeout={}s", TIMEOUT.as_secs());
            self.must_kubectl(&["rollout", "status", &object, "-n", NAMESPACE, &timeout]);
        }
        wait::until("the balancers to have the servers", TIMEOUT, || {
            let balancers = self.pods("app.kubernetes.io/name=vl3-lb");
            let states: Vec<Vec<String>> = balancers.iter().map(|pod| self.backend_states(pod)).collect();
            let good = |states: &Vec<String>| states.iter().filter(|state| *state == "up").count() == servers;
            (states.len() == 2 && states.iter().all(good))
                .then_some(())
                .ok_or_else(|| format!("{states:?}"))
        });
    }

    /// Runs kubectl.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        Command::new("/run/vl3-lb-cluster/bin/kubectl")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("run kubectl")
    }

    /// The output of [`kubectl`](Self::kubectl); panics if it fails.
    pub fn must_kubectl(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            text(&output)
        );
        String::from_utf8(output.stdout).expect("kubectl prints UTF-8")
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) {
        let mut child = Command::new("/run/vl3-lb-cluster/bin/kubectl")
            .args(["apply", "--filename=-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("run kubectl");
        let mut input = child.stdin.take().expect("stdin is piped");
        input.write_all(manifests.as_bytes()).expect("kubectl reads");
        drop(input);
        assert!(
            child.wait().expect("kubectl ends").success(),
            "apply: {manifests}"
        );
    }

    /// An object, or a list of them, as JSON.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let arguments = [&["get", "-n", NAMESPACE, "-o", "json"], arguments].concat();
        serde_json::from_str(&self.must_kubectl(&arguments)).expect("kubectl prints JSON")
    }

    /// The names of the example's pods with these labels that are not being deleted.
    pub fn pods(&self, labels: &str) -> Vec<String> {
        let pods = self.get(&["pods", "-l", labels]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        pods.iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
            .collect()
    }

    /// Waits until a controller has made a pod with these labels: `kubectl wait` fails at once where there is none.
    pub fn wait_for_pod(&self, labels: &str) {
        wait::until(&format!("a pod with {labels}"), TIMEOUT, || {
            (!self.pods(labels).is_empty())
                .then_some(())
                .ok_or("there is none")
        });
    }

    /// Runs a line of the documentation as a user types it, in the top folder of the repository. What it printed.
    pub fn shell(&self, line: &str) -> String {
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .env(
                "PATH",
                concat!("/run/vl3-lb-cluster/bin:", "/usr/sbin:/usr/bin:/sbin:/bin"),
            )
            .stdin(Stdio::null())
            .output()
            .expect("run sh");
        assert!(output.status.success(), "{line}: {}", text(&output));
        String::from_utf8(output.stdout).expect("kubectl prints UTF-8")
    }

    /// Scales the servers.
    pub fn scale(&self, servers: usize) {
        let replicas = format!("--replicas={servers}");
        self.must_kubectl(&["scale", "deployment/finance-server", &replicas, "-n", NAMESPACE]);
    }

    /// Runs a shell command in a container of the example's client.
    pub fn in_client(&self, command: &str) -> Output {
        self.kubectl(&[
            "exec",
            "deployments/finance-client",
            "-n",
            NAMESPACE,
            "-c",
            "client",
            "--",
            "sh",
            "-c",
            command,
        ])
    }

    /// The name of the server that answers a request of the client.
    ///
    /// Errors: no answer within three seconds.
    pub fn request(&self) -> Result<String, NoAnswer> {
        let output = self.in_client(&format!("curl -sS --max-time 3 {URL}"));
        let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        answer
            .strip_prefix("Hello! I'm ")
            .map(str::to_owned)
            .ok_or_else(|| NoAnswer(text(&output)))
    }

    /// The states of a balancer's backends of the service `finance`; empty if it does not answer.
    pub fn backend_states(&self, balancer: &str) -> Vec<String> {
        let output = self.kubectl(&[
            "exec",
            balancer,
            "-n",
            NAMESPACE,
            "--",
            "vl3-lb",
            "backends",
            "--service",
            "finance",
            "--json",
        ]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .filter_map(|item| item["state"].as_str().map(str::to_owned))
            .collect()
    }

    /// Kills the kubelet of a node (`stop`), or starts it again (`start`).
    pub fn kubelet(&self, node: u8, action: &str) {
        script(&["kubelet", &node.to_string(), action]);
    }

    /// Kills the API server (`stop`), or starts it again (`start`).
    pub fn api_server(&self, action: &str) {
        script(&["api-server", action]);
    }
}

/// The folder of the example.
pub fn example() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/vl3-lb")
}

/// Programs in the client's container. They keep running without an API server.
#[derive(Debug)]
pub struct Jobs<'a> {
    cluster: &'a Cluster,
    prefix: String,
    count: usize,
}

impl<'a> Jobs<'a> {
    /// Starts shell commands. `name` is the prefix of their files in the container.
    pub fn start(cluster: &'a Cluster, name: &str, commands: &[String]) -> Self {
        let prefix = format!("/tmp/{name}-{}", std::process::id());
        let lines: Vec<String> = commands
            .iter()
            .enumerate()
            .map(|(number, command)| {
                let file = format!("{prefix}-{number}");
                format!(
                    "setsid sh -c '({command}) >{file}.out 2>&1; echo $? >{file}.end' </dev/null >/dev/null 2>&1 &"
                )
            })
            .collect();
        let output = cluster.in_client(&lines.join("\n"));
        assert!(output.status.success(), "start {commands:?}: {}", text(&output));
        Self {
            cluster,
            prefix,
            count: commands.len(),
        }
    }

    /// Starts downloads from the service at 300 KB per second, which take minutes, until
    /// [`finish_downloads`](Self::finish_downloads).
    pub fn downloads(cluster: &'a Cluster, count: usize) -> Self {
        let go = "/tmp/download-fast";
        // An earlier test may have left it. Once for all downloads: a concurrent `rm -f` of the same file can fail.
        let output = cluster.in_client(&format!("rm -f {go}"));
        assert!(output.status.success(), "remove {go}: {}", text(&output));
        let slow = format!(
            "while [ ! -e {go} ]; do dd bs=32768 count=1 iflag=fullblock 2>/dev/null; sleep 0.1; done; cat"
        );
        let command = format!("curl -sSN {URL}/cgi-bin/download | ({slow}) | sha256sum");
        let jobs = Self::start(cluster, "download", &vec![command; count]);
        jobs.wait_for("all downloads to begin", |_| {
            let flows = cluster.in_client("grep -c ' 01 ' /proc/net/tcp").stdout;
            let flows = String::from_utf8_lossy(&flows).trim().parse().unwrap_or(0);
            (flows >= count)
                .then_some(())
                .ok_or_else(|| format!("{flows} connections"))
        });
        jobs
    }

    /// Number of programs that still run.
    pub fn running(&self) -> usize {
        let output = self
            .cluster
            .in_client(&format!("ls {}-*.end 2>/dev/null | wc -l", self.prefix));
        let ended: usize = String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .unwrap_or(0);
        self.count - ended.min(self.count)
    }

    /// Waits for the end of all and returns their outputs; panics if one failed.
    pub fn finish(self) -> Vec<String> {
        self.wait_for("the client's programs to end", |jobs| match jobs.running() {
            0 => Ok(()),
            running => Err(format!("{running} still run")),
        });
        (0..self.count)
            .map(|number| {
                let file = format!("{}-{number}", self.prefix);
                let output = self
                    .cluster
                    .in_client(&format!("cat {file}.out; cat {file}.end; rm {file}.*"));
                let printed = String::from_utf8_lossy(&output.stdout).into_owned();
                let printed = printed.trim_end();
                let (printed, status) = printed.rsplit_once('\n').unwrap_or(("", printed));
                assert_eq!(status, "0", "program {number} in the client: {printed}");
                printed.to_owned()
            })
            .collect()
    }

    /// Lets the downloads continue at full speed, and panics unless all were still running and end undamaged.
    pub fn finish_downloads(self) {
        assert_eq!(self.running(), self.count, "a download ended too early");
        let output = self.cluster.in_client("touch /tmp/download-fast");
        assert!(
            output.status.success(),
            "speed up the downloads: {}",
            text(&output)
        );
        for (number, sum) in self.finish().iter().enumerate() {
            assert!(sum.starts_with(DOWNLOAD.1), "download {number}: {sum}");
        }
    }

    fn wait_for<R: Display>(&self, what: &str, probe: impl Fn(&Self) -> Result<(), R>) {
        wait::until(what, TIMEOUT, || {
            let result = probe(self);
            if result.is_err() {
                // Each probe starts a process in the client's container.
                std::thread::sleep(Duration::from_millis(300));
            }
            result
        });
    }
}

/// The script that starts and stops the cluster.
pub fn script_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cluster/cluster.sh")
}

fn script(arguments: &[&str]) {
    let output = Command::new(script_path())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("run deploy/cluster/cluster.sh");
    assert!(
        output.status.success(),
        "cluster.sh {arguments:?}: {}",
        text(&output)
    );
}

/// Starts a process that removes the cluster when this process ends, which closes the pipe between them.
#[expect(clippy::zombie_processes, reason = "it outlives this process")]
fn remove_at_exit() {
    let (reader, writer) = std::io::pipe().expect("make a pipe");
    let mut command = Command::new("sh");
    command
        .args(["-c", "cat >/dev/null; exec \"$0\" down"])
        .arg(script_path())
        .stdin(reader)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C reaches only the tests.
        .process_group(0);
    command.spawn().expect("run sh");
    // Stays open until this process ends.
    std::mem::forget(writer);
}
