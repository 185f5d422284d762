//! One run of this program under valgrind's callgrind.

use std::process::{Command, Stdio};

use super::error::CountError;

/// The function whose instructions are counted, with those that it calls: the packet logic.
const COUNTED: &str = "*forward_burst*";
/// The C library selects its copying routines by the processor. Without these features it selects the same ones
/// everywhere, so that counts of two machines are comparable (glibc manual, "Hardware Capability Tunables").
const TUNABLES: &str =
    "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX2_Usable,-ERMS,-FSRM,-AVX_Fast_Unaligned_Load";

/// Instructions in the packet logic for `packets` packets of one kind, and for opening the flows before.
pub(super) fn count(kind: &str, packets: u32) -> Result<u64, CountError> {
    let failed = |cause| CountError::Run {
        kind: kind.to_owned(),
        cause,
    };
    let own = std::env::current_exe().map_err(failed)?;
    let file = tempfile::NamedTempFile::new().map_err(failed)?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", file.path().display()))
        .arg(own)
        .args(["work", "--kind", kind, "--packets", &packets.to_string()])
        .env("GLIBC_TUNABLES", TUNABLES)
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    if !output.status.success() {
        return Err(CountError::Failed {
            kind: kind.to_owned(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    let text = std::fs::read_to_string(file.path()).map_err(failed)?;
    let total = parse(&text).filter(|&count| count > 0);
    total.ok_or_else(|| CountError::Nothing {
        kind: kind.to_owned(),
        function: COUNTED,
    })
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
