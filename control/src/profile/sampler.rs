//! Takes profiles with the crate `pprof`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use pprof::{Frames, ProfilerGuard, ProfilerGuardBuilder};
use prost::Message;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::ProfileError;
use super::builder::{Builder, Symbol, Timing};
use crate::version;

/// Samples per second of CPU time. 99 would beat less with what happens each 10 ms, but the kernel's timer rounds it to ticks.
const FREQUENCY: i32 = 100;
/// Samples whose innermost function is in these libraries are left out: their unwinding may need what they have locked. The
/// workers' system calls are in the program itself.
const LIBRARIES: [&str; 4] = ["libc.so", "libgcc", "pthread", "vdso"];

/// Takes one profile at a time, if the configuration allows any.
#[derive(Debug)]
pub struct Profiler {
    enabled: bool,
    /// The one that may run.
    turn: Arc<Semaphore>,
    folder: Arc<Folder>,
}

impl Profiler {
    /// `socket`: the admin socket, beside which the crate may have a file.
    pub fn new(enabled: bool, socket: &Path) -> Self {
        Self {
            enabled,
            turn: Arc::new(Semaphore::new(1)),
            folder: Arc::new(Folder(socket.with_extension("profile"))),
        }
    }

    /// Samples this process for so long: an encoded [`Profile`](super::proto::Profile). Dropping the future ends it.
    ///
    /// Errors: switched off, or one is being taken.
    pub async fn take(&self, duration: Duration) -> Result<Vec<u8>, ProfileError> {
        if !self.enabled {
            return Err(ProfileError::Off);
        }
        let turn = Arc::clone(&self.turn).try_acquire_owned();
        let turn = turn.map_err(|_| ProfileError::Busy)?;
        let folder = Arc::clone(&self.folder);
        let (_request, abandoned) = sync_channel::<()>(0);
        let sampled = spawn_blocking(move || {
            let _turn = turn;
            sample(&folder, duration, &abandoned)
        });
        sampled
            .await
            .map_err(|error| ProfileError::Failed(error.to_string()))?
    }
}

fn sample(folder: &Folder, duration: Duration, abandoned: &Receiver<()>) -> Result<Vec<u8>, ProfileError> {
    let failed = |error: pprof::Error| ProfileError::Failed(error.to_string());
    folder
        .ensure()
        .map_err(|error| ProfileError::Failed(format!("create {}: {error}", folder.0.display())))?;
    let guard = ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .blocklist(&LIBRARIES)
        .build()
        .map_err(failed)?;
    // The first time, it was prepared for a while.
    let (start, begun) = (SystemTime::now(), Instant::now());
    match abandoned.recv_timeout(duration) {
        Err(RecvTimeoutError::Timeout) => {}
        Ok(()) | Err(RecvTimeoutError::Disconnected) => return Err(ProfileError::Abandoned),
    }
    let timing = Timing {
        start,
        duration: begun.elapsed(),
        period: Duration::from_secs(1) / FREQUENCY.unsigned_abs(),
    };
    encode(guard, timing).map_err(failed)
}

/// Ends the sampling, then names the functions, which takes a while.
fn encode(guard: ProfilerGuard<'_>, timing: Timing) -> Result<Vec<u8>, pprof::Error> {
    let stacks = guard.report().build_unresolved()?.data;
    drop(guard);
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("vl3-lb"));
    let comment = format!("vl3-lb {}", version::LONG);
    let mut builder = Builder::new(&program.to_string_lossy(), &comment, timing);
    for (stack, count) in stacks {
        let stack = Frames::from(stack);
        let frames = stack.frames.iter();
        let frames = interrupted(frames.map(|frame| frame.iter().map(Names::new).collect()));
        let frames = frames.iter().map(|frame| frame.iter().map(Names::symbol));
        builder.add(&stack.thread_name_or_id(), count as i64, frames);
    }
    Ok(builder.finish().encode_to_vec())
}

/// The frames of what was interrupted: those of the handler, which are innermost, are left out. There is one at least: a frame
/// without a symbol, and a stack whose unwinding failed, are `[unknown]`, so that no sample's time is lost.
fn interrupted(stack: impl Iterator<Item = Vec<Names>>) -> Vec<Vec<Names>> {
    let named = stack.map(|frame| {
        if frame.is_empty() {
            vec![Names::unknown()]
        } else {
            frame
        }
    });
    let mut frames: Vec<_> = named
        .skip_while(|frame| frame.iter().all(Names::is_unwinder))
        .collect();
    if frames.is_empty() {
        frames.push(vec![Names::unknown()]);
    }
    frames
}

/// A symbol's texts.
#[derive(Debug, PartialEq)]
struct Names {
    name: String,
    system_name: String,
    file: String,
    line: u32,
}

impl Names {
    fn new(symbol: &pprof::Symbol) -> Self {
        let file = symbol.filename.as_ref();
        Self {
            name: symbol.name(),
            system_name: symbol.sys_name().into_owned(),
            file: file.map_or_else(String::new, |file| file.to_string_lossy().into_owned()),
            line: symbol.lineno(),
        }
    }

    /// Of code that has no symbol; `perf` has the same name for it.
    fn unknown() -> Self {
        Self {
            name: "[unknown]".to_owned(),
            system_name: "[unknown]".to_owned(),
            file: String::new(),
            line: 0,
        }
    }

    /// Whether it is the handler itself, which takes the sample. Builds in which dependencies have line tables name some of
    /// its functions without their path, but know their files.
    fn is_unwinder(&self) -> bool {
        let path = ["backtrace::", "pprof::", "<pprof::", "_Unwind_"];
        let source = ["/backtrace-", "/pprof-"];
        path.iter().any(|path| self.name.starts_with(path))
            || source.iter().any(|source| self.file.contains(source))
    }

    fn symbol(&self) -> Symbol<'_> {
        Symbol {
            name: &self.name,
            system_name: &self.system_name,
            file: &self.file,
            line: self.line,
        }
    }
}

/// The folder of the file in which `pprof` keeps stacks that are rarer than others. The crate never removes its file.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    /// Creates it, and empties it before the first profile of the process.
    fn ensure(&self) -> io::Result<()> {
        if tempfile::env::override_temp_dir(&self.0).is_ok() {
            self.remove();
        }
        // Each time: the first one may have failed.
        std::fs::create_dir_all(&self.0)
    }

    fn remove(&self) {
        // It is not there in most cases.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, file: &str) -> Names {
        Names {
            name: name.to_owned(),
            file: file.to_owned(),
            ..Names::unknown()
        }
    }

    #[test]
    fn the_handler_is_left_out_and_no_sample_is_without_a_frame() {
        let handler = || vec![names("_Unwind_Backtrace", "")];
        let inlined = || {
            vec![
                names("trace", "/src/pprof-0.15.0/src/profiler.rs"),
                names("pprof::sample", ""),
            ]
        };
        let worker = || vec![names("forward", "worker.rs")];
        let unknown = || vec![Names::unknown()];
        let cases = [
            ("no frame", vec![], vec![unknown()]),
            ("the handler alone", vec![handler(), inlined()], vec![unknown()]),
            (
                "a frame without a symbol",
                vec![handler(), vec![], worker()],
                vec![unknown(), worker()],
            ),
            (
                "a function of the program",
                vec![handler(), inlined(), worker()],
                vec![worker()],
            ),
            (
                "a function that takes a stack itself",
                vec![handler(), worker(), inlined()],
                vec![worker(), inlined()],
            ),
        ];
        for (case, stack, expected) in cases {
            assert_eq!(interrupted(stack.into_iter()), expected, "{case}");
        }
    }
}
