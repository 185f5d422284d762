//! A real control plane of Network Service Mesh: `tests/nsm/mesh`, a Go program. `tests/nsm/README.md` describes its
//! parts and controls.

pub mod balancer;
pub mod client;
pub mod comparison;
mod control;
pub mod server;
pub mod traffic;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use vl3lb_testbed::process::Process;
use vl3lb_testbed::{Netns, OrPanic};

use crate::wait;

/// The name of the network service.
pub const SERVICE: &str = "vl3-lb";
/// The address at which the first endpoint's DNS server answers.
pub const DNS: &str = "172.16.0.1";
/// The first endpoint's own address, which answers pings.
pub const ENDPOINT: &str = "172.16.0.0";

/// Lines of a part's log shown when a test fails.
const LOG_TAIL: usize = 20;
/// Time of an outage that a test makes: longer than the dial timeouts of the parts.
pub const OUTAGE: Duration = Duration::from_secs(2);

/// The version of the SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    V1_13,
    V1_14,
}

impl Sdk {
    const fn program(self) -> &'static str {
        match self {
            Self::V1_13 => "mesh",
            Self::V1_14 => "mesh-sdk-v1.14",
        }
    }
}

/// A running control plane. Dropping it ends it, and shows the end of all logs if the test is failing.
#[derive(Debug)]
pub struct Mesh {
    // Ends before its files are removed.
    process: Process,
    dir: TempDir,
}

impl Mesh {
    /// Starts it with options of `mesh up`, and waits until it is ready.
    pub fn start(options: &[&str]) -> Self {
        Self::start_with(Sdk::V1_13, options)
    }

    /// The same with a version of the SDK.
    pub fn start_with(sdk: Sdk, options: &[&str]) -> Self {
        let dir = TempDir::with_prefix("vl3lb-nsm").expect("make a temporary directory");
        // It makes namespaces of its own; this one has a mount namespace, and ends it with this thread.
        let place = Netns::new("mesh").or_panic();
        let mut command = place.command(program(sdk));
        command
            .arg("up")
            .arg("--dir")
            .arg(dir.path())
            .args(options)
            .stdin(Stdio::null());
        let log = dir.path().with_extension("log");
        let process = Process::start(&mut command, &log).or_panic();
        let mut mesh = Self { process, dir };
        wait::until("the mesh to be ready", 2 * wait::STEP, || {
            mesh.process.check_running().or_panic();
            let ready = mesh.process.log().lines().any(|line| line == "ready");
            ready.then_some(()).ok_or("not ready")
        });
        std::fs::remove_file(log).expect("remove the log of the mesh");
        mesh
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// NSM_CONNECT_TO of the pods of a node.
    pub fn connect_to(&self, node: usize) -> String {
        let socket = self.dir.path().join(format!("node-{node}/nsm.io.sock"));
        format!("unix://{}", socket.display())
    }

    /// SPIFFE_ENDPOINT_SOCKET of a pod that is no part of the mesh.
    pub fn identity(&self, name: &str) -> String {
        let answer = self.post(&format!("/identities/{name}"), &Value::Null);
        answer["socket"].as_str().expect("a socket").to_owned()
    }

    /// Gives a namespace an interface eth0 in the cluster network, by which it reaches the managers of other nodes.
    pub fn attach_pod(&self, netns: &Netns) -> IpAddr {
        let answer = self.post("/pods", &json!({"netns": netns.path()}));
        let address = answer["address"].as_str().expect("an address");
        address.parse().expect("an IP address")
    }

    /// Sends a request to the control server; panics with its error.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        self.request("POST", path, body)
    }

    /// What the control server says of a part.
    pub fn part(&self, name: &str) -> Value {
        self.request("GET", &format!("/parts/{name}"), &Value::Null)
    }

    /// The connections of a node's manager, as a client's monitor shows them.
    pub fn connections(&self, node: usize) -> Vec<Value> {
        let answer = self.request("GET", &format!("/connections/{node}"), &Value::Null);
        answer.as_array().expect("a list").clone()
    }

    /// SIGKILL, and nothing else: sockets and registrations stay.
    pub fn kill(&self, part: &str) {
        self.change(part, "kill");
    }

    /// Starts it again, and waits until it is ready.
    pub fn start_again(&self, part: &str) {
        self.change(part, "start");
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&self, part: &str) {
        self.change(part, "stop");
    }

    /// Kills it, and starts it again after [`OUTAGE`].
    pub fn interrupt(&self, part: &str) {
        self.kill(part);
        std::thread::sleep(OUTAGE);
        self.start_again(part);
    }

    /// Ends all streams of a manager, or closes its connections: `eof`, `error`, `connections`.
    pub fn cut(&self, manager: &str, how: &str) {
        self.post(&format!("/parts/{manager}/cut"), &how.into());
    }

    /// Makes the data plane `dead`, `alive` again, or `lost` with all its interfaces.
    pub fn data_plane(&self, state: &str) {
        self.post(&format!("/dataplane/{state}"), &Value::Null);
    }

    fn change(&self, part: &str, action: &str) {
        self.post(&format!("/parts/{part}/{action}"), &Value::Null);
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        control::request(&self.dir.path().join("control"), method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path} {body}: {error}"))
    }

    fn show_logs(&self) {
        let logs = std::fs::read_dir(self.dir.path().join("log"))
            .into_iter()
            .flatten();
        for entry in logs.flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
            eprintln!("--- end of {}\n{}", entry.path().display(), tail.join("\n"));
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        // At once: nobody waits for the parts' goodbyes. It waits for their end, which SIGKILL would not.
        if self.process.signal(Signal::QUIT).is_ok() {
            self.process.wait_end(wait::STEP).ok();
        }
    }
}

/// A program of the folder in VL3LB_NSM_BIN.
pub fn program(sdk: Sdk) -> PathBuf {
    const SET_UP: &str = "`./run test` builds it and sets it";
    let folder = std::env::var_os("VL3LB_NSM_BIN");
    let folder = folder.unwrap_or_else(|| panic!("VL3LB_NSM_BIN, the folder of mesh, is not set: {SET_UP}"));
    let path = Path::new(&folder).join(sdk.program());
    assert!(path.is_file(), "there is no {}: {SET_UP}", path.display());
    path
}
