//! Headless Chromium in a network namespace, driven by WebDriver (<https://www.w3.org/TR/webdriver2/>).

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use vl3lb_testbed::process::{self, Process};
use vl3lb_testbed::{Netns, OrPanic};

use crate::wait;

const DRIVER_PORT: u16 = 9515;
/// A cold start of Chromium on a busy machine.
const START: Duration = Duration::from_secs(90);

/// A browser with one window. Dropping it ends it.
#[derive(Debug)]
pub struct Browser<'a> {
    netns: &'a Netns,
    session: String,
    _driver: Process,
    _folder: TempDir,
}

impl<'a> Browser<'a> {
    /// Starts it in this namespace, whose loopback interface must be up.
    pub fn start(netns: &'a Netns) -> Self {
        let folder = TempDir::with_prefix("vl3lb-browser").expect("make a temporary directory");
        let mut command = netns.command("chromedriver");
        command.arg(format!("--port={DRIVER_PORT}"));
        // It keeps files of its own there.
        command.env("HOME", folder.path());
        let driver = Process::start(&mut command, &folder.path().join("log")).or_panic();
        let options = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": [
                "--headless=new",
                // Tests run as root, which its sandbox refuses.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--window-size=1400,1000",
                format!("--user-data-dir={}", folder.path().join("profile").display()),
            ]},
        }}});
        let session = wait::until("a session of the browser", START, || {
            let answer = request(netns, "POST", "session", Some(&options), START)?;
            let id = answer["sessionId"].as_str();
            id.map(str::to_owned).ok_or_else(|| answer.to_string())
        });
        Self {
            netns,
            session,
            _driver: driver,
            _folder: folder,
        }
    }

    fn command(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let path = format!("session/{}/{path}", self.session);
        request(self.netns, method, &path, body, wait::STEP)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Opens a page, and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.command("POST", "url", Some(&json!({"url": url})));
    }

    /// Runs the body of a function in the page. Its result as JSON.
    pub fn script(&self, body: &str) -> Value {
        self.command("POST", "execute/sync", Some(&json!({"script": body, "args": []})))
    }

    /// Runs the body of a function in the page that passes its result to its last argument.
    pub fn asynchronous_script(&self, body: &str) -> Value {
        self.command(
            "POST",
            "execute/async",
            Some(&json!({"script": body, "args": []})),
        )
    }

    /// Waits until the script's result is true.
    pub fn wait_until(&self, purpose: &str, script: &str) {
        wait::until(purpose, wait::STEP, || match self.script(script) {
            Value::Bool(true) => Ok(()),
            other => Err(format!("{other}: {}", self.text())),
        });
    }

    /// The text of the page as it is seen.
    pub fn text(&self) -> String {
        let text = self.script("return document.body.innerText");
        text.as_str().expect("a text").to_owned()
    }

    /// Prefers dark or light colours.
    pub fn set_dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": value}]);
        let body = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        self.command("POST", "goog/cdp/execute", Some(&body));
    }

    /// The messages of the console since the last call, errors of requests included.
    pub fn console(&self) -> Vec<Value> {
        let log = self.command("POST", "se/log", Some(&json!({"type": "browser"})));
        log.as_array().expect("a list").clone()
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        // Chromium ends with its session; a driver that is terminated leaves it running.
        let path = format!("session/{}", self.session);
        request(self.netns, "DELETE", &path, None, wait::STEP).ok();
    }
}

/// The value of the driver's response. Errors: its message.
fn request(
    netns: &Netns,
    method: &str,
    path: &str,
    body: Option<&Value>,
    limit: Duration,
) -> Result<Value, String> {
    let mut command = netns.command("curl");
    command.args(["--silent", "--show-error", "--request", method]);
    command.arg("--max-time").arg(limit.as_secs().to_string());
    // A script may be longer than an argument can be.
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    if let Some(body) = body {
        std::fs::write(file.path(), body.to_string()).map_err(|error| error.to_string())?;
        let data = format!("@{}", file.path().display());
        command.args([
            "--header",
            "Content-Type: application/json",
            "--data-binary",
            &data,
        ]);
    }
    command.arg(format!("http://127.0.0.1:{DRIVER_PORT}/{path}"));
    let answer = process::run(&mut command).map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
    let value = &answer["value"];
    match value["error"].as_str() {
        Some(error) => Err(format!("{error}: {}", value["message"])),
        None => Ok(value.clone()),
    }
}
