//! Compiles the BPF programs with clang.

use std::path::{Path, PathBuf};
use std::process::Command;

const STEER: &str = "bpf/steer.bpf.c";
/// For measurements only, as the next one.
const REDIRECT: &str = "bpf/redirect.bpf.c";
const FLOOD_FILTER: &str = "bpf/flood_filter.bpf.c";
const SOURCES: [&str; 12] = [
    STEER,
    REDIRECT,
    FLOOD_FILTER,
    "bpf/classify.h",
    "bpf/fastpath.h",
    "bpf/fastpath_maps.h",
    "bpf/fastpath_packet.h",
    "bpf/local.h",
    "bpf/owner.h",
    "bpf/packet.h",
    "bpf/shed.h",
    "bpf/steer.h",
];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    compile(STEER, "steer.bpf.o");
    // Cargo sets a variable for each feature, which may be empty.
    if std::env::var_os("CARGO_FEATURE_TESTING").is_some() {
        compile(REDIRECT, "redirect.bpf.o");
        compile(FLOOD_FILTER, "flood_filter.bpf.o");
    }
}

fn compile(source: &str, object: &str) {
    let object = PathBuf::from(variable("OUT_DIR")).join(object);
    let mut clang = Command::new("clang");
    clang.args([
        "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror",
    ]);
    // Without CAP_PERFMON the kernel refuses a program that writes a number over part of a stack slot in which
    // it kept a pointer; two values never share a slot then.
    clang.args(["-mllvm", "-no-stack-slot-sharing"]);
    // linux/types.h includes asm/types.h, which Debian keeps in a folder of the architecture that
    // clang does not search for the BPF target.
    let architecture_headers = format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH"));
    if Path::new(&architecture_headers).is_dir() {
        clang.args(["-idirafter", &architecture_headers]);
    }
    clang.args(["-c", source, "-o"]).arg(&object);
    let output = clang.output().unwrap_or_else(|error| {
        panic!("run clang to compile {source}: {error}; install it: apt-get install clang libbpf-dev")
    });
    assert!(
        output.status.success(),
        "clang could not compile {source}; it needs the headers of libbpf and Linux: \
         apt-get install libbpf-dev linux-libc-dev\n{clang:?}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|error| panic!("cargo sets {name}: {error}"))
}
