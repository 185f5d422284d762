//! A file that cannot be read, or is no YAML.

use super::*;

#[test]
fn text_that_is_not_yaml_is_refused_with_its_place() {
    for text in [
        "services: [",
        "a: b: c",
        "mode: auto\nmode: auto",
        "- just\n- a list",
        "word",
        "",
        "# nothing",
    ] {
        let refused = parse(text).unwrap_err();
        assert_eq!(refused.len(), 1, "{text}: {refused:?}");
        assert!(!refused[0].contains('\n'), "{refused:?}");
        assert!(
            !refused[0].contains("Options"),
            "no advice for programs: {refused:?}"
        );
    }
    let refused = parse("mode: auto\nservices: [").unwrap_err();
    assert!(
        refused[0].starts_with("lb.yaml: ") && refused[0].contains("line 2"),
        "{refused:?}"
    );
}

#[test]
fn a_file_that_is_missing_is_refused_by_name() {
    let refused = Config::load(Some(Path::new("/nonexistent/lb.yaml")), &no_env).unwrap_err();
    assert_eq!(
        join(&refused),
        "/nonexistent/lb.yaml: cannot be read: No such file or directory (os error 2), allowed a readable \
         YAML file"
    );
}

#[test]
fn nothing_configured_at_all_is_refused() {
    assert_eq!(
        with_env(None, &[]),
        Err(vec![
            "configuration: missing, allowed --config FILE, or NSM_PORT for one service".to_owned()
        ])
    );
}
