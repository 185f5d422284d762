//! A Kubernetes API server with its etcd, and without scheduler, controllers and nodes: the test does their work.
//!
//! Both run in a network namespace of the test, keep their files in a temporary folder, and end when the test is
//! killed. The programs are in the folder VL3LB_CLUSTER_BIN.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::text;
use crate::metrics::Metrics;
use crate::wait;
use vl3lb_testbed::process::{self, Process};
use vl3lb_testbed::{Netns, OrPanic};

const PORT: u16 = 6443;
/// Token of the user with all permissions.
const ADMIN_TOKEN: &str = "admin-of-the-test";
/// The server needs five seconds of a free core to start.
const START: Duration = Duration::from_secs(90);

/// The path of a program of the cluster.
pub fn program(name: &str) -> PathBuf {
    const SET_UP: &str = "`./run test cluster` builds them and sets it";
    let folder = std::env::var_os("VL3LB_CLUSTER_BIN")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            panic!("VL3LB_CLUSTER_BIN, the folder of Kubernetes' programs, is not set: {SET_UP}")
        });
    let path = folder.join(name);
    assert!(path.is_file(), "there is no {}: {SET_UP}", path.display());
    path
}

/// A running API server. Dropping it ends it, and prints the end of its log if the test is failing.
#[derive(Debug)]
pub struct ApiServer {
    netns: Netns,
    address: IpAddr,
    /// More options of the program.
    options: Vec<String>,
    dir: TempDir,
    // The server ends before etcd.
    server: Option<Process>,
    _etcd: Process,
}

impl ApiServer {
    /// Starts it at `address`, port 6443, of `netns`, and waits until it is ready.
    pub fn start(netns: &Netns, address: IpAddr) -> Self {
        Self::start_with(netns, address, &[])
    }

    /// The same with more options, such as `--watch-cache=false`.
    pub fn start_with(netns: &Netns, address: IpAddr, options: &[&str]) -> Self {
        let dir = TempDir::with_prefix("vl3lb-api-server").expect("make a temporary directory");
        let etcd = start_etcd(netns, dir.path());
        // The key that signs the tokens of service accounts.
        process::run(
            Command::new("openssl")
                .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
                .arg(dir.path().join("service-account.key")),
        )
        .or_panic();
        let tokens = format!("{ADMIN_TOKEN},admin,admin,system:masters\n");
        std::fs::write(dir.path().join("tokens.csv"), tokens).expect("write the token");
        let mut server = Self {
            netns: netns.clone(),
            address,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            dir,
            server: None,
            _etcd: etcd,
        };
        server.write_kubeconfig("admin.json", ADMIN_TOKEN, "default");
        server.restart();
        server
    }

    /// Kills the API server. etcd goes on and keeps what was stored.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().or_panic();
        }
    }

    /// Starts it again, or for the first time, and waits until it is ready.
    pub fn restart(&mut self) {
        self.kill();
        let dir = self.dir.path();
        let file = |name: &str| dir.join(name).display().to_string();
        let mut options = vec![
            format!("--advertise-address={}", self.address),
            "--authorization-mode=RBAC".to_owned(),
            // Forwarders of Network Service Mesh need it.
            "--allow-privileged".to_owned(),
            // It creates its certificate there.
            format!("--cert-dir={}", file("certificates")),
            // No controller creates the namespaces' service accounts.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            // No Service `kubernetes` is needed, and one cannot have a loopback address.
            "--endpoint-reconciler-type=none".to_owned(),
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--secure-port={PORT}"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("service-account.key")),
            format!(
                "--service-account-signing-key-file={}",
                file("service-account.key")
            ),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--token-auth-file={}", file("tokens.csv")),
        ];
        options.extend(self.options.iter().cloned());
        let mut server = start(&self.netns, "kube-apiserver", &options, &dir.join("server.log"));
        wait::until("the API server to be ready", START, || {
            server.check_running().or_panic();
            if !dir.join("certificates/apiserver.crt").exists() {
                return Err("no certificate yet".to_owned());
            }
            let ready = self.try_get("/readyz");
            std::thread::sleep(Duration::from_millis(100));
            ready.map(|_| ()).map_err(|error| error.to_string())
        });
        self.server = Some(server);
    }

    /// The kubeconfig of the user with all permissions; its namespace is `default`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.json")
    }

    /// Creates a namespace and a service account in it, unless they exist, and a kubeconfig with a token of the
    /// account and the namespace.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.run(async |client| {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            create(&namespaces, json!({"metadata": {"name": namespace}})).await;
            let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
            create(&accounts, json!({"metadata": {"name": account}})).await;
            let request = TokenRequest {
                spec: Some(TokenRequestSpec::default()),
                ..TokenRequest::default()
            };
            accounts
                .create_token_request(account, &PostParams::default(), &request)
                .await
                .expect("request a token")
                .status
                .expect("an accepted TokenRequest has a status")
                .token
                .expect("a status has a token")
        });
        let name = format!("{namespace}.{account}.json");
        self.write_kubeconfig(&name, &token, namespace);
        self.dir.path().join(name)
    }

    /// Runs `work` with a client that has all permissions, on a thread in the server's namespace.
    pub fn run<T: Send>(&self, work: impl AsyncFnOnce(kube::Client) -> T + Send) -> T {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).expect("read the kubeconfig");
        self.netns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("start a runtime");
            runtime.block_on(async {
                let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .expect("load the kubeconfig");
                work(kube::Client::try_from(config).expect("create a client")).await
            })
        })
    }

    /// Runs kubectl, with `input` as its standard input.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let file = self.dir.path().join("input");
        std::fs::write(&file, input).expect("write kubectl's input");
        self.netns
            .command(program("kubectl").to_str().expect("UTF-8"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            // Without a cache it lists all resources each time.
            .arg("--cache-dir")
            .arg(self.dir.path().join("kubectl"))
            .args(arguments)
            .stdin(File::open(&file).expect("open kubectl's input"))
            .output()
            .expect("run kubectl")
    }

    /// The output of [`kubectl`](Self::kubectl); panics if it fails.
    pub fn must_kubectl(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl(arguments, input);
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            text(&output)
        );
        String::from_utf8(output.stdout).expect("kubectl prints UTF-8")
    }

    /// Compacts etcd: a watch from an earlier revision gets 410 Gone, at the latest after the next
    /// [`restart`](Self::restart).
    pub fn compact(&self) {
        // etcd's gRPC gateway: https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/
        let post = |path: &str, body: &str| -> Value {
            let mut curl = self.netns.command("curl");
            curl.args(["-sSf", "--max-time", "10", "--data", body]);
            let answer = process::run(curl.arg(format!("http://127.0.0.1:2379{path}"))).or_panic();
            serde_json::from_str(&answer).unwrap_or_else(|error| panic!("etcd {path}: {error}: {answer}"))
        };
        let key = post("/v3/kv/range", r#"{"key": "AA=="}"#);
        let revision = key["header"]["revision"].as_str().expect("a revision");
        post(
            "/v3/kv/compaction",
            &format!(r#"{{"revision": "{revision}", "physical": true}}"#),
        );
    }

    /// The body of the answer to a GET of `path`; panics unless it succeeds.
    pub fn get(&self, path: &str) -> String {
        self.try_get(path)
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// The object at `path`, if there is one.
    pub fn find(&self, path: &str) -> Option<Value> {
        match self.run(async |client| {
            let request = http::Request::get(path).body(Vec::new()).expect("a request");
            client.request(request).await
        }) {
            Ok(object) => Some(object),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("GET {path}: {error}"),
        }
    }

    /// Applies the object at `path` (server-side apply): fields of an earlier call that this one lacks are removed.
    pub fn apply(&self, path: &str, object: &Value) {
        let applied: kube::Result<Value> = self.run(async |client| {
            let request = http::Request::patch(format!("{path}?fieldManager=test&force=true"))
                .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
                .body(object.to_string().into_bytes())
                .expect("a request");
            client.request(request).await
        });
        applied.unwrap_or_else(|error| panic!("apply {path}: {error}"));
    }

    /// Number of requests since the server's start, by verb, such as LIST, and resource.
    pub fn requests(&self, verb: &str, resource: &str) -> f64 {
        let metrics = self.get("/metrics");
        // Only these: the server has many metrics.
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("apiserver_request_total{"));
        Metrics::parse(&lines.collect::<Vec<_>>().join("\n")).sum(
            "apiserver_request_total",
            &[("verb", verb), ("resource", resource)],
        )
    }

    fn try_get(&self, path: &str) -> kube::Result<String> {
        self.run(async |client| {
            let request = http::Request::get(path).body(Vec::new()).expect("a request");
            client.request_text(request).await
        })
    }

    fn write_kubeconfig(&self, name: &str, token: &str, namespace: &str) {
        let server = format!("https://{}", SocketAddr::new(self.address, PORT));
        let certificate = self.dir.path().join("certificates/apiserver.crt");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": certificate}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{
                "name": "test",
                "context": {"cluster": "test", "user": "test", "namespace": namespace},
            }],
            "current-context": "test",
        });
        std::fs::write(self.dir.path().join(name), config.to_string()).expect("write a kubeconfig");
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(20)..];
            eprintln!("--- log of the API server, its end\n{}\n---", tail.join("\n"));
        }
    }
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let object = serde_json::from_value(object).expect("an object");
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => panic!("create {object:?}: {error}"),
    }
}

fn start_etcd(netns: &Netns, dir: &Path) -> Process {
    let options = [
        format!("--data-dir={}", dir.join("etcd").display()),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-cluster=default=http://127.0.0.1:2380".to_owned(),
        // The data does not outlive the test.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    start(netns, "etcd", &options, &dir.join("etcd.log"))
}

fn start(netns: &Netns, name: &str, options: &[String], log: &Path) -> Process {
    let mut command = netns.command(program(name));
    Process::start(command.args(options).stdin(Stdio::null()), log).or_panic()
}
