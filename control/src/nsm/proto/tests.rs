use std::path::Path;

use super::connection::{Connection, ConnectionEvent, Path as ConnectionPath, PathSegment};
use super::workload::{X509svid, X509svidResponse};

/// The file of each generated module, and the name that the generator gives it.
const FILES: [(&str, &str); 5] = [
    ("networkservice.rs", "networkservice.rs"),
    ("connection.rs", "connection.rs"),
    ("connectioncontext.rs", "connectioncontext.rs"),
    ("registry.rs", "registry.rs"),
    // Its package has no name.
    ("workload.rs", "_.rs"),
];

/// `UPDATE_GOLDEN=1 cargo test -p vl3lb-control generated_code` writes the files anew.
#[test]
fn generated_code_follows_from_the_definitions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nsm/proto");
    let definitions = folder.join("definitions");
    let made = tempfile::tempdir().unwrap();
    let mut compiler = protox::Compiler::new([&definitions]).unwrap();
    compiler.include_imports(true).include_source_info(true);
    compiler
        .open_files(
            ["networkservice.proto", "registry.proto", "workload.proto"].map(|file| definitions.join(file)),
        )
        .unwrap();
    tonic_prost_build::configure()
        .out_dir(made.path())
        .build_transport(false)
        .server_mod_attribute(".", "#[cfg(test)]")
        .skip_debug(["connection.PathSegment", "X509SVID"])
        .compile_fds(compiler.file_descriptor_set())
        .unwrap();
    for (file, name) in FILES {
        let made = std::fs::read_to_string(made.path().join(name)).unwrap();
        let checked_in = folder.join("generated").join(file);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&checked_in, &made).unwrap();
        }
        assert!(
            std::fs::read_to_string(&checked_in).unwrap_or_default() == made,
            "{} does not follow from the definitions; UPDATE_GOLDEN=1 writes it anew",
            checked_in.display()
        );
    }
}

#[test]
fn tokens_are_not_in_debug_output() {
    let event = ConnectionEvent {
        connections: [(
            "c1".to_owned(),
            Connection {
                path: Some(ConnectionPath {
                    index: 0,
                    path_segments: vec![
                        PathSegment {
                            name: "client".to_owned(),
                            token: "eyJhbGciOiJFUzI1NiJ9".to_owned(),
                            ..PathSegment::default()
                        },
                        PathSegment::default(),
                    ],
                }),
                ..Connection::default()
            },
        )]
        .into(),
        ..ConnectionEvent::default()
    };
    for text in [format!("{event:?}"), format!("{event:#?}")] {
        assert!(!text.contains("eyJ"), "{text}");
        assert!(text.contains("\"client\""), "{text}");
        assert!(text.contains("token: redacted"), "{text}");
        assert!(text.contains("token: none"), "{text}");
    }
}

#[test]
fn private_keys_are_not_in_debug_output() {
    let response = X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: "spiffe://k8s.nsm/ns/a/pod/b".to_owned(),
            x509_svid_key: vec![201, 202, 203],
            ..X509svid::default()
        }],
        ..X509svidResponse::default()
    };
    let text = format!("{response:?}");
    assert!(!text.contains("201"), "{text}");
    assert!(text.contains("x509_svid_key: redacted"), "{text}");
}
