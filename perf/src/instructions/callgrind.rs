//! One run of this program under valgrind's callgrind.

use std::process::{Command, Stdio};

use crate::failure::Failure;

/// What is counted: the packet logic, and what it calls.
const COUNTED: &str = "*forward_burst*";
/// The C library picks its copying routines by the processor. Without these features it picks the same ones
/// everywhere, so that counts of two machines can be compared (glibc manual, "Hardware Capability Tunables").
const TUNABLES: &str =
    "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX2_Usable,-ERMS,-FSRM,-AVX_Fast_Unaligned_Load";

/// Instructions in the packet logic while it handles `packets` packets of one kind, and the opening of the flows
/// before.
pub(super) fn count(kind: &str, packets: u32) -> Result<u64, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("count instructions of {kind} with valgrind: {error}"))
    };
    let own = std::env::current_exe().map_err(|error| failed(&error))?;
    let file = std::env::temp_dir().join(format!("vl3-perf-callgrind-{}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(own)
        .args(["work", "--kind", kind, "--packets", &packets.to_string()])
        .env("GLIBC_TUNABLES", TUNABLES)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(&error))?;
    let result = std::fs::read_to_string(&file);
    // Only there if valgrind came to an end.
    std::fs::remove_file(&file).ok();
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = result.map_err(|error| failed(&error))?;
    parse(&text)
        .filter(|&count| count > 0)
        .ok_or_else(|| failed(&format!("nothing was counted; is {COUNTED} still a function?")))
}

/// The sum over all functions: `totals: 12345`, or `summary:` before valgrind 3.23.
fn parse(text: &str) -> Option<u64> {
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    value("totals:").or_else(|| value("summary:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read() {
        let text = "version: 1\nevents: Ir\nsummary: 7\n\nfn=(1) f\n1 2\n\ntotals: 12345\n";
        assert_eq!(parse(text), Some(12345));
        assert_eq!(parse("summary: 7\n"), Some(7));
        assert_eq!(parse("events: Ir\n"), None);
    }
}
