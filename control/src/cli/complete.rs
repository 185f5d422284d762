//! Completion of commands, flags and names: the shell runs this program at each Tab.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Zsh};

use super::args::{Cli, Shell};
use super::exit::Failure;

/// The environment variable by which the shell's script requests completions.
const VARIABLE: &str = "VL3LB_COMPLETE";

/// Prints completions if a shell requested them. True if it did: the program is done.
///
/// Call it before any thread starts: it changes the environment.
pub fn complete() -> bool {
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .try_complete(std::env::args_os(), here.as_deref())
        // The shell is unknown or gone, so an error would not be read.
        .unwrap_or(true)
}

/// The script that makes `shell` run this program, by the name that it was called by.
pub(super) fn script(shell: Shell) -> Result<Vec<u8>, Failure> {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let called = std::env::args_os().next().unwrap_or_else(|| "vl3-lb".into());
    let mut program = PathBuf::from(called);
    // A name is looked up in PATH each time; a path has to hold in every folder.
    if program.components().count() > 1 {
        program = std::path::absolute(&program)?;
    }
    let mut script = Vec::new();
    let name = "vl3-lb";
    completer.write_registration(VARIABLE, name, name, &program.to_string_lossy(), &mut script)?;
    Ok(script)
}
