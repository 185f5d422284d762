//! Start of the cluster: an interrupted start leaves nothing behind, a second start and one without Go are errors.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;
use vl3lb_testbed::{OrPanic, process};
use vl3lb_tests::balancer::binary;
use vl3lb_tests::client::text;
use vl3lb_tests::cluster::{Cluster, script_path};

/// Kernel parameters that a kubelet changes for the whole machine.
const SETTINGS: [&str; 4] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
];

#[test]
fn an_interrupted_start_leaves_nothing_behind() {
    Cluster::without(|| {
        let before = traces();
        for step in ["control plane", "images", "nodes"] {
            let rest = start_until("--bare", step, |pid| {
                // As Ctrl-C.
                kill_process_group(pid, Signal::INT).expect("interrupt the script");
            });
            assert!(rest.contains("remove the cluster"), "{step}: {rest}");
            assert_eq!(traces(), before, "stopped at: {step}");
        }
        for (content, step) in [("--bare", "nodes"), ("--mesh", "Network Service Mesh")] {
            start_until(content, step, |pid| {
                kill_process(pid, Signal::KILL).expect("kill the script");
            });
            process::run(Command::new(script_path()).arg("down")).or_panic();
            assert_eq!(traces(), before, "killed at {step}, and then removed");
        }
    });
}

#[test]
fn a_second_start_is_an_error() {
    Cluster::shared();
    let output = Command::new(script_path())
        .arg("up")
        .arg(binary())
        .output()
        .expect("run cluster.sh");
    let errors = text(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("the cluster is up already"), "{errors}");
}

#[test]
fn without_go_the_error_says_how_to_install_it() {
    let folder = TempDir::new().expect("make a temporary directory");
    let programs = folder.path().join("programs");
    std::fs::create_dir(&programs).expect("make a directory");
    let path = std::env::var_os("PATH").expect("PATH is set");
    let folders = std::env::split_paths(&path).filter_map(|folder| std::fs::read_dir(folder).ok());
    for program in folders.flatten().flatten() {
        if program.file_name() != "go" {
            // Of two with one name the first is meant.
            symlink(program.path(), programs.join(program.file_name())).ok();
        }
    }
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../run"))
        .args(["cluster", "up"])
        .env("PATH", &programs)
        .env("XDG_CACHE_HOME", folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("run ./run");
    let errors = text(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for word in ["Go is missing", "install Go", "https://go.dev/dl"] {
        assert!(errors.contains(word), "{errors}");
    }
}

/// Starts the cluster, calls `act` with the script's id when it begins `step`, and waits for its end. Returns its
/// output after that.
fn start_until(content: &str, step: &str, act: impl FnOnce(Pid)) -> String {
    // Background jobs of a script ignore SIGINT, and so do their children.
    let mut child = Command::new("env")
        .arg("--default-signal=INT")
        .arg(script_path())
        .arg("up")
        .arg(binary())
        .arg(content)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("run cluster.sh");
    let output = child.stdout.take().expect("stdout is piped");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let begins = format!("==> {step}:");
    assert!(
        lines.any(|line| line.starts_with(&begins)),
        "{step} did not begin"
    );
    act(Pid::from_raw(child.id().cast_signed()).expect("a process id"));
    let rest: Vec<String> = lines.collect();
    assert!(
        !child.wait().expect("it ends").success(),
        "{step}: it ended with success"
    );
    rest.join("\n")
}

/// Everything of a cluster beside its processes: namespaces, mounts, cgroups, folders, kernel parameters.
fn traces() -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    traces.extend(
        namespaces
            .map(|entry| entry.path().display().to_string())
            .filter(|path| path.contains("/vl3cluster-") || path.contains("/cni-")),
    );
    let mounts = std::fs::read_to_string("/proc/mounts").expect("read the mounts");
    for mount in mounts.lines() {
        let mut words = mount.split(' ').skip(1);
        let (point, kind) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if point.contains("/vl3-lb-cluster/") {
            traces.insert(format!("mounted: {point}"));
        }
        if kind.starts_with("cgroup") && Path::new(point).join("vl3-lb-cluster").exists() {
            traces.insert(format!("cgroup in {point}"));
        }
    }
    for folder in [
        "/run/vl3-lb-cluster",
        "/run/containerd",
        "/run/spire",
        "/usr/libexec/kubernetes",
        "/var/lib/cni",
        "/var/lib/kubelet",
        "/var/lib/networkservicemesh",
        "/var/lib/vl3-lb-cluster",
        "/var/log/containers",
        "/var/log/pods",
    ] {
        if Path::new(folder).exists() {
            traces.insert(folder.to_owned());
        }
    }
    for setting in SETTINGS {
        let value = std::fs::read_to_string(format!("/proc/sys/{setting}")).expect("read a kernel setting");
        traces.insert(format!("{setting} = {}", value.trim_end()));
    }
    traces
}
