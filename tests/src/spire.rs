//! Real SPIRE: a server and an agent, which gives identities to programs by their path.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use vl3lb_testbed::process::{Process, run};
use vl3lb_testbed::{Netns, OrPanic};

use crate::wait;

/// The trust domain of Network Service Mesh.
pub const TRUST_DOMAIN: &str = "k8s.nsm";
const AGENT: &str = "spiffe://k8s.nsm/agent";

/// A running server with one agent. Dropping it ends both.
#[derive(Debug)]
pub struct Spire {
    // End before their files are removed.
    _agent: Process,
    _server: Process,
    // The network through which they talk.
    _netns: Netns,
    dir: TempDir,
}

impl Spire {
    /// Starts both. SVIDs live for `ttl`, for example `60s`, and are renewed at half of it.
    pub fn start(ttl: &str) -> Self {
        let dir = TempDir::with_prefix("vl3lb-spire").expect("make a temporary directory");
        let netns = Netns::new("spire").or_panic();
        let files = dir.path().display();
        // RSA authority and one hour as in the examples of Network Service Mesh, but for the time.
        let server = format!(
            r#"server {{
                bind_address = "127.0.0.1"
                bind_port = "8081"
                socket_path = "{files}/server.sock"
                trust_domain = "{TRUST_DOMAIN}"
                data_dir = "{files}/server"
                ca_key_type = "rsa-2048"
                default_x509_svid_ttl = "{ttl}"
            }}
            plugins {{
                DataStore "sql" {{
                    plugin_data {{ database_type = "sqlite3" connection_string = "{files}/server.sqlite3" }}
                }}
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                KeyManager "memory" {{ plugin_data {{}} }}
            }}"#
        );
        let server = start(&netns, dir.path(), "spire-server", &server, &[]);
        wait::until("the SPIRE server", wait::STEP, || {
            control(dir.path(), &["healthcheck"])
        });
        let token = control(
            dir.path(),
            &["token", "generate", "-spiffeID", AGENT, "-output", "json"],
        )
        .or_panic();
        let token: Value = serde_json::from_str(&token).expect("spire-server prints JSON");
        let token = token["value"].as_str().expect("a token");
        // The server is on the loopback interface of the same namespace: nobody else can answer for it.
        let agent = format!(
            r#"agent {{
                data_dir = "{files}/agent"
                server_address = "127.0.0.1"
                server_port = "8081"
                socket_path = "{files}/agent.sock"
                trust_domain = "{TRUST_DOMAIN}"
                insecure_bootstrap = true
            }}
            plugins {{
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                KeyManager "memory" {{ plugin_data {{}} }}
                WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
            }}"#
        );
        let agent = start(&netns, dir.path(), "spire-agent", &agent, &["-joinToken", token]);
        let spire = Self {
            _agent: agent,
            _server: server,
            _netns: netns,
            dir,
        };
        wait::until("the SPIRE agent", wait::STEP, || {
            spire
                .dir
                .path()
                .join("agent.sock")
                .exists()
                .then_some(())
                .ok_or("it has no socket")
        });
        spire
    }

    /// The URL of the Workload API, for all programs.
    pub fn workload_api(&self) -> String {
        format!("unix://{}/agent.sock", self.dir.path().display())
    }

    /// Gives a program the identity `spiffe://k8s.nsm/PATH`; the agent notices within five seconds.
    pub fn register(&self, program: &Path, path: &str) -> String {
        let id = format!("spiffe://{TRUST_DOMAIN}/{path}");
        let program = program.canonicalize().expect("the program is there");
        let selector = format!("unix:path:{}", program.display());
        let entry = [
            "entry",
            "create",
            "-parentID",
            AGENT,
            "-spiffeID",
            &id,
            "-selector",
            &selector,
        ];
        control(self.dir.path(), &entry).or_panic();
        id
    }
}

fn start(netns: &Netns, dir: &Path, name: &str, configuration: &str, arguments: &[&str]) -> Process {
    let file = dir.join(name).with_extension("conf");
    std::fs::write(&file, configuration).expect("write the configuration of SPIRE");
    let mut command = netns.command(program(name));
    command
        .args(["run", "-config"])
        .arg(&file)
        .args(arguments)
        .stdin(Stdio::null());
    Process::start(&mut command, &dir.join(name).with_extension("log")).or_panic()
}

/// Runs a command of the server.
fn control(dir: &Path, arguments: &[&str]) -> Result<String, vl3lb_testbed::TestbedError> {
    let mut command = Command::new(program("spire-server"));
    command
        .args(arguments)
        .arg("-socketPath")
        .arg(dir.join("server.sock"));
    run(&mut command)
}

/// A program of the folder in VL3LB_SPIRE_BIN.
fn program(name: &str) -> PathBuf {
    const SET_UP: &str = "`./run setup nsm` builds it, and `./run test nsm` sets it then";
    let folder = std::env::var_os("VL3LB_SPIRE_BIN");
    let folder =
        folder.unwrap_or_else(|| panic!("VL3LB_SPIRE_BIN, the folder of SPIRE, is not set: {SET_UP}"));
    let path = Path::new(&folder).join(name);
    assert!(path.is_file(), "there is no {}: {SET_UP}", path.display());
    path
}
