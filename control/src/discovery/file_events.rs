//! Notifications that a file was written or replaced: inotify(7).
//!
//! Only events after which the file is complete count: its writer closed it, or a rename put it in place, or put the
//! directory in place that its symbolic link leads through (a ConfigMap's `..data`). Events may be lost, so callers poll
//! the file as well.

use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::path::{Component, Path, PathBuf};

use futures_util::StreamExt;
use inotify::{Event, EventMask, EventStream, Inotify, WatchMask};

/// Room for some events with the longest names.
const BUFFER: usize = 4096;

/// Follows one file by its directory. Silent if the kernel grants no watch.
#[derive(Debug)]
pub(super) struct FileEvents {
    path: PathBuf,
    watch: Option<EventStream<Vec<u8>>>,
}

impl FileEvents {
    /// Follows `path` from now on. Call it in a tokio runtime.
    pub(super) fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            watch: watch(path).ok(),
        }
    }

    /// Waits until the file may be complete in another state. Cancel-safe.
    pub(super) async fn next(&mut self) {
        loop {
            let Some(watch) = &mut self.watch else {
                return pending().await;
            };
            match watch.next().await {
                Some(Ok(event)) if concerns(&event, &self.path) => return,
                Some(Ok(_)) => {}
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(_)) | None => self.watch = None,
            }
        }
    }
}

fn watch(path: &Path) -> io::Result<EventStream<Vec<u8>>> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let inotify = Inotify::init()?;
    inotify
        .watches()
        .add(directory, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO)?;
    inotify.into_event_stream(vec![0; BUFFER])
}

/// Whether the event may concern `path`.
fn concerns(event: &Event<OsString>, path: &Path) -> bool {
    event.mask.contains(EventMask::Q_OVERFLOW)
        || event
            .name
            .as_deref()
            .is_some_and(|name| Some(name) == path.file_name() || Some(name) == link_start(path).as_deref())
}

/// The first component of the target of `path`, if that is a symbolic link.
fn link_start(path: &Path) -> Option<OsString> {
    let target = std::fs::read_link(path).ok()?;
    target.components().find_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        _ => None,
    })
}
