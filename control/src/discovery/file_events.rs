//! What the kernel tells about a file: inotify(7).
//!
//! Only the events after which a file is complete: it was closed by who wrote it, or it was put in place by a
//! rename, itself or the directory that its symbolic link leads through (a ConfigMap's `..data`). They are told at
//! once; that none is lost is not promised, so whoever follows a file looks at it now and then too.

use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::path::{Component, Path, PathBuf};

use futures_util::StreamExt;
use inotify::{Event, EventMask, EventStream, Inotify, WatchMask};

/// Room for some events with the longest names.
const BUFFER: usize = 4096;

/// Follows one file by its directory. Makes nothing known if the kernel grants no watch.
#[derive(Debug)]
pub(super) struct FileEvents {
    path: PathBuf,
    watch: Option<EventStream<Vec<u8>>>,
}

impl FileEvents {
    /// Follows `path` from now on. Needs a runtime of tokio.
    pub(super) fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            watch: watch(path).ok(),
        }
    }

    /// Waits until the file is complete in another state, perhaps: look at it.
    ///
    /// May be dropped and called again at any time.
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

/// Whether the event is one of `path`, or may be.
fn concerns(event: &Event<OsString>, path: &Path) -> bool {
    event.mask.contains(EventMask::Q_OVERFLOW)
        || event
            .name
            .as_deref()
            .is_some_and(|name| Some(name) == path.file_name() || Some(name) == link_start(path).as_deref())
}

/// The first name on the way that the symbolic link `path` leads, if it is one.
fn link_start(path: &Path) -> Option<OsString> {
    let target = std::fs::read_link(path).ok()?;
    target.components().find_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        _ => None,
    })
}
