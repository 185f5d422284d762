//! Everything under deploy/ that is for an API server is accepted by one.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use vl3lb_tests::api_server::{ApiServer, program};
use vl3lb_tests::netns::{Netns, must_run};

#[test]
fn the_api_server_accepts_everything_below_deploy() {
    let place = Netns::new("api-server");
    let server = ApiServer::start(&place, std::net::Ipv4Addr::LOCALHOST.into());
    let folders = kustomizations();
    assert!(!folders.is_empty(), "no kustomization below deploy/");
    for folder in folders {
        let manifests = must_run(Command::new(program("kubectl")).arg("kustomize").arg(&folder));
        accept(&server, &folder.display().to_string(), &manifests);
    }
}

/// Has the server validate `manifests`, with its schemas, without storing them.
fn accept(server: &ApiServer<'_>, name: &str, manifests: &str) {
    // Objects are refused where their namespace is not there; those of this dry run are not.
    let arguments = [
        "create",
        "--dry-run=client",
        "--output=json",
        "--filename=-",
        "--validate=false",
    ];
    let objects = server.must_kubectl(&arguments, manifests);
    for object in serde_json::Deserializer::from_str(&objects).into_iter::<Value>() {
        let object = object.expect("kubectl prints JSON");
        if object["kind"] == "Namespace" {
            server.must_kubectl(&["apply", "--filename=-"], &object.to_string());
        }
    }
    let arguments = ["apply", "--dry-run=server", "--validate=strict", "--filename=-"];
    let output = server.kubectl(&arguments, manifests);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    assert!(errors.is_empty(), "{name}: warnings: {errors}");
}

/// The folders below deploy/ with a kustomization of their own; components belong to others.
fn kustomizations() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")];
    while let Some(folder) = folders.pop() {
        let file = folder.join("kustomization.yaml");
        if let Ok(text) = std::fs::read_to_string(&file)
            && !text.contains("kind: Component")
        {
            found.push(folder.clone());
        }
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        folders.extend(
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.is_dir()),
        );
    }
    found.sort();
    found
}
