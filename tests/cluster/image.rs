//! The image that deploy/Dockerfile makes.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use vl3lb_tests::balancer::binary;
use vl3lb_tests::netns::must_run;

#[test]
fn the_image_holds_the_program_with_its_libraries_and_nothing_else() {
    let folder = TempDir::with_prefix("vl3lb-image").expect("make a temporary directory");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/dockerfile.sh");
    let output = must_run(Command::new(script).arg(folder.path()).arg(binary()));
    let mut lines: Vec<&str> = output.lines().collect();
    let version = lines.pop().expect("it prints something");
    assert!(version.starts_with("vl3-lb "), "the program starts: {version}");
    let (libraries, others): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| line.contains(".so."));
    assert_eq!(others, ["./usr/local/bin/vl3-lb"]);
    assert!(
        libraries.iter().any(|line| line.contains("libc.so.6")),
        "{libraries:?}"
    );
}
