//! Text, numbers and what YAML makes of them.

use super::*;

#[test]
fn a_text_that_yaml_reads_as_something_else_is_refused_with_the_remedy() {
    const QUOTE: &str = "; put it in quotes, so that it stays the text that it is";
    const NULL: &str = "; put it in quotes if it is a text, or leave the key out";
    let selector = |value: &str| {
        format!(
            "{{discovery: kubernetes, services: [{{name: a, port: 80, selector: {{app: a, version: {value}}}}}]}}"
        )
    };
    let label = |value: &str, remedy: &str| {
        format!("services[0].selector.version: {value}, allowed the text of a label{remedy}")
    };
    let name = |value: &str| format!("services: [{{name: {value}, port: 80}}]");
    let named =
        |value: &str, remedy: &str| format!("services[0].name: {value}, allowed {}{remedy}", LABEL_FORM);
    for (text, error) in [
        (selector("1.10"), label("the number 1.1", QUOTE)),
        (selector("007"), label("the number 7.0", QUOTE)),
        (selector("12e4"), label("the number 120000.0", QUOTE)),
        (selector("0x1f"), label("the number 31", QUOTE)),
        (selector("true"), label("the boolean true", QUOTE)),
        (selector("~"), label("null", NULL)),
        (selector("null"), label("null", NULL)),
        (name("0x1f"), named("the number 31", QUOTE)),
        (name("12e4"), named("the number 120000.0", QUOTE)),
        (name("true"), named("the boolean true", QUOTE)),
        (name("null"), named("null", NULL)),
        (
            "interface: 7".to_owned(),
            format!(
                "interface: the number 7, allowed {}{QUOTE}",
                names::INTERFACE_FORM
            ),
        ),
        (
            "dns: {zone: 1.10}".to_owned(),
            format!("dns.zone: the number 1.1, allowed {}{QUOTE}", names::ZONE_FORM),
        ),
        (
            "{discovery: kubernetes, kubernetes: {group: 0x1f}, services: []}".to_owned(),
            format!("kubernetes.group: the number 31, allowed {}{QUOTE}", LABEL_FORM),
        ),
        (
            "{discovery: kubernetes, kubernetes: {namespaces: [web, 007]}, services: []}".to_owned(),
            format!("kubernetes.namespaces[1]: the number 7.0, allowed the name of a namespace{QUOTE}"),
        ),
        (
            "{discovery: nsm, networkService: 12e4, services: []}".to_owned(),
            format!("networkService: the number 120000.0, allowed the name of a network service{QUOTE}"),
        ),
    ] {
        let errors = parse(&text).unwrap_err();
        assert!(errors.contains(&error), "{text}: {errors:?} instead of {error}");
    }
}

#[test]
fn text_in_quotes_stays_as_it_is() {
    for value in ["1.10", "007", "12e4", "0x1f", "true", "null"] {
        for quoted in [format!("'{value}'"), format!("\"{value}\"")] {
            let text = format!(
                "{{discovery: kubernetes, services: [{{name: a, port: 80, selector: {{version: {quoted}}}}}]}}"
            );
            let selector = parse(&text).unwrap().services[0].selector.to_string();
            assert_eq!(selector, format!("version={value}"));
        }
    }
    // YAML 1.1 has more words for booleans; here they are text, quoted or not.
    for value in ["no", "off", "yes", "y", "1.10.0", "1h"] {
        let text = format!(
            "{{discovery: kubernetes, services: [{{name: a, port: 80, selector: {{version: {value}}}}}]}}"
        );
        let selector = parse(&text).unwrap().services[0].selector.to_string();
        assert_eq!(selector, format!("version={value}"));
    }
}

#[test]
fn a_quoted_number_is_refused_because_of_its_quotes() {
    for (text, error) in [
        (
            "services: [{name: a, port: '8080'}]",
            "services[0].port: \"8080\" in quotes, allowed 1-65535, without quotes",
        ),
        (
            "{\"services\": [{\"name\": \"a\", \"port\": \"8080\"}]}",
            "services[0].port: \"8080\" in quotes, allowed 1-65535, without quotes",
        ),
        (
            "services: [{name: a, port: 80, targetPort: '81'}]",
            "services[0].targetPort: \"81\" in quotes, allowed 1-65535, or a port name: a-z, 0-9 and -, at most 15, \
             with a letter, without quotes",
        ),
        (
            "services: [{name: a, port: 80, backends: [{address: 10.0.0.1, weight: '5'}]}]",
            "services[0].backends[0].weight: \"5\" in quotes, allowed 0-1000, without quotes",
        ),
        (
            "flows: '1000'",
            "flows: \"1000\" in quotes, allowed 1-268435456, without quotes",
        ),
        (
            "workers: ['1', 2]",
            "workers: [\"1\",2] with quotes, allowed auto, or a list of 1-64 distinct CPU cores, without quotes",
        ),
        (
            "{discovery: kubernetes, kubernetes: {services: 'true'}, services: []}",
            "kubernetes.services: \"true\" in quotes, allowed true, false, without quotes",
        ),
        // No number either way.
        ("flows: '0'", "flows: 0, allowed 1-268435456"),
    ] {
        assert_eq!(parse(text), Err(vec![error.to_owned()]), "{text}");
    }
}
