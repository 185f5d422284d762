//! The image of deploy/Dockerfile.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use vl3lb_testbed::{OrPanic, process};
use vl3lb_tests::balancer::binary;

#[test]
fn the_image_holds_the_program_with_its_libraries_and_a_list_of_its_parts() {
    check("vl3-lb");
}

/// With the balancer's binary in place of the load generator's: the test is about the layout of the image.
#[test]
fn the_load_generators_image_has_the_same_layout() {
    check("vl3-perf");
}

fn check(program: &str) {
    let folder = TempDir::with_prefix("vl3lb-image").expect("make a temporary directory");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("api_server/dockerfile.sh");
    let output = process::run(Command::new(script).arg(folder.path()).arg(program).arg(binary())).or_panic();
    let mut lines: Vec<&str> = output.lines().collect();
    let version = lines.pop().expect("it prints something");
    assert!(version.starts_with("vl3-lb "), "the program starts: {version}");
    let (files, labels): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(|line| line.starts_with("./"));
    let labels: HashMap<&str, &str> = labels.iter().filter_map(|label| label.split_once('=')).collect();
    for (name, value) in [
        ("title", program),
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", "0123abc"),
        ("licenses", "Apache-2.0"),
    ] {
        let name = format!("org.opencontainers.image.{name}");
        assert_eq!(labels.get(name.as_str()), Some(&value), "{name}");
    }
    let (libraries, others): (Vec<&str>, Vec<&str>) = files.iter().partition(|line| line.contains(".so."));
    let wanted = [
        format!("./usr/local/bin/{program}"),
        format!("./usr/share/doc/{program}/sbom.cdx.json"),
    ];
    assert_eq!(others, wanted);
    assert_eq!(
        labels.get("sbom"),
        Some(&"pkg:cargo/aya pkg:deb/debian/libstandin@1.0-2?arch=amd64"),
        "crates and Debian packages"
    );
    assert_eq!(labels.get("io.vl3-lb.image.builder"), Some(&"localhost/builder"));
    assert!(
        libraries.iter().any(|line| line.contains("libc.so.6")),
        "{libraries:?}"
    );
}
