//! A Kubernetes API server with its etcd and nothing else: no scheduler, controllers or nodes, so that a test
//! plays all of them.
//!
//! Both run in a network namespace of the test's, keep their files in a folder that goes with them, and end
//! when the test is killed. Programs come from the folder that VL3LB_CLUSTER_BIN names.

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
/// Of the user that may do everything.
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

/// A started API server. Dropping it ends it, and shows the end of its log if the test is failing.
#[derive(Debug)]
pub struct ApiServer {
    place: Netns,
    address: IpAddr,
    /// More options of the program.
    options: Vec<String>,
    dir: TempDir,
    // In the order in which they end.
    server: Option<Process>,
    _etcd: Process,
}

impl ApiServer {
    /// Starts it at `address`, port 6443, of the namespace `place`, and waits until it is ready.
    pub fn start(place: &Netns, address: IpAddr) -> Self {
        Self::start_with(place, address, &[])
    }

    /// The same with more options, such as `--watch-cache=false`.
    pub fn start_with(place: &Netns, address: IpAddr, options: &[&str]) -> Self {
        let dir = TempDir::with_prefix("vl3lb-api-server").expect("make a temporary directory");
        let etcd = start_etcd(place, dir.path());
        // Signs the tokens of service accounts.
        process::run(
            Command::new("openssl")
                .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
                .arg(dir.path().join("service-account.key")),
        )
        .or_panic();
        let tokens = format!("{ADMIN_TOKEN},admin,admin,system:masters\n");
        std::fs::write(dir.path().join("tokens.csv"), tokens).expect("write the token");
        let mut server = Self {
            place: place.clone(),
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
            // Its own certificate is made there, by itself.
            format!("--cert-dir={}", file("certificates")),
            // The namespaces' service accounts would have to be made by a controller.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            // No service `kubernetes` leads to it, and a loopback address may not.
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
        let mut server = start(&self.place, "kube-apiserver", &options, &dir.join("server.log"));
        wait::until("the API server to be ready", START, || {
            server.check_running().or_panic();
            if !dir.join("certificates/apiserver.crt").exists() {
                return Err("no certificate yet".to_owned());
            }
            let ready = self.try_get("/readyz");
            std::thread::sleep(Duration::from_millis(100));
            ready.map(|_| ())
        });
        self.server = Some(server);
    }

    /// The kubeconfig of the user that may do everything; its namespace is `default`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.json")
    }

    /// Makes a namespace and a service account in it, if they are not there, and a kubeconfig with a token
    /// of the account and the namespace.
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
                .expect("an answered request has a status")
                .token
                .expect("a status has a token")
        });
        let name = format!("{namespace}.{account}.json");
        self.write_kubeconfig(&name, &token, namespace);
        self.dir.path().join(name)
    }

    /// Runs `work` with a client that may do everything, on a thread in the server's namespace.
    pub fn run<T: Send>(&self, work: impl AsyncFnOnce(kube::Client) -> T + Send) -> T {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).expect("read the kubeconfig");
        self.place.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("start a runtime");
            runtime.block_on(async {
                let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .expect("understand the kubeconfig");
                work(kube::Client::try_from(config).expect("make a client")).await
            })
        })
    }

    /// Runs kubectl, with `input` as its standard input.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let file = self.dir.path().join("input");
        std::fs::write(&file, input).expect("write kubectl's input");
        self.place
            .command(program("kubectl").to_str().expect("UTF-8"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            // Else it asks for the list of all resources each time.
            .arg("--cache-dir")
            .arg(self.dir.path().join("kubectl"))
            .args(arguments)
            .stdin(File::open(&file).expect("open kubectl's input"))
            .output()
            .expect("run kubectl")
    }

    /// Like [`kubectl`](Self::kubectl), and panics if it fails. What it printed.
    pub fn must_kubectl(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl(arguments, input);
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            text(&output)
        );
        String::from_utf8(output.stdout).expect("kubectl prints UTF-8")
    }

    /// Makes etcd forget all revisions before the current one: whoever asks for changes since an older one
    /// gets 410 Gone, at the latest after the next [`restart`](Self::restart).
    pub fn compact(&self) {
        // etcd's gRPC gateway: https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/
        let post = |path: &str, body: &str| -> Value {
            let mut curl = self.place.command("curl");
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

    /// What the server answers to a GET of `path`; panics if it is no success.
    pub fn get(&self, path: &str) -> String {
        self.try_get(path).unwrap_or_else(|error| panic!("{error}"))
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

    /// Applies the object at `path`: what an earlier call gave it, and this one does not, is taken away.
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

    /// How many requests the server answered since its start, by verb, such as LIST, and resource.
    pub fn requests(&self, verb: &str, resource: &str) -> f64 {
        let metrics = self.get("/metrics");
        // The rest of its metrics is not needed, and much.
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("apiserver_request_total{"));
        Metrics::parse(&lines.collect::<Vec<_>>().join("\n")).sum(
            "apiserver_request_total",
            &[("verb", verb), ("resource", resource)],
        )
    }

    fn try_get(&self, path: &str) -> Result<String, String> {
        self.run(async |client| {
            let request = http::Request::get(path).body(Vec::new()).expect("a request");
            client.request_text(request).await
        })
        .map_err(|error| format!("GET {path}: {error}"))
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

fn start_etcd(place: &Netns, dir: &Path) -> Process {
    let options = [
        format!("--data-dir={}", dir.join("etcd").display()),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--initial-cluster=default=http://127.0.0.1:2380".to_owned(),
        // What it stores does not outlive the test.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    start(place, "etcd", &options, &dir.join("etcd.log"))
}

fn start(place: &Netns, name: &str, options: &[String], log: &Path) -> Process {
    let mut command = place.command(program(name));
    Process::start(command.args(options).stdin(Stdio::null()), log).or_panic()
}
