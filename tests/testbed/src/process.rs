//! Programs that run until they are stopped, and programs that run to their end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::TestbedError;

/// Time that a program has to end after SIGTERM, before it gets SIGKILL.
const TERMINATION: Duration = Duration::from_secs(3);
/// Time between two looks at a program that is to end.
const POLL: Duration = Duration::from_millis(5);
/// Lines of the log in an error.
const LOG_TAIL: usize = 10;

/// A running program. Dropping it ends it: SIGTERM, and SIGKILL after three seconds.
#[derive(Debug)]
pub struct Process {
    program: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self, TestbedError> {
        let file = File::options().create(true).append(true).open(log);
        let files = file.and_then(|file| Ok((file.try_clone()?, file)));
        let (output, error) = files.map_err(TestbedError::system(format!("open {}", log.display())))?;
        let child = command
            .stdout(output)
            .stderr(error)
            .spawn()
            .map_err(|cause| not_started(command, cause))?;
        Ok(Self {
            program: line(command),
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status if it has ended.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>, TestbedError> {
        self.child
            .try_wait()
            .map_err(TestbedError::system(format!("look at {}", self.program)))
    }

    /// An error with the end of its log if it has ended.
    pub fn check_running(&mut self) -> Result<(), TestbedError> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => Err(TestbedError::Failed {
                program: self.program.clone(),
                status,
                output: self.log_tail(LOG_TAIL),
            }),
        }
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The last `count` lines of its output.
    pub fn log_tail(&self, count: usize) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), TestbedError> {
        kill_process(Pid::from_child(&self.child), signal).map_err(TestbedError::system(format!(
            "send signal {} to {}",
            signal.as_raw(),
            self.program
        )))
    }

    /// Waits until it ends.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus, TestbedError> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                return Err(TestbedError::StillRunning {
                    program: self.program.clone(),
                    limit,
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Sends SIGKILL and waits for its end.
    pub fn kill(&mut self) -> Result<ExitStatus, TestbedError> {
        let attempt = || TestbedError::system(format!("kill {}", self.program));
        self.child.kill().map_err(attempt())?;
        self.child.wait().map_err(attempt())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.exit_status(), Ok(None)) && self.signal(Signal::TERM).is_ok() {
            self.wait_end(TERMINATION).ok();
        }
        // Neither has an effect if it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs `command` to its end, whatever its exit status.
pub fn output(command: &mut Command) -> Result<Output, TestbedError> {
    command.output().map_err(|cause| not_started(command, cause))
}

/// Runs `command` to its end and returns its standard output. An exit status other than 0 is an error.
pub fn run(command: &mut Command) -> Result<String, TestbedError> {
    let output = output(command)?;
    check(command, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn check(command: &Command, output: &Output) -> Result<(), TestbedError> {
    if output.status.success() {
        return Ok(());
    }
    let [text, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    Err(TestbedError::Failed {
        program: line(command),
        status: output.status,
        output: format!("{text}{error}").trim().to_owned(),
    })
}

pub(crate) fn not_started(command: &Command, cause: io::Error) -> TestbedError {
    TestbedError::Start {
        program: line(command),
        cause,
    }
}

/// Program and arguments, as in a shell but without quotes.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
