//! The packet path has no lock.

use std::path::Path;

/// The folders with the code that runs for packets.
const FOLDERS: [&str; 5] = ["fastpath", "flow", "packet", "pipeline", "worker"];
const LOCKS: [&str; 6] = ["Mutex", "RwLock", "Condvar", "Barrier", "OnceLock", ".lock()"];

/// Calls `look` with each source file that is not a test's; their number.
fn sources(folder: &Path, look: &mut impl FnMut(&Path, &str)) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("tests") || path.ends_with("tests.rs") {
            continue;
        }
        if path.is_dir() {
            count += sources(&path, look);
        } else {
            look(&path, &std::fs::read_to_string(&path).unwrap());
            count += 1;
        }
    }
    count
}

#[test]
fn the_packet_path_has_no_lock() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut count = 0;
    for folder in FOLDERS {
        count += sources(&top.join(folder), &mut |path, text| {
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                let lock = LOCKS.iter().find(|lock| line.contains(**lock));
                assert_eq!(lock, None, "{}: {line}", path.display());
            }
        });
    }
    assert!(count > 80, "{count} files are not all");
}
