//! A file that cannot be read, or is no YAML.

use super::*;

#[test]
fn invalid_yaml_is_rejected_with_its_line() {
    for text in [
        "services: [",
        "a: b: c",
        "mode: auto\nmode: auto",
        "- just\n- a list",
        "word",
        "",
        "# nothing",
    ] {
        let rejected = parse(text).unwrap_err();
        assert_eq!(rejected.len(), 1, "{text}: {rejected:?}");
        assert!(!rejected[0].contains('\n'), "{rejected:?}");
        assert!(
            !rejected[0].contains("Options"),
            "no advice for programs: {rejected:?}"
        );
    }
    let rejected = parse("mode: auto\nservices: [").unwrap_err();
    assert!(
        rejected[0].starts_with("lb.yaml: ") && rejected[0].contains("line 2"),
        "{rejected:?}"
    );
}

#[test]
fn a_missing_file_is_rejected_by_name() {
    let rejected = Config::load(Some(Path::new("/nonexistent/lb.yaml")), &no_env).unwrap_err();
    assert_eq!(
        join_errors(&rejected),
        "/nonexistent/lb.yaml: cannot be read: No such file or directory (os error 2), allowed a readable \
         YAML file"
    );
}

#[test]
fn an_empty_configuration_is_rejected() {
    assert_eq!(
        with_env(None, &[]),
        Err(vec![
            "configuration: missing, allowed --config FILE, or NSM_PORT for one service".to_owned()
        ])
    );
}

#[test]
fn all_errors_come_at_once() {
    let rejected =
        parse("{mode: fast, flows: 0, sevices: [], services: [{name: a, port: 0, drain: x}]}").unwrap_err();
    let fields: Vec<_> = rejected
        .iter()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "sevices",
            "mode",
            "flows",
            "services[0].port",
            "services[0].drain"
        ]
    );
}
