//! Certificates for servers of tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// The name in the certificates.
pub(crate) const NAME: &str = "finance.example";

/// An authority and a certificate of it for [`NAME`], by OpenSSL.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    /// Makes both.
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let request = |name: &str, arguments: &[&str]| {
            let mut command = Command::new("openssl");
            command
                .arg("req")
                .arg("-x509")
                .args(key)
                .args(["-days", "2"])
                .args(arguments);
            let files =
                ["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")].map(str::to_owned);
            run(command.args(files).current_dir(folder.path()));
        };
        request("ca", &["-subj", &format!("/CN={name}")]);
        let names = format!("subjectAltName=DNS:{NAME}");
        request(
            "leaf",
            &[
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-subj",
                "/CN=leaf",
                "-addext",
                &names,
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ],
        );
        Self { folder }
    }

    /// The folder of `leaf.pem` and `leaf.key`, the certificate and its key.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The authority's certificate.
    pub(crate) fn pem(&self) -> String {
        read(&self.folder.path().join("ca.pem"))
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

fn run(command: &mut Command) {
    let output = command.output().expect("run openssl");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}
