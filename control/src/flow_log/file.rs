//! A file of lines that is rotated by size: `flows.jsonl`, then `flows.jsonl.1`, the newest of the older ones, and so on.
//!
//! The crates for rotation lose lines without an error while the file cannot be opened (file-rotate 0.8), or rotate by time
//! alone (tracing-appender 0.2). Here each line is written, or its loss is an error.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config::FlowLogFile;

/// Addresses of clients are nobody else's business.
const MODE: u32 = 0o640;

/// Standard output, or a file that is rotated.
#[derive(Debug)]
pub(super) struct LineFile {
    target: FlowLogFile,
    rotated: Option<Rotated>,
}

impl LineFile {
    /// Opens the file for appending. One longer than `limit` bytes is rotated, and `keep` older ones are kept.
    pub(super) fn open(target: FlowLogFile, limit: u64, keep: u32) -> io::Result<Self> {
        let rotated = match &target {
            FlowLogFile::Stdout => None,
            FlowLogFile::Path(path) => Some(Rotated::open(path, limit, keep)?),
        };
        Ok(Self { target, rotated })
    }

    /// Where the lines go.
    pub(super) const fn target(&self) -> &FlowLogFile {
        &self.target
    }

    /// Writes whole lines.
    ///
    /// # Errors
    /// None of them is in the file. The next call tries again.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.rotated {
            Some(rotated) => rotated.write(lines),
            None => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
        }
    }
}

#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    limit: u64,
    keep: u32,
    /// `None` after an error: it is opened again, as the disk, folder or file may be another one by then.
    open: Option<(File, u64)>,
}

impl Rotated {
    fn open(path: &Path, limit: u64, keep: u32) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            limit,
            keep,
            open: Some(append(path)?),
        })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let (mut file, mut size) = match self.open.take() {
            Some(open) => open,
            None => append(&self.path)?,
        };
        if size > 0 && size + lines.len() as u64 > self.limit {
            self.rotate()?;
            (file, size) = append(&self.path)?;
        }
        if let Err(error) = file.write_all(lines) {
            // No half line stays for the next one to be appended to.
            file.set_len(size).ok();
            return Err(error);
        }
        self.open = Some((file, size + lines.len() as u64));
        Ok(())
    }

    /// Renames each file to the next number; the oldest one is replaced.
    fn rotate(&self) -> io::Result<()> {
        for number in (0..self.keep).rev() {
            match std::fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// `flows.jsonl.2`; number 0 is the file itself.
    fn numbered(&self, number: u32) -> PathBuf {
        if number == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Opens a file for appending; with its size.
fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(MODE)
        .open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, limit: u64, keep: u32) -> LineFile {
        LineFile::open(FlowLogFile::Path(folder.join("flows.jsonl")), limit, keep).unwrap()
    }

    fn read(folder: &Path, name: &str) -> Option<String> {
        std::fs::read_to_string(folder.join(name)).ok()
    }

    #[test]
    fn a_full_file_is_rotated_and_the_oldest_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(folder.path(), 10, 2);
        for line in [
            "aaaa\n",
            "bbbb\n",
            "cccc\n",
            "a line longer than the limit\n",
            "dddd\n",
        ] {
            file.write(line.as_bytes()).unwrap();
        }
        assert_eq!(read(folder.path(), "flows.jsonl").as_deref(), Some("dddd\n"));
        assert_eq!(
            read(folder.path(), "flows.jsonl.1").as_deref(),
            Some("a line longer than the limit\n")
        );
        assert_eq!(read(folder.path(), "flows.jsonl.2").as_deref(), Some("cccc\n"));
        assert_eq!(read(folder.path(), "flows.jsonl.3"), None);
        // A restart goes on with the same file.
        drop(file);
        open(folder.path(), 10, 2).write(b"eeee\n").unwrap();
        assert_eq!(
            read(folder.path(), "flows.jsonl").as_deref(),
            Some("dddd\neeee\n")
        );
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_until_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("logs");
        std::fs::create_dir(&inner).unwrap();
        let mut file = open(&inner, 10, 2);
        file.write(b"aaaaaaaa\n").unwrap();
        std::fs::remove_dir_all(&inner).unwrap();
        // It would be rotated, but its folder is gone.
        assert!(file.write(b"bbbbbbbb\n").is_err());
        assert!(file.write(b"cccccccc\n").is_err());
        std::fs::create_dir(&inner).unwrap();
        file.write(b"dddddddd\n").unwrap();
        assert_eq!(read(&inner, "flows.jsonl").as_deref(), Some("dddddddd\n"));
    }
}
