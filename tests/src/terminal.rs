//! A terminal of its own (tmux) in a network namespace, with a shell in it that a test types into.

use std::process::Output;

use tempfile::TempDir;
use vl3lb_testbed::Netns;

use crate::client::text;
use crate::wait;

/// The prompt of the shell.
const PROMPT: &str = "ready>";

/// A terminal with a shell. Dropping it ends both.
#[derive(Debug)]
pub struct Terminal<'a> {
    netns: &'a Netns,
    folder: TempDir,
}

impl<'a> Terminal<'a> {
    /// Starts a shell in a terminal of this size.
    pub fn start(netns: &'a Netns, width: u16, height: u16) -> Self {
        let folder = TempDir::with_prefix("vl3lb-terminal").expect("make a temporary directory");
        let terminal = Self { netns, folder };
        let shell = format!("exec env -u NO_COLOR PS1='{PROMPT} ' sh");
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &width.to_string(),
            "-y",
            &height.to_string(),
            &shell,
        ]);
        terminal.wait_for_prompt();
        terminal
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.netns
            .command("tmux")
            .arg("-S")
            .arg(self.folder.path().join("socket"))
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .expect("run tmux")
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "tmux {arguments:?}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types keys: names such as `Tab`, `Enter` and `C-c`, or text.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "--"], keys].concat());
    }

    /// Types a line into the shell.
    pub fn type_line(&self, line: &str) {
        self.press(&[line, "Enter"]);
    }

    /// The text on the screen.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The text on the screen with its colours, as escape sequences.
    pub fn colored_screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Waits until the screen is as `wanted`.
    pub fn wait_until(&self, purpose: &str, wanted: impl Fn(&str) -> bool) {
        wait::until(purpose, wait::STEP, || {
            let screen = self.screen();
            if wanted(&screen) {
                Ok(())
            } else {
                Err(format!("\n{screen}"))
            }
        });
    }

    /// Waits until the last line is an empty prompt.
    pub fn wait_for_prompt(&self) {
        self.wait_until("the prompt of the shell", |screen| {
            screen
                .trim_end()
                .lines()
                .next_back()
                .is_some_and(|line| line.trim_end() == PROMPT)
        });
    }

    /// Changes the size.
    pub fn resize(&self, width: u16, height: u16) {
        let (width, height) = (width.to_string(), height.to_string());
        self.tmux(&["resize-window", "-x", &width, "-y", &height]);
    }

    /// Whether a program in full screen has a screen of its own, and whether the cursor is visible.
    pub fn modes(&self) -> (bool, bool) {
        let modes = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        let mut words = modes.split_whitespace().map(|word| word == "1");
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    /// The process id of the shell's only child.
    pub fn child(&self) -> u32 {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let path = format!("/proc/{shell}/task/{shell}/children");
        let children = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
        let mut children = children.split_whitespace().map(str::parse);
        match (children.next(), children.next()) {
            (Some(Ok(child)), None) => child,
            _ => panic!("{path}: not one child"),
        }
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- the screen\n{}\n---",
                String::from_utf8_lossy(&self.run(&["capture-pane", "-p"]).stdout)
            );
        }
        self.run(&["kill-server"]);
    }
}
